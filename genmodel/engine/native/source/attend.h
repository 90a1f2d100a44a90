// Attention of a run's rows, one head: keys and values are read as float32, as bfloat16 or as eight bits, and everything
// else is float32 (with eight bits a score is an exact integer first).
//
// Each row's sums go through the places in one order whatever rows run beside it: a score is a chain over the
// head's dimensions, an output a chain over the places. So a step, a replay and a prefill give the same bits.
#pragma once
#include "rows.h"

namespace SEGUE_PATH {

constexpr int kQueries = 4;  // rows of a run that share one pass over keys and values

static inline Lanes load_of(const float* at) { return load(at); }
static inline Lanes load_of(const uint16_t* at) { return load_half(at); }
static inline void store_of(float* at, float value) { *at = value; }
static inline void store_of(uint16_t* at, float value) { *at = to_half(value); }

// Keys and values as float32 or (uint16_t) bfloat16.
template <class E>
struct PlainHead {
  using Element = E;
  E* keys;           // [places/16][width][16]
  E* values;         // [places][width]
  int dim, width;    // width: dim in whole lanes
  static constexpr int kBlocks = 4;  // of places, for four queries at once: as many sums as registers hold
};

// As eight bits: blocks of sixteen places, each sixteen floats (what one unit of each place is worth) and then
// integers: of keys [width/4][16][4] with kOffset added, of values [16][width].
struct ByteHead {
  using Element = uint8_t;
  uint8_t* keys;
  uint8_t* values;
  int dim, width;
  static constexpr int kBlocks = 2;
  size_t block() const { return (size_t)kLane * (width + sizeof(float)); }
};

template <class E>
static inline void store_place(const PlainHead<E>& head, int place, const float* k, const float* v, float*) {
  E* column = head.keys + (size_t)(place / kLane) * head.width * kLane + place % kLane;
  for (int d = 0; d < head.dim; d++) store_of(column + d * kLane, k[d]);
  E* row = head.values + (size_t)place * head.width;
  for (int d = 0; d < head.dim; d++) store_of(row + d, v[d]);
}

// room: 2 * width floats
static inline void store_place(const ByteHead& head, int place, const float* k, const float* v, float* room) {
  const int at = place % kLane;
  memset(room, 0, sizeof(float) * head.width);
  memcpy(room, k, sizeof(float) * head.dim);
  uint8_t* block = head.keys + place / kLane * head.block();
  uint8_t* made = (uint8_t*)(room + head.width);
  ((float*)block)[at] = quantise_row(room, head.width, made, kOffset);
  for (int d = 0; d < head.width; d += 4) memcpy(block + 4 * (kLane + d / 4 * kLane + at), made + d, 4);
  memcpy(room, v, sizeof(float) * head.dim);
  block = head.values + place / kLane * head.block();
  ((float*)block)[at] = quantise_row(room, head.width, block + 4 * kLane + (size_t)at * head.width, 0);
}

// Q queries of one head, made ready in `room` of up(Q * width, 16) floats.
template <int Q>
struct PlainQueries {
  const float* q;

  template <class E>
  PlainQueries(const PlainHead<E>& head, const float* const* from, float scale, float* room) : q(room) {
    for (int i = 0; i < Q; i++)
      for (int d = 0; d < head.dim; d++) room[i * head.dim + d] = from[i][d] * scale;
  }
};

// As fourteen bits in two parts, q = 64 * high + low: with eight alone their rounding was as large as the keys'.
template <int Q>
struct ByteQueries {
  const int8_t* q;  // [Q][high, low][width]
  float unit[Q];
  int32_t offset[Q];

  ByteQueries(const ByteHead& head, const float* const* from, float scale, float* room) : q((int8_t*)room) {
    constexpr float kMost = 127 * 64;
    const int width = head.width;
    for (int i = 0; i < Q; i++) {
      Lanes most = all(0.0f), bad = all(0.0f);
      for (int d = 0; d < head.dim; d += kLane) {
        const Lanes v = load_some(from[i] + d, head.dim - d);
        most = larger(magnitude(v), most);
        bad = fused(v, all(0.0f), bad);
      }
      const float largest = maximum(most), poison = sum(bad);
      const Lanes factor = all(largest > 0.0f ? kMost / largest : 0.0f);
      int8_t *high = (int8_t*)room + 2 * i * width, *low = high + width;
      offset[i] = 0;
      for (int d = 0; d < width; d += kLane) {
        const Lanes v = load_some(from[i] + d, head.dim - d) * factor;
        const Lanes whole = larger(smaller(rounded(v), all(kMost)), all(-kMost));
        const Lanes upper = rounded(whole * all(1.0f / 64));
        store_bytes((uint8_t*)high + d, upper, 0);
        store_bytes((uint8_t*)low + d, whole - upper * all(64.0f), 0);
        for (int j = 0; j < kLane; j++) offset[i] += kOffset * (64 * high[d + j] + low[d + j]);
      }
      unit[i] = (largest / kMost + poison) * scale;
    }
  }
};

template <int Q, class E>
static inline PlainQueries<Q> ask(const PlainHead<E>& head, const float* const* from, float scale, float* room) {
  return {head, from, scale, room};
}
template <int Q>
static inline ByteQueries<Q> ask(const ByteHead& head, const float* const* from, float scale, float* room) {
  return {head, from, scale, room};
}

template <int Q, int B>
static inline void score_blocks(const ByteHead& head, const ByteQueries<Q>& asked, int block, float* scores,
                                size_t stride) {
  int32_t products[Q][B][kLane];
  const uint8_t* keys = head.keys + block * head.block();
  place_dots<Q, B>(asked.q, head.width, keys + 4 * kLane, head.block(), products);
  for (int b = 0; b < B; b++) {
    const Lanes worth = load((const float*)(keys + b * head.block()));
    for (int i = 0; i < Q; i++) {
      const Lanes whole = load_ints(products[i][b], asked.offset[i]);
      store(scores + i * stride + (block + b) * kLane, whole * (worth * all(asked.unit[i])));
    }
    __builtin_prefetch(head.values + (block + b) * head.block());  // for `weigh`
  }
}

template <int Q, int B, class E>
static inline void score_blocks(const PlainHead<E>& head, const PlainQueries<Q>& asked, int block, float* scores,
                                size_t stride) {
  Lanes acc[Q][B];
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    SEGUE_UNROLL
    for (int b = 0; b < B; b++) acc[i][b] = all(0.0f);
  const E* keys = head.keys + (size_t)block * head.width * kLane;
  for (int d = 0; d < head.dim; d++) {
    Lanes k[B];
    SEGUE_UNROLL
    for (int b = 0; b < B; b++) k[b] = load_of(keys + ((size_t)b * head.width + d) * kLane);
    SEGUE_UNROLL
    for (int i = 0; i < Q; i++) {
      const Lanes a = all(asked.q[i * head.dim + d]);
      SEGUE_UNROLL
      for (int b = 0; b < B; b++) acc[i][b] = fused(a, k[b], acc[i][b]);
    }
  }
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    SEGUE_UNROLL
    for (int b = 0; b < B; b++) store(scores + i * stride + (block + b) * kLane, acc[i][b]);
}

// Scores of one row to weights that are not yet divided by their sum, which is returned.
static inline float soften(float* scores, int length) {
  const int padded = up(length, kLane);
  for (int t = length; t < padded; t++) scores[t] = -INFINITY;
  Lanes most = all(-INFINITY);
  for (int t = 0; t < padded; t += kLane) most = larger(load(scores + t), most);
  const Lanes top = all(maximum(most));
  Lanes total = all(0.0f);
  for (int t = 0; t < padded; t += kLane) {
    const Lanes weight = exponential(load(scores + t) - top);
    store(scores + t, weight);
    if (t + kLane <= length) total = total + weight;
  }
  float last[kLane] = {};
  const int whole = length / kLane * kLane;
  for (int t = whole; t < length; t++) last[t - whole] = scores[t];
  return sum(total + load(last));
}

// What a weight is multiplied with before it meets a place's integers.
template <class E>
static inline void weigh(const PlainHead<E>&, float*, int) {}
static inline void weigh(const ByteHead& head, float* weights, int length) {
  for (int t = 0; t < length; t += kLane)
    store(weights + t, load(weights + t) * load((const float*)(head.values + t / kLane * head.block())));
}

// The values of one place after the other, from a lane of the head on.
template <class E>
struct PlainValues {
  const E* at;
  int width;
  PlainValues(const PlainHead<E>& head, int lane) : at(head.values + lane * kLane), width(head.width) {}
  Lanes lane(int j) const { return load_of(at + j * kLane); }
  void next(int) { at += width; }
};
struct ByteValues {
  const uint8_t* at;
  int width;
  ByteValues(const ByteHead& head, int lane) : at(head.values + (4 + lane) * kLane), width(head.width) {}
  Lanes lane(int j) const { return load_bytes((const int8_t*)at + j * kLane); }
  void next(int place) {
    __builtin_prefetch(at + 4096);
    at += place % kLane == kLane - 1 ? width + 4 * kLane : width;
  }
};
template <class E>
static inline PlainValues<E> values_of(const PlainHead<E>& head, int lane) {
  return {head, lane};
}
static inline ByteValues values_of(const ByteHead& head, int lane) { return {head, lane}; }

template <int Q, int V, class Head>
static inline void mix_values(const Head& head, const float* weights, size_t stride, const int* lengths,
                              const float* totals, int lane, float* const* out) {
  Lanes acc[Q][V];
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    SEGUE_UNROLL
    for (int j = 0; j < V; j++) acc[i][j] = all(0.0f);
  auto values = values_of(head, lane);
  for (int t = 0; t < lengths[0]; values.next(t++)) {
    Lanes v[V];
    SEGUE_UNROLL
    for (int j = 0; j < V; j++) v[j] = values.lane(j);
    SEGUE_UNROLL
    for (int i = 0; i < Q; i++) {
      const Lanes w = all(weights[i * stride + t]);
      SEGUE_UNROLL
      for (int j = 0; j < V; j++) acc[i][j] = fused(w, v[j], acc[i][j]);
    }
  }
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++) {  // later rows see more places
    auto more = values;
    for (int t = lengths[0]; t < lengths[i]; more.next(t++))
      SEGUE_UNROLL
      for (int j = 0; j < V; j++) acc[i][j] = fused(all(weights[i * stride + t]), more.lane(j), acc[i][j]);
    const Lanes share = all(1.0f / totals[i]);
    SEGUE_UNROLL
    for (int j = 0; j < V; j++) {
      float y[kLane];
      store(y, acc[i][j] * share);
      const int first = (lane + j) * kLane, rest = head.dim - first;
      memcpy(out[i] + first, y, sizeof(float) * (rest < kLane ? rest : kLane));
    }
  }
}

// Q rows of a run: q[i] is one head's query, lengths rise. room: Q * (width + stride) floats.
template <int Q, class Head>
static inline void attend(const Head& head, const float* const* q, float scale, const int* lengths, float* const* out,
                          float* room, size_t stride) {
  float* scores = room + Q * head.width;
  const auto asked = ask<Q>(head, q, scale, room);
  constexpr int kBlocks = Q == 1 ? 8 : Head::kBlocks;
  const int blocks = up(lengths[Q - 1], kLane) / kLane;
  int block = 0;
  for (; block + kBlocks <= blocks; block += kBlocks) score_blocks<Q, kBlocks>(head, asked, block, scores, stride);
  for (; block < blocks; block++) score_blocks<Q, 1>(head, asked, block, scores, stride);
  float totals[Q];
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++) {
    totals[i] = soften(scores + i * stride, lengths[i]);
    weigh(head, scores + i * stride, lengths[i]);
  }
  const int lanes = head.width / kLane;
  int lane = 0;
  for (; lane + 4 <= lanes; lane += 4) mix_values<Q, 4>(head, scores, stride, lengths, totals, lane, out);
  for (; lane < lanes; lane++) mix_values<Q, 1>(head, scores, stride, lengths, totals, lane, out);
}

}  // namespace SEGUE_PATH
