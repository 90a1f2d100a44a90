// Tokens from logits: the bonus of a source, temperature, the k largest, noise by position, the largest sum.
//
// The arithmetic of genmodel/lm/sampling.py and genmodel/engine/noise.py to the bit, each rounding in its place; noise
// is only looked up for the tokens that may be drawn.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "path.h"

namespace SEGUE_PATH {

// lowbias32
static inline uint32_t mixed(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352Du;
  x = (x ^ (x >> 15)) * 0x846CA68Bu;
  return x ^ (x >> 16);
}

static inline float noise(const SegueNoise& from, uint64_t key, int token) {
  const uint32_t hash = mixed(mixed((uint32_t)from.salts[token] ^ (uint32_t)key) + (uint32_t)(key >> 32));
  const float odd = (float)(int32_t)((hash & 0x7FFFFFFFu) | 1u);
  uint32_t bits;
  memcpy(&bits, &odd, 4);
  return from.table[(bits >> from.shift) - (0x3F800000u >> from.shift)];
}

// The k-th largest of finite numbers; room: count integers. Bisection over all 32 bits: each turn counts without a
// branch, which took a fifth of the time of counting into bins.
static inline float kth_largest(const float* values, int count, int k, int32_t* room) {
  memcpy(room, values, sizeof(float) * count);
  for (int i = 0; i < count; i++) room[i] ^= (room[i] >> 31) & 0x7FFFFFFF;  // in the order of the numbers
  int64_t low = INT32_MIN, high = (int64_t)INT32_MAX + 1;  // at least k are `low` or more, fewer are `high` or more
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    const int32_t bound = (int32_t)middle;
    int more = 0;
    for (int i = 0; i < count; i++) more += room[i] >= bound;
    (more >= k ? low : high) = middle;
  }
  const int32_t bits = (int32_t)low ^ (((int32_t)low >> 31) & 0x7FFFFFFF);
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// One codebook of one take. room: card floats, then card + 1 integers. False: a logit is not finite, nothing is drawn.
static inline bool draw(const SegueDraw& how, const SegueNoise& from, int book, int card, const float* logits,
                        float* room, int64_t* token) {
  uint32_t largest = 0;
  for (int i = 0; i < card; i++) {
    uint32_t bits;
    memcpy(&bits, logits + i, 4);
    bits &= 0x7FFFFFFFu;
    largest = bits > largest ? bits : largest;
  }
  if (largest >= 0x7F800000u) return false;
  memcpy(room, logits, sizeof(float) * card);
  if (how.near) {
    const int64_t near = how.near[book * how.near_stride];
    if (near >= 0 && near < card) room[near] += how.bonus;
  }
  if (!how.keys) {
    float most = room[0];
    for (int i = 1; i < card; i++) most = room[i] > most ? room[i] : most;
    *token = 0;
    while (*token < card - 1 && room[*token] != most) ++*token;  // the first of equals, as below
    return true;
  }
  for (int i = 0; i < card; i++) room[i] /= how.temperature;
  int32_t* kept = (int32_t*)(room + card);
  float threshold = -INFINITY;
  if (how.top_k > 0 && how.top_k < card) threshold = kth_largest(room, card, how.top_k, kept);
  // no branch here: which are kept cannot be foretold, and the table's entries are fetched side by side
  int count = 0;
  for (int i = 0; i < card; i++) {
    kept[count] = i;
    count += room[i] >= threshold;
  }
  const uint64_t key = (uint64_t)how.keys[book * how.key_stride];
  int best = 0;
  float most = -INFINITY;
  for (int n = 0; n < count; n++) {
    const int i = kept[n];
    const float value = room[i] + noise(from, key, i);
    best = value > most ? i : best;
    most = value > most ? value : most;
  }
  *token = best;
  return true;
}

static void draw_all(Team& team, int thread, const SegueDraw* draws, const SegueNoise& noise, int takes, int codebooks,
                     int card, int64_t stride, const float* logits, int64_t* tokens, uint8_t* finite, void* scratch) {
  float* room = (float*)scratch + (size_t)thread * (2 * card + 1);
  for (int piece; (piece = team.take(thread, takes * codebooks)) >= 0;) {
    const int take = piece / codebooks, book = piece % codebooks;
    const float* from = logits + take * stride + (int64_t)book * card;
    finite[piece] = draw(draws[take], noise, book, card, from, room, tokens + piece);
  }
}

}  // namespace SEGUE_PATH
