// Sixteen floats, whatever the processor's registers hold. Written with the compiler's vector types; only the
// fused multiply-add is spelled out, so that every path with one rounds alike.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "segue.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// Sums in small arrays become registers only where their loops are unrolled early: GCC 12 keeps six rows' sums in
// memory without this, and runs at 181 instead of 478 thousand million products a second.
#if defined(__clang__)
#define SEGUE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SEGUE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace SEGUE_PATH {

#if defined(__AVX512F__)
constexpr int kPart = 16;
#elif defined(__AVX2__)
constexpr int kPart = 8;
#else
constexpr int kPart = 4;
#endif
constexpr int kParts = kLane / kPart;

typedef float FloatPart __attribute__((vector_size(4 * kPart)));
typedef int32_t IntPart __attribute__((vector_size(4 * kPart)));
typedef uint32_t BitPart __attribute__((vector_size(4 * kPart)));
typedef uint16_t HalfPart __attribute__((vector_size(2 * kPart)));
typedef int8_t SmallPart __attribute__((vector_size(kPart)));
typedef uint8_t BytePart __attribute__((vector_size(kPart)));

static inline FloatPart fused(FloatPart a, FloatPart b, FloatPart c) {
#if defined(__AVX512F__)
  return (FloatPart)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
  return (FloatPart)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (FloatPart)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;  // two roundings: this path differs from the others in last bits
#endif
}

struct Lanes {
  FloatPart p[kParts];
};

#define SEGUE_EACH SEGUE_UNROLL for (int i = 0; i < kParts; i++)

static inline Lanes all(float value) {
  Lanes r;
  SEGUE_EACH {
#if defined(__AVX512F__)
    r.p[i] = (FloatPart)_mm512_set1_ps(value);
#elif defined(__AVX2__)
    r.p[i] = (FloatPart)_mm256_set1_ps(value);
#else
    r.p[i] = FloatPart{value, value, value, value};
#endif
  }
  return r;
}
static inline Lanes load(const float* at) {
  Lanes r;
  SEGUE_EACH memcpy(&r.p[i], at + i * kPart, sizeof r.p[i]);  // all at once goes through memory where parts are small
  return r;
}
// zeros after the first `count`
static inline Lanes load_some(const float* at, int count) {
  if (count >= kLane) return load(at);
  float v[kLane] = {};
  memcpy(v, at, sizeof(float) * count);
  return load(v);
}
static inline void store(float* at, const Lanes& a) { SEGUE_EACH memcpy(at + i * kPart, &a.p[i], sizeof a.p[i]); }
// bfloat16 is the upper half of a float32
static inline Lanes load_half(const uint16_t* at) {
  Lanes r;
  SEGUE_EACH {
    HalfPart h;
    memcpy(&h, at + i * kPart, sizeof h);
    r.p[i] = (FloatPart)(__builtin_convertvector(h, BitPart) << 16);
  }
  return r;
}
// sixteen pairs of bfloat16: the first ones and the second ones, for fewer operations than two of the above
static inline void load_pairs(const uint16_t* at, Lanes& first, Lanes& second) {
  SEGUE_EACH {
    BitPart pairs;
    memcpy(&pairs, at + 2 * i * kPart, sizeof pairs);
    first.p[i] = (FloatPart)(pairs << 16);
    second.p[i] = (FloatPart)(pairs & 0xffff0000u);
  }
}
static inline Lanes load_ints(const int32_t* at, int32_t less = 0) {
  Lanes r;
  SEGUE_EACH {
    IntPart v;
    memcpy(&v, at + i * kPart, sizeof v);
    r.p[i] = __builtin_convertvector(v - less, FloatPart);
  }
  return r;
}
// at - factor * of as floats; unsigned: on the way it may leave 32 bits, at the end it is inside
static inline Lanes load_ints(const int32_t* at, const int32_t* of, uint32_t factor) {
  Lanes r;
  SEGUE_EACH {
    BitPart v, w;
    memcpy(&v, at + i * kPart, sizeof v);
    memcpy(&w, of + i * kPart, sizeof w);
    r.p[i] = __builtin_convertvector((IntPart)(v - factor * w), FloatPart);
  }
  return r;
}
// Conversions from and to bytes are spelled out where GCC 12 would take registers apart, one number after the other.
static inline Lanes load_bytes(const int8_t* at) {
  Lanes r;
#if defined(SEGUE_NEON)
  const int8x16_t v = vld1q_s8(at);
  const int16x8_t h[2] = {vmovl_s8(vget_low_s8(v)), vmovl_s8(vget_high_s8(v))};
  SEGUE_UNROLL for (int i = 0; i < 2; i++) {
    r.p[2 * i] = (FloatPart)vcvtq_f32_s32(vmovl_s16(vget_low_s16(h[i])));
    r.p[2 * i + 1] = (FloatPart)vcvtq_f32_s32(vmovl_s16(vget_high_s16(h[i])));
  }
#else
  SEGUE_EACH {
#if defined(__AVX512F__)
    r.p[i] = (FloatPart)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)at)));
#elif defined(__AVX2__)
    const __m128i eight = _mm_loadl_epi64((const __m128i*)(at + i * kPart));
    r.p[i] = (FloatPart)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight));
#else
    SmallPart v;
    memcpy(&v, at + i * kPart, sizeof v);
    r.p[i] = __builtin_convertvector(__builtin_convertvector(v, IntPart), FloatPart);
#endif
  }
#endif
  return r;
}
static inline Lanes operator+(const Lanes& a, const Lanes& b) {
  Lanes r;
  SEGUE_EACH r.p[i] = a.p[i] + b.p[i];
  return r;
}
static inline Lanes operator-(const Lanes& a, const Lanes& b) {
  Lanes r;
  SEGUE_EACH r.p[i] = a.p[i] - b.p[i];
  return r;
}
static inline Lanes operator*(const Lanes& a, const Lanes& b) {
  Lanes r;
  SEGUE_EACH r.p[i] = a.p[i] * b.p[i];
  return r;
}
static inline Lanes operator/(const Lanes& a, const Lanes& b) {
  Lanes r;
  SEGUE_EACH r.p[i] = a.p[i] / b.p[i];
  return r;
}
// a * b + c
static inline Lanes fused(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes r;
  SEGUE_EACH r.p[i] = fused(a.p[i], b.p[i], c.p[i]);
  return r;
}
static inline Lanes larger(const Lanes& a, const Lanes& b) {
  Lanes r;
  SEGUE_EACH r.p[i] = a.p[i] > b.p[i] ? a.p[i] : b.p[i];
  return r;
}
static inline Lanes smaller(const Lanes& a, const Lanes& b) {
  Lanes r;
  SEGUE_EACH r.p[i] = a.p[i] < b.p[i] ? a.p[i] : b.p[i];
  return r;
}
static inline Lanes magnitude(const Lanes& a) {
  Lanes r;
  SEGUE_EACH r.p[i] = (FloatPart)((BitPart)a.p[i] & 0x7fffffffu);
  return r;
}
// a where sign is not negative, else -a
static inline Lanes with_sign(const Lanes& a, const Lanes& sign) {
  Lanes r;
  SEGUE_EACH r.p[i] = (FloatPart)((BitPart)a.p[i] | ((BitPart)sign.p[i] & 0x80000000u));
  return r;
}
// the nearest integer, halves to even; |a| < 2^22
static inline Lanes rounded(const Lanes& a) {
  const Lanes magic = all(12582912.0f);
  return (a + magic) - magic;
}
static inline Lanes power_of_two(const Lanes& whole) {
  Lanes r;
  SEGUE_EACH r.p[i] = (FloatPart)((__builtin_convertvector(whole.p[i], IntPart) + 127) << 23);
  return r;
}
// whole numbers -128…255 to bytes
static inline void store_bytes(uint8_t* at, const Lanes& a, int offset) {
#if defined(SEGUE_NEON)  // the compiler moves each byte by itself
  int16x8_t h[2];
  SEGUE_UNROLL for (int i = 0; i < 2; i++) {
    const int32x4_t low = vcvtq_s32_f32((float32x4_t)a.p[2 * i]), high = vcvtq_s32_f32((float32x4_t)a.p[2 * i + 1]);
    h[i] = vaddq_s16(vcombine_s16(vmovn_s32(low), vmovn_s32(high)), vdupq_n_s16((int16_t)offset));
  }
  vst1q_u8(at, vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(h[0]), vmovn_s16(h[1]))));
#else
  SEGUE_EACH {
    const IntPart whole = __builtin_convertvector(a.p[i], IntPart) + offset;
#if defined(__AVX512F__)
    _mm_storeu_si128((__m128i*)at, _mm512_cvtepi32_epi8((__m512i)whole));
#elif defined(__AVX2__)
    const __m256i low = _mm256_and_si256((__m256i)whole, _mm256_set1_epi32(255));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64((__m128i*)(at + i * kPart), _mm_packus_epi16(words, words));
#else
    const BytePart b = __builtin_convertvector(whole, BytePart);
    memcpy(at + i * kPart, &b, sizeof b);
#endif
  }
#endif
}
// Sums and maxima over the lanes, in one order on every path.
static inline float sum(const Lanes& a) {
  float v[kLane];
  store(v, a);
  for (int half = kLane / 2; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
}
static inline float maximum(const Lanes& a) {
  float v[kLane];
  store(v, a);
  for (int half = kLane / 2; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] = v[i] > v[i + half] ? v[i] : v[i + half];
  return v[0];
}

// e^x for x <= 88, relative error about 1e-7; below -87 it is as good as nothing.
static inline Lanes exponential(const Lanes& x_) {
  const Lanes x = larger(x_, all(-87.0f));
  const Lanes n = rounded(x * all(1.44269504f));
  Lanes r = fused(n, all(-0.693359375f), x);
  r = fused(n, all(2.12194440e-4f), r);
  Lanes p = all(1.9875691500e-4f);
  p = fused(p, r, all(1.3981999507e-3f));
  p = fused(p, r, all(8.3334519073e-3f));
  p = fused(p, r, all(4.1665795894e-2f));
  p = fused(p, r, all(1.6666665459e-1f));
  p = fused(p, r, all(5.0000001201e-1f));
  p = fused(p, r * r, r + all(1.0f));
  return p * power_of_two(n);
}

// x/2 (1 + erf(x/sqrt 2)); erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
static inline Lanes gelu(const Lanes& x) {
  const Lanes a = magnitude(x) * all(0.70710678f);
  const Lanes t = all(1.0f) / fused(a, all(0.3275911f), all(1.0f));
  Lanes p = all(1.061405429f);
  p = fused(p, t, all(-1.453152027f));
  p = fused(p, t, all(1.421413741f));
  p = fused(p, t, all(-0.284496736f));
  p = fused(p, t, all(0.254829592f));
  const Lanes erf = all(1.0f) - p * t * exponential(all(0.0f) - a * a);
  return all(0.5f) * x * (all(1.0f) + with_sign(erf, x));
}

static inline uint16_t to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
  return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline int up(int value, int step) { return (value + step - 1) / step * step; }

}  // namespace SEGUE_PATH
