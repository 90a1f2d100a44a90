// Products of a few rows of floats with one panel of 64 columns, whose weights are bfloat16 or float32.
//
// A column's sum is a chain over kChain inputs, and the chains are added one after the other: the same bits however
// many rows go through together, and less rounding than one chain over thousands.
#pragma once
#include "lanes.h"

namespace SEGUE_PATH {

constexpr int kChain = 128;  // inputs: so much of a panel is 32 KiB of float32, which the first cache keeps
#if defined(__AVX512F__)
constexpr int kChainRows = 6;  // with 4 lanes 24 sums and 4 weights, as in dots.h
#elif defined(__AVX2__)
constexpr int kChainRows = 3;  // with 2 lanes 12 sums; 6 rows and 1 lane took a tenth longer
#elif defined(__aarch64__)
constexpr int kChainRows = 6;
#else
constexpr int kChainRows = 2;
#endif

// How weights of one lane of columns lie: kInputs inputs of each column beside each other.
struct FloatWeights {
  using Element = float;
  static constexpr int kInputs = 1;
  static void load_to(const float* at, Lanes* w) { w[0] = load(at); }
};
struct HalfWeights {
  using Element = uint16_t;
  static constexpr int kInputs = 2;
  static void load_to(const uint16_t* at, Lanes* w) { load_pairs(at, w[0], w[1]); }
};

// sums[m] = (begin ? 0 : sums[m]) + x[m] times `count` rows of weights
template <int M, class Weights>
static inline void chains(const float* x, size_t stride, const typename Weights::Element* weights, int count,
                          float* sums, bool begin) {
  constexpr int kInputs = Weights::kInputs;
#if defined(__AVX512F__)
  constexpr int kAtOnce = kPanel / kLane;
#else
  constexpr int kAtOnce = M <= 3 && kChainRows > 2 ? 2 : 1;  // lanes, as many sums as registers hold
#endif
  for (int part = 0; part < kPanel; part += kAtOnce * kLane) {
    Lanes acc[M][kAtOnce];
    SEGUE_UNROLL
    for (int m = 0; m < M; m++)
      SEGUE_UNROLL
      for (int j = 0; j < kAtOnce; j++) acc[m][j] = all(0.0f);
    const auto* at = weights + part * kInputs;
    for (int k = 0; k < count; k += kInputs, at += kPanel * kInputs) {
      Lanes w[kAtOnce][kInputs];
      SEGUE_UNROLL
      for (int j = 0; j < kAtOnce; j++) {
        Weights::load_to(at + j * kLane * kInputs, w[j]);
        // as in dots.h: they come from memory once a step, and once for many rows
        if (M <= 2 || (M <= 4 && kChainRows > M)) __builtin_prefetch((const char*)(at + j * kLane * kInputs) + 4096);
      }
      SEGUE_UNROLL
      for (int i = 0; i < kInputs; i++)
        SEGUE_UNROLL
        for (int m = 0; m < M; m++) {
          const Lanes a = all(x[m * stride + k + i]);
          SEGUE_UNROLL
          for (int j = 0; j < kAtOnce; j++) acc[m][j] = fused(a, w[j][i], acc[m][j]);
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

template <int M, class Weights>
static inline void chains_rest(int rows, const float* x, size_t stride, const typename Weights::Element* weights,
                               int count, float* sums, bool begin) {
  if constexpr (M > 0) {
    if (rows == M)
      chains<M, Weights>(x, stride, weights, count, sums, begin);
    else
      chains_rest<M - 1, Weights>(rows, x, stride, weights, count, sums, begin);
  }
}

}  // namespace SEGUE_PATH
