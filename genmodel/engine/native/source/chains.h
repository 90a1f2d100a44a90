// Products of a few rows of floats with one panel of 64 columns, whose weights are bfloat16 or float32.
//
// A column's sum is a chain over kChain inputs, and the chains are added one after the other: the same bits however
// many rows go through together, and less rounding than one chain over thousands.
#pragma once
#include "lanes.h"

namespace SEGUE_PATH {

constexpr int kChain = 256;  // inputs: so much of a panel is 64 KiB of float32, which the second cache keeps
#if defined(__AVX512F__)
constexpr int kChainRows = 6;  // with 4 lanes 24 sums and 4 weights, as in dots.h
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int kChainRows = 6;
#else
constexpr int kChainRows = 2;
#endif

static inline Lanes load_weights(const float* at) { return load(at); }
static inline Lanes load_weights(const uint16_t* at) { return load_half(at); }

// sums[m] = (begin ? 0 : sums[m]) + x[m] times `count` rows of weights
template <int M, class Weight>
static inline void chains(const float* x, size_t stride, const Weight* weights, int count, float* sums, bool begin) {
#if defined(__AVX512F__)
  constexpr int kAtOnce = kPanel / kLane;
#else
  constexpr int kAtOnce = M <= 3 && kChainRows > 2 ? 2 : 1;  // lanes: as many sums as registers hold
#endif
  for (int part = 0; part < kPanel; part += kAtOnce * kLane) {
    Lanes acc[M][kAtOnce];
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kAtOnce; j++) acc[m][j] = all(0.0f);
    const Weight* at = weights + part;
    for (int k = 0; k < count; k++, at += kPanel) {
      Lanes w[kAtOnce];
      SEGUE_UNROLL
      for (int j = 0; j < kAtOnce; j++) {
        w[j] = load_weights(at + j * kLane);
        // as in dots.h: they come from memory once a step
        if (M <= 4) __builtin_prefetch((const char*)(at + j * kLane) + 4096);
      }
      SEGUE_UNROLL
      for (int m = 0; m < M; m++) {
        const Lanes a = all(x[m * stride + k]);
        SEGUE_UNROLL
        for (int j = 0; j < kAtOnce; j++) acc[m][j] = fused(a, w[j], acc[m][j]);
      }
    }
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kAtOnce; j++) {
        float* sum = sums + m * kPanel + part + j * kLane;
        store(sum, begin ? acc[m][j] : load(sum) + acc[m][j]);
      }
  }
}

template <int M, class Weight>
static inline void chains_rest(int rows, const float* x, size_t stride, const Weight* weights, int count, float* sums,
                               bool begin) {
  if constexpr (M > 0) {
    if (rows == M)
      chains<M>(x, stride, weights, count, sums, begin);
    else
      chains_rest<M - 1>(rows, x, stride, weights, count, sums, begin);
  }
}

}  // namespace SEGUE_PATH
