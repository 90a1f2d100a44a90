// Integer products of a few rows with one panel of 64 columns: exact on every path, in whatever order.
//
// kOffset is added to activations where they are stored: AVX-512's instruction takes unsigned ones.
#pragma once
#include "lanes.h"

namespace SEGUE_PATH {

#if defined(__AVX512VNNI__)

constexpr int kOffset = 128;
constexpr int kMostRows = 6;  // 24 sums, 4 weights and one activation fill the 32 registers

template <int M>
static inline void dots(const uint8_t* q, size_t stride, const int8_t* w, int quads, int32_t (*out)[kPanel]) {
  __m512i acc[M][4];
  SEGUE_UNROLL
  for (int m = 0; m < M; m++)
    SEGUE_UNROLL
    for (int j = 0; j < 4; j++) acc[m][j] = _mm512_setzero_si512();
  for (int k = 0; k < quads; k++, w += 4 * kPanel, q += 4) {
    __m512i v[4];
    SEGUE_UNROLL
    for (int j = 0; j < 4; j++) {
      v[j] = _mm512_loadu_si512(w + 64 * j);
      // weights come from memory once a step; asking early keeps both cores' queues full
      if (M <= 4) _mm_prefetch((const char*)(w + 64 * j + 4096), _MM_HINT_T0);
    }
    SEGUE_UNROLL
    for (int m = 0; m < M; m++) {
      int32_t four;
      memcpy(&four, q + m * stride, 4);
      const __m512i a = _mm512_set1_epi32(four);
      SEGUE_UNROLL
      for (int j = 0; j < 4; j++) acc[m][j] = _mm512_dpbusd_epi32(acc[m][j], a, v[j]);
    }
  }
  SEGUE_UNROLL
  for (int m = 0; m < M; m++)
    SEGUE_UNROLL
    for (int j = 0; j < 4; j++) _mm512_storeu_si512(out[m] + 16 * j, acc[m][j]);
}

// Q queries in two parts, 64 * high + low, [Q][2][width], with B blocks of keys of 16 places each, [width/4][16][4].
template <int Q, int B>
static inline void place_dots(const int8_t* q, int width, const uint8_t* keys, size_t block, int32_t (*out)[B][kLane]) {
  __m512i high[Q][B], low[Q][B];
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    SEGUE_UNROLL
    for (int b = 0; b < B; b++) high[i][b] = low[i][b] = _mm512_setzero_si512();
  for (int d = 0; d < width; d += 4) {
    __m512i upper[Q], lower[Q];
    SEGUE_UNROLL
    for (int i = 0; i < Q; i++) {
      int32_t four[2];
      memcpy(&four[0], q + 2 * i * width + d, 4);
      memcpy(&four[1], q + (2 * i + 1) * width + d, 4);
      upper[i] = _mm512_set1_epi32(four[0]);
      lower[i] = _mm512_set1_epi32(four[1]);
    }
    SEGUE_UNROLL
    for (int b = 0; b < B; b++) {
      const uint8_t* at = keys + b * block + d * kLane;
      const __m512i k = _mm512_loadu_si512(at);
      if (Q == 1) _mm_prefetch((const char*)(at + B * block), _MM_HINT_T0);
      SEGUE_UNROLL
      for (int i = 0; i < Q; i++) {
        high[i][b] = _mm512_dpbusd_epi32(high[i][b], k, upper[i]);
        low[i][b] = _mm512_dpbusd_epi32(low[i][b], k, lower[i]);
      }
    }
  }
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    SEGUE_UNROLL
    for (int b = 0; b < B; b++)
      _mm512_storeu_si512(out[i][b], _mm512_add_epi32(_mm512_slli_epi32(high[i][b], 6), low[i][b]));
}

#elif defined(__AVX2__)

constexpr int kOffset = 0;
constexpr int kMostRows = 4;

template <int M>
static inline void dots(const uint8_t* q, size_t stride, const int8_t* w, int quads, int32_t (*out)[kPanel]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int part = 0; part < kPanel; part += 16) {
    __m256i acc[M][2];
    SEGUE_UNROLL
    for (int m = 0; m < M; m++) acc[m][0] = acc[m][1] = _mm256_setzero_si256();
    for (int k = 0; k < quads; k++) {
      const int8_t* at = w + (size_t)k * 4 * kPanel + 4 * part;
      _mm_prefetch((const char*)(at + 4096), _MM_HINT_T0);
      const __m256i v[2] = {_mm256_loadu_si256((const __m256i*)at), _mm256_loadu_si256((const __m256i*)(at + 32))};
      const __m256i size[2] = {_mm256_abs_epi8(v[0]), _mm256_abs_epi8(v[1])};
      SEGUE_UNROLL
      for (int m = 0; m < M; m++) {
        int32_t four;
        memcpy(&four, q + m * stride + 4 * k, 4);
        const __m256i a = _mm256_set1_epi32(four);
        SEGUE_UNROLL
        for (int j = 0; j < 2; j++) {
          // both factors are 127 at most: a pair's sum fits into 16 bits
          const __m256i pairs = _mm256_maddubs_epi16(size[j], _mm256_sign_epi8(a, v[j]));
          acc[m][j] = _mm256_add_epi32(acc[m][j], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < 2; j++) _mm256_storeu_si256((__m256i*)(out[m] + part + 8 * j), acc[m][j]);
  }
}

template <int Q, int B>
static inline void place_dots(const int8_t* q, int width, const uint8_t* keys, size_t block, int32_t (*out)[B][kLane]) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (int i = 0; i < Q; i++)
    for (int b = 0; b < B; b++)
      for (int part = 0; part < kLane; part += 8) {
        __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
        for (int d = 0; d < width; d += 4) {
          const __m256i k = _mm256_loadu_si256((const __m256i*)(keys + b * block + d * kLane + 4 * part));
          SEGUE_UNROLL
          for (int j = 0; j < 2; j++) {
            int32_t four;
            memcpy(&four, q + (2 * i + j) * width + d, 4);
            const __m256i a = _mm256_set1_epi32(four);
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(k, a));
            sums[j] = _mm256_add_epi32(sums[j], _mm256_madd_epi16(pairs, ones));
          }
        }
        const __m256i total = _mm256_add_epi32(_mm256_slli_epi32(sums[0], 6), sums[1]);
        _mm256_storeu_si256((__m256i*)(out[i][b] + part), total);
      }
}

#elif defined(SEGUE_NEON)

constexpr int kOffset = 0;

// four activations for each of four columns
static inline int8x16_t repeated(const uint8_t* at) {
  int32_t four;
  memcpy(&four, at, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

#if defined(__ARM_FEATURE_DOTPROD)

constexpr int kMostRows = 6;  // 24 sums, 6 activations and one weight of the 32 registers

template <int M>
static inline void dots(const uint8_t* q, size_t stride, const int8_t* w, int quads, int32_t (*out)[kPanel]) {
  constexpr int kVectors = M == 1 ? 16 : M <= 3 ? 8 : 4;  // of four columns: what is summed in one pass
  for (int part = 0; part < kPanel; part += 4 * kVectors) {
    int32x4_t acc[M][kVectors];
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kVectors; j++) acc[m][j] = vdupq_n_s32(0);
    for (int k = 0; k < quads; k++) {
      const int8_t* at = w + (size_t)k * 4 * kPanel + 4 * part;
      int8x16_t a[M];
      SEGUE_UNROLL
      for (int m = 0; m < M; m++) a[m] = repeated(q + m * stride + 4 * k);
      SEGUE_UNROLL
      for (int j = 0; j < kVectors; j++) {
        if (M <= 4 && j % 4 == 0) __builtin_prefetch(at + 16 * j + 4096);
        const int8x16_t v = vld1q_s8(at + 16 * j);
        SEGUE_UNROLL
        for (int m = 0; m < M; m++) acc[m][j] = vdotq_s32(acc[m][j], v, a[m]);
      }
    }
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kVectors; j++) vst1q_s32(out[m] + part + 4 * j, acc[m][j]);
  }
}

template <int Q, int B>
static inline void place_dots(const int8_t* q, int width, const uint8_t* keys, size_t block, int32_t (*out)[B][kLane]) {
  constexpr int kTogether = Q % 2 ? 1 : 2;  // queries: 16 sums, 4 keys and 4 parts of queries
  for (int b = 0; b < B; b++)
    for (int first = 0; first < Q; first += kTogether) {
      int32x4_t sums[kTogether][2][4];
      SEGUE_UNROLL
      for (int n = 0; n < 8 * kTogether; n++) sums[n / 8][n / 4 % 2][n % 4] = vdupq_n_s32(0);
      for (int d = 0; d < width; d += 4) {
        const int8_t* at = (const int8_t*)keys + b * block + d * kLane;
        int8x16_t k[4];
        SEGUE_UNROLL
        for (int j = 0; j < 4; j++) k[j] = vld1q_s8(at + 16 * j);
        SEGUE_UNROLL
        for (int n = 0; n < 2 * kTogether; n++) {
          const int8x16_t a = repeated((const uint8_t*)q + (2 * first + n) * width + d);
          SEGUE_UNROLL
          for (int j = 0; j < 4; j++) sums[n / 2][n % 2][j] = vdotq_s32(sums[n / 2][n % 2][j], k[j], a);
        }
      }
      SEGUE_UNROLL
      for (int i = 0; i < kTogether; i++)
        SEGUE_UNROLL
        for (int j = 0; j < 4; j++)
          vst1q_s32(out[first + i][b] + 4 * j, vaddq_s32(vshlq_n_s32(sums[i][0][j], 6), sums[i][1][j]));
    }
}

#else

constexpr int kMostRows = 4;  // 16 sums, 8 activations and two weights of the 32 registers

// sums += products of eight numbers in two lots, four to a sum. All are 127 at most: two products fit into 16 bits.
static inline void add_products(int32x4_t (&sums)[2], int8x16_t v, int8x16_t a, int8x16_t next_v, int8x16_t next_a) {
  const int16x8_t low =
      vmlal_s8(vmull_s8(vget_low_s8(v), vget_low_s8(a)), vget_low_s8(next_v), vget_low_s8(next_a));
  const int16x8_t high = vmlal_high_s8(vmull_high_s8(v, a), next_v, next_a);
  sums[0] = vpadalq_s16(sums[0], low);
  sums[1] = vpadalq_s16(sums[1], high);
}

template <int M>
static inline void dots(const uint8_t* q, size_t stride, const int8_t* w, int quads, int32_t (*out)[kPanel]) {
  constexpr int kVectors = M == 1 ? 8 : M == 2 ? 4 : 2;
  for (int part = 0; part < kPanel; part += 4 * kVectors) {
    int32x4_t acc[M][kVectors][2];  // two sums for each column, of two products in four
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kVectors; j++) acc[m][j][0] = acc[m][j][1] = vdupq_n_s32(0);
    for (int k = 0; k < quads; k += 2) {  // inputs come in whole lanes: quads are even
      const int8_t* at = w + (size_t)k * 4 * kPanel + 4 * part;
      int8x16_t a[M][2];
      SEGUE_UNROLL
      for (int m = 0; m < M; m++) {
        a[m][0] = repeated(q + m * stride + 4 * k);
        a[m][1] = repeated(q + m * stride + 4 * k + 4);
      }
      SEGUE_UNROLL
      for (int j = 0; j < kVectors; j++) {
        if (j % 4 == 0) {
          __builtin_prefetch(at + 16 * j + 4096);
          __builtin_prefetch(at + 16 * j + 4096 + 4 * kPanel);
        }
        const int8x16_t v = vld1q_s8(at + 16 * j), next = vld1q_s8(at + 16 * j + 4 * kPanel);
        SEGUE_UNROLL
        for (int m = 0; m < M; m++) add_products(acc[m][j], v, a[m][0], next, a[m][1]);
      }
    }
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kVectors; j++)
        vst1q_s32(out[m] + part + 4 * j, vpaddq_s32(acc[m][j][0], acc[m][j][1]));
  }
}

template <int Q, int B>
static inline void place_dots(const int8_t* q, int width, const uint8_t* keys, size_t block, int32_t (*out)[B][kLane]) {
  for (int b = 0; b < B; b++)
    for (int i = 0; i < Q; i++) {
      int32x4_t sums[2][4][2];
      SEGUE_UNROLL
      for (int n = 0; n < 16; n++) sums[n / 8][n / 2 % 4][n % 2] = vdupq_n_s32(0);
      for (int d = 0; d < width; d += 8) {
        const int8_t* at = (const int8_t*)keys + b * block + d * kLane;
        int8x16_t a[2][2];
        SEGUE_UNROLL
        for (int n = 0; n < 4; n++) a[n / 2][n % 2] = repeated((const uint8_t*)q + (2 * i + n / 2) * width + d + n % 2 * 4);
        SEGUE_UNROLL
        for (int j = 0; j < 4; j++) {
          const int8x16_t k = vld1q_s8(at + 16 * j), next = vld1q_s8(at + 16 * j + 4 * kLane);
          add_products(sums[0][j], k, a[0][0], next, a[0][1]);
          add_products(sums[1][j], k, a[1][0], next, a[1][1]);
        }
      }
      SEGUE_UNROLL
      for (int j = 0; j < 4; j++) {
        const int32x4_t high = vpaddq_s32(sums[0][j][0], sums[0][j][1]);
        const int32x4_t low = vpaddq_s32(sums[1][j][0], sums[1][j][1]);
        vst1q_s32(out[i][b] + 4 * j, vaddq_s32(vshlq_n_s32(high, 6), low));
      }
    }
}

#endif

#else

constexpr int kOffset = 0;
constexpr int kMostRows = 2;

template <int M>
static inline void dots(const uint8_t* q, size_t stride, const int8_t* w, int quads, int32_t (*out)[kPanel]) {
  memset(out, 0, M * sizeof out[0]);
  for (int k = 0; k < quads; k++, w += 4 * kPanel)
    SEGUE_UNROLL
    for (int m = 0; m < M; m++) {
      const int8_t* a = (const int8_t*)q + m * stride + 4 * k;
      for (int n = 0; n < kPanel; n++)
        out[m][n] += a[0] * w[4 * n] + a[1] * w[4 * n + 1] + a[2] * w[4 * n + 2] + a[3] * w[4 * n + 3];
    }
}

template <int Q, int B>
static inline void place_dots(const int8_t* q, int width, const uint8_t* keys, size_t block, int32_t (*out)[B][kLane]) {
  memset(out, 0, Q * sizeof out[0]);
  for (int i = 0; i < Q; i++)
    for (int b = 0; b < B; b++)
      for (int d = 0; d < width; d++) {
        const int8_t* k = (const int8_t*)keys + b * block + d / 4 * 4 * kLane + d % 4;
        const int a = 64 * q[2 * i * width + d] + q[(2 * i + 1) * width + d];
        for (int t = 0; t < kLane; t++) out[i][b][t] += a * k[4 * t];
      }
}

#endif

}  // namespace SEGUE_PATH
