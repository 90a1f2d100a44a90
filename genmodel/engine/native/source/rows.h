// What is done to one row by itself: norm, quantisation, and linears over rows that were made ready.
#pragma once
#include "chains.h"
#include "dots.h"
#include "team.h"

namespace SEGUE_PATH {

// Rows as a linear takes them: as small integers, each with its own scale, or as they are.
struct Rows {
  const uint8_t* q;
  const float* scale;
  const float* x;
  size_t stride;  // of q or x
};

// Layer norm of one row; both rows are padded with zeros, and stay so.
static inline void norm_row(const float* x, int dim, const SegueNorm& norm, float* y) {
  const int whole = dim / kLane * kLane, padded = up(dim, kLane);
  float tail[kLane] = {};
  for (int i = whole; i < dim; i++) tail[i - whole] = 1.0f;
  Lanes total = all(0.0f);
  for (int i = 0; i < padded; i += kLane) total = total + load(x + i);
  const Lanes mean = all(sum(total) / (float)dim);
  Lanes squares = all(0.0f);
  for (int i = 0; i < padded; i += kLane) {
    Lanes apart = load(x + i) - mean;
    if (i == whole) apart = apart * load(tail);
    squares = fused(apart, apart, squares);
  }
  const Lanes inverse = all(1.0f / sqrtf(sum(squares) / (float)dim + norm.epsilon));
  for (int i = 0; i < padded; i += kLane)
    store(y + i, fused((load(x + i) - mean) * inverse, load(norm.weight + i), load(norm.bias + i)));
}

// -127…127 by the row's largest magnitude, which becomes 127. Returns what one unit is worth; not a number where
// the row holds one (or infinity), so that it is not lost.
static inline float quantise_row(const float* x, int width, uint8_t* q, int offset) {
  Lanes most = all(0.0f), bad = all(0.0f);
  for (int i = 0; i < width; i += kLane) {
    const Lanes v = load(x + i);
    most = larger(magnitude(v), most);
    bad = fused(v, all(0.0f), bad);
  }
  const float largest = maximum(most), poison = sum(bad);
  const Lanes factor = all(largest > 0.0f ? 127.0f / largest : 0.0f);
  for (int i = 0; i < width; i += kLane) {
    const Lanes v = larger(smaller(rounded(load(x + i) * factor), all(127.0f)), all(-127.0f));
    store_bytes(q + i, v, offset);
  }
  return largest / 127.0f + poison;
}

// Where results go: row m of the product is row target[m] (m itself without a list) of y.
struct Into {
  float* y;
  size_t stride;
  const int32_t* target;
  enum Kind { kStore, kAdd, kGelu, kRelu } kind;
};

// v, a lane of row m's product from `column` on, to its place.
static inline void put(const Into& into, int m, int column, Lanes v) {
  float* y = into.y + (size_t)(into.target ? into.target[m] : m) * into.stride + column;
  if (into.kind == Into::kAdd) v = v + load(y);
  if (into.kind == Into::kGelu) v = gelu(v);
  if (into.kind == Into::kRelu) v = larger(v, all(0.0f) * v);  // 0 * v keeps what is not a number
  store(y, v);
}

template <int M>
static inline void panel_rows(const SegueLinear& linear, const Rows& x, int first, int panel, const Into& into) {
  alignas(64) int32_t products[M][kPanel];
  const int8_t* weights = (const int8_t*)linear.weights + (size_t)panel * kPanel * linear.in;
  dots<M>(x.q + (size_t)first * x.stride, x.stride, weights, linear.in / 4, products);
  const int column = panel * kPanel;
  for (int m = 0; m < M; m++) {
    const Lanes scale = all(x.scale[first + m]);
    for (int j = 0; j < kPanel; j += kLane) {
      const Lanes whole = kOffset ? load_ints(products[m] + j, linear.sums + column + j, kOffset)
                                  : load_ints(products[m] + j);
      const Lanes value = whole * load(linear.scale + column + j);
      put(into, first + m, column + j, fused(value, scale, load(linear.bias + column + j)));
    }
  }
}

template <int M>
static inline void panel_rest(const SegueLinear& linear, const Rows& x, int first, int rows, int panel,
                              const Into& into) {
  if constexpr (M > 0) {
    if (rows == M)
      panel_rows<M>(linear, x, first, panel, into);
    else
      panel_rest<M - 1>(linear, x, first, rows, panel, into);
  }
}

// All rows in passes of at most `most`, in even shares: a pass over few rows costs as much as one over all that the
// registers hold.
template <class Pass>
static inline void in_passes(int rows, int most, Pass pass) {
  for (int left = (rows + most - 1) / most, first = 0; left; left--) {
    const int count = (rows - first + left - 1) / left;
    pass(first, count);
    first += count;
  }
}

// One panel of weights that are floats. Block after block of its inputs, so that many rows find the block in the
// cache; sums: [rows][kPanel] of this thread.
template <class Weights>
static inline void panel_chains(const SegueLinear& linear, const Rows& x, int rows, int panel, float* sums,
                                const Into& into) {
  const auto* weights = (const typename Weights::Element*)linear.weights + (size_t)panel * kPanel * linear.in;
  for (int first_in = 0; first_in < linear.in; first_in += kChain) {
    const int count = linear.in - first_in < kChain ? linear.in - first_in : kChain;
    in_passes(rows, kChainRows, [&](int first, int many) {
      chains_rest<kChainRows, Weights>(many, x.x + (size_t)first * x.stride + first_in, x.stride,
                                       weights + (size_t)first_in * kPanel, count, sums + (size_t)first * kPanel,
                                       !first_in);
    });
  }
  const int column = panel * kPanel;
  for (int m = 0; m < rows; m++)
    for (int j = 0; j < kPanel; j += kLane)
      put(into, m, column + j, load(sums + (size_t)m * kPanel + j) + load(linear.bias + column + j));
}

// All rows through a linear; threads share the panels. Ends with a barrier.
static inline void multiply(Team& team, int thread, const SegueLinear& linear, const Rows& x, int rows, float* sums,
                            const Into& into) {
  for (int panel; (panel = team.take(thread, linear.out / kPanel)) >= 0;)
    if (linear.form == kInts)
      in_passes(rows, kMostRows,
                [&](int first, int count) { panel_rest<kMostRows>(linear, x, first, count, panel, into); });
    else if (linear.form == kHalves)
      panel_chains<HalfWeights>(linear, x, rows, panel, sums, into);
    else
      panel_chains<FloatWeights>(linear, x, rows, panel, sums, into);
  team.wait();
}

// Few rows are made ready by every thread for itself, which is quicker than waiting for each other.
constexpr int kOwnRows = 4;

// Ints use q and scale, floats x and sums.
struct Room {
  uint8_t* shared_q;
  float *shared_scale, *shared_x;
  uint8_t* own_q;  // of this thread, as what follows
  float *own_scale, *own_x, *sums;
};

// Quantise rows of `width`; fill(m) gives the address of row m's floats.
template <class Fill>
static inline Rows quantise(Team& team, int thread, const Room& room, int rows, int width, Fill fill) {
  const size_t stride = up(width, 64);
  if (rows <= kOwnRows) {
    for (int m = 0; m < rows; m++) room.own_scale[m] = quantise_row(fill(m), width, room.own_q + m * stride, kOffset);
    return {room.own_q, room.own_scale, nullptr, stride};
  }
  for (int m; (m = team.take(thread, rows)) >= 0;)
    room.shared_scale[m] = quantise_row(fill(m), width, room.shared_q + m * stride, kOffset);
  team.wait();
  return {room.shared_q, room.shared_scale, nullptr, stride};
}

// Rows of `stride` floats made by fill(m, row).
template <class Fill>
static inline Rows filled(Team& team, int thread, const Room& room, int rows, size_t stride, Fill fill) {
  if (rows <= kOwnRows) {
    for (int m = 0; m < rows; m++) fill(m, room.own_x + m * stride);
    return {nullptr, nullptr, room.own_x, stride};
  }
  for (int m; (m = team.take(thread, rows)) >= 0;) fill(m, room.shared_x + m * stride);
  team.wait();
  return {nullptr, nullptr, room.shared_x, stride};
}

}  // namespace SEGUE_PATH
