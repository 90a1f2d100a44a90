// What each path offers to the entry.
#pragma once
#include <stdint.h>

#include "segue.h"
#include "team.h"

struct SeguePath {
  void (*forward)(Team& team, int thread, const SegueModel& model, const SegueCache& own, const SegueCache& cross,
                  const SegueBatch& batch, const SegueInputs& inputs, float* mixed, void* scratch);
  int64_t (*scratch_bytes)(const SegueModel& model, int rows, int longest, int threads);
  void (*linear)(Team& team, int thread, const SegueLinear& linear, const float* x, int width, int rows, float* y,
                 void* scratch);
  int64_t (*linear_scratch_bytes)(const SegueLinear& linear, int rows, int threads);
  void (*draw)(Team& team, int thread, const SegueDraw* draws, const SegueNoise& noise, int takes, int codebooks,
               int card, int64_t stride, const float* logits, int64_t* tokens, uint8_t* finite, void* scratch);
};

extern const SeguePath segue_portable;
#if defined(__x86_64__)
extern const SeguePath segue_avx2;
extern const SeguePath segue_avx512;
#elif defined(__aarch64__)
extern const SeguePath segue_neon;
extern const SeguePath segue_dotprod;
#endif
