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

#else

constexpr int kMostRows = 4;  // 16 sums, 8 activations and two weights of the 32 registers

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
        for (int m = 0; m < M; m++) {
          // both factors are 127 at most: two products fit into 16 bits
          const int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(v), vget_low_s8(a[m][0])), vget_low_s8(next),
                                         vget_low_s8(a[m][1]));
          const int16x8_t high = vmlal_high_s8(vmull_high_s8(v, a[m][0]), next, a[m][1]);
          acc[m][j][0] = vpadalq_s16(acc[m][j][0], low);
          acc[m][j][1] = vpadalq_s16(acc[m][j][1], high);
        }
      }
    }
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kVectors; j++)
        vst1q_s32(out[m] + part + 4 * j, vpaddq_s32(acc[m][j][0], acc[m][j][1]));
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

#endif

#if !defined(__AVX512VNNI__) && !defined(__AVX2__)

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
