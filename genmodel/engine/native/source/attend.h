// Attention of a run's rows, one head: keys and values are read as bfloat16 and everything is summed in float32.
//
// Each row's sums go through the places in one order whatever rows run beside it: a score is a chain over the
// head's dimensions, an output a chain over the places. So a step, a replay and a prefill give the same bits.
#pragma once
#include "lanes.h"

namespace SEGUE_PATH {

constexpr int kQueries = 4;  // rows of a run that share one pass over keys and values

struct Head {
  const uint16_t* keys;    // [places/16][width][16]
  const uint16_t* values;  // [places][width]
  int dim, width;          // width: dim in whole lanes
};

static inline void store_place(uint16_t* keys, uint16_t* values, int dim, int place, const float* k, const float* v) {
  const int width = up(dim, kLane);
  uint16_t* column = keys + (size_t)(place / kLane) * width * kLane + place % kLane;
  for (int d = 0; d < dim; d++) column[d * kLane] = to_half(k[d]);
  uint16_t* row = values + (size_t)place * width;
  for (int d = 0; d < dim; d++) row[d] = to_half(v[d]);
}

template <int Q, int B>
static inline void score_blocks(const Head& head, const float* q, int block, float* scores, size_t stride) {
  Lanes acc[Q][B];
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    SEGUE_UNROLL
    for (int b = 0; b < B; b++) acc[i][b] = all(0.0f);
  const uint16_t* keys = head.keys + (size_t)block * head.width * kLane;
  for (int d = 0; d < head.dim; d++) {
    Lanes k[B];
    SEGUE_UNROLL
    for (int b = 0; b < B; b++) k[b] = load_half(keys + ((size_t)b * head.width + d) * kLane);
    SEGUE_UNROLL
    for (int i = 0; i < Q; i++) {
      const Lanes a = all(q[i * head.dim + d]);
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

template <int Q, int V>
static inline void mix_values(const Head& head, const float* weights, size_t stride, const int* lengths,
                              const float* totals, int lane, float* const* out) {
  Lanes acc[Q][V];
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    SEGUE_UNROLL
    for (int j = 0; j < V; j++) acc[i][j] = all(0.0f);
  const int width = head.width;
  const uint16_t* values = head.values + lane * kLane;
  for (int t = 0; t < lengths[0]; t++, values += width) {
    Lanes v[V];
    SEGUE_UNROLL
    for (int j = 0; j < V; j++) v[j] = load_half(values + j * kLane);
    SEGUE_UNROLL
    for (int i = 0; i < Q; i++) {
      const Lanes w = all(weights[i * stride + t]);
      SEGUE_UNROLL
      for (int j = 0; j < V; j++) acc[i][j] = fused(w, v[j], acc[i][j]);
    }
  }
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++) {  // later rows see more places
    const uint16_t* more = head.values + lane * kLane + (size_t)lengths[0] * width;
    for (int t = lengths[0]; t < lengths[i]; t++, more += width)
      SEGUE_UNROLL
      for (int j = 0; j < V; j++)
        acc[i][j] = fused(all(weights[i * stride + t]), load_half(more + j * kLane), acc[i][j]);
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

// Q rows of a run: q[i] is one head's query, lengths rise. room: Q * dim + Q * stride floats.
template <int Q>
static inline void attend(const Head& head, const float* const* q, float scale, const int* lengths, float* const* out,
                          float* room, size_t stride) {
  float* queries = room;
  float* scores = room + up(Q * head.dim, kLane);
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++)
    for (int d = 0; d < head.dim; d++) queries[i * head.dim + d] = q[i][d] * scale;
  constexpr int kBlocks = Q == 1 ? 8 : 4;
  const int blocks = up(lengths[Q - 1], kLane) / kLane;
  int block = 0;
  for (; block + kBlocks <= blocks; block += kBlocks) score_blocks<Q, kBlocks>(head, queries, block, scores, stride);
  for (; block < blocks; block++) score_blocks<Q, 1>(head, queries, block, scores, stride);
  float totals[Q];
  SEGUE_UNROLL
  for (int i = 0; i < Q; i++) totals[i] = soften(scores + i * stride, lengths[i]);
  const int lanes = head.width / kLane;
  int lane = 0;
  for (; lane + 4 <= lanes; lane += 4) mix_values<Q, 4>(head, scores, stride, lengths, totals, lane, out);
  for (; lane < lanes; lane++) mix_values<Q, 1>(head, scores, stride, lengths, totals, lane, out);
}

}  // namespace SEGUE_PATH
