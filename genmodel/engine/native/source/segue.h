// What Python hands over and what it calls. Plain C types, so that ctypes can mirror them (library.py).
//
// Widths: "lane" = 16 floats. Every row of floats is padded with zeros to whole lanes, every linear's outputs to
// whole panels of 64 columns, so no kernel has a tail.
#pragma once
#include <stdint.h>

enum { kLane = 16, kPanel = 64 };

// What weights are, and keys and values: integers with scales, bfloat16, float32.
enum { kInts, kHalves, kFloats };

typedef struct {
  // one panel of 64 columns is one stream of memory: int8 [out/64][in/4][64][4], bfloat16 [out/64][in/2][64][2], float32
  // [out/64][in][64]
  const void* weights;
  const float* scale;   // [out] ints: what one unit of a weight is worth
  const float* bias;    // [out]
  const int32_t* sums;  // [out] ints: sum of each column's weights, for paths that shift activations by 128
  int32_t in, out;      // padded: in to lanes, out to panels
  int32_t form;
} SegueLinear;

typedef struct {
  const float* weight;  // [dim], padded with zeros like bias
  const float* bias;
  float epsilon;
} SegueNorm;

typedef struct {
  SegueNorm norm1, norm_cross, norm2;
  SegueLinear qkv, out, cross_q, cross_out, up, down;
  int32_t has_cross;
} SegueLayer;

typedef struct {
  const SegueLayer* layers;
  SegueNorm out_norm;
  int32_t layer_count, dim, heads, head_dim, feedforward;
  int32_t relu;  // 0: gelu
  int32_t form;  // of all its linears
  float score_scale;
} SegueModel;

// Keys and values, one pair of pointers a layer, [slots][streams][heads][places] in the forms that attend.h describes.
typedef struct {
  void* const* keys;
  void* const* values;
  int32_t slots, streams, places;
  int32_t form;
} SegueCache;

// Rows of one stream that follow each other. Own: the row number i is place start + i and sees all up to itself.
// Cross: every row sees the `start` places of its source.
typedef struct {
  int32_t first, rows;  // into the list of rows beside
  int32_t slot, stream, start;
} SegueRun;

typedef struct {
  int32_t rows, own_run_count, cross_row_count, cross_run_count, sessions;
  int32_t longest;           // places that any row sees
  const SegueRun* own_runs;
  const int32_t* own_rows;   // [rows] row numbers, run after run
  const int32_t* cross_rows; // [cross_row_count] rows that hear a source
  const SegueRun* cross_runs;
  const int32_t* cross_order;// [cross_row_count] places in cross_rows, run after run
  const int32_t* mix_first;  // [sessions + 1] where each session's rows begin in mix_rows
  const int32_t* mix_rows;   // rows whose last norm is mixed, the base last
  const float* mix_weights;  // one for each of mix_rows
} SegueBatch;

// What is fed: inputs [rows, dim], or with tokens what they embed to, plus the position code, plus `added`.
typedef struct {
  const float* x;              // [rows][dim]; null: from tokens
  const int64_t* tokens;       // [sessions][codebooks]
  const float* embedding;      // [codebooks * table_rows][dim]
  const float* positions;      // [places][dim]
  const float* added;          // [rows][dim] or null
  const int32_t* session;      // [rows]
  const int32_t* place;        // [rows]
  int32_t codebooks, table_rows;
} SegueInputs;

// How one take's tokens of one step are drawn.
typedef struct {
  const int64_t* keys;  // of the noise, one a codebook `key_stride` apart; null: the likeliest token
  const int64_t* near;  // tokens that get the bonus, likewise (negative: none), or null
  int64_t key_stride, near_stride;
  float bonus, temperature;
  int32_t top_k;        // 0: all
} SegueDraw;

typedef struct {
  const float* table;    // noise by the leading bits of its hash (genmodel/engine/noise.py)
  const int32_t* salts;  // [card]
  int32_t shift;         // bits of a float32 that are not looked at
} SegueNoise;

// torch's own pool (libgomp); without it a call makes its own threads.
typedef struct {
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
  int (*thread_number)(void);
  int (*thread_count)(void);
  int32_t threads;
} SeguePool;

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif
// Bit i is set where this processor runs path i.
int32_t segue_paths(void);
int64_t segue_scratch_bytes(const SegueModel* model, int32_t rows, int32_t longest, int32_t threads);
// Inputs -> mixed [sessions, dim]; keys and values of the rows are stored on the way.
void segue_forward(int32_t path, const SeguePool* pool, const SegueModel* model, const SegueCache* own,
                   const SegueCache* cross, const SegueBatch* batch, const SegueInputs* inputs, float* mixed,
                   void* scratch);
int64_t segue_draw_scratch_bytes(int32_t card, int32_t threads);
// logits [takes][stride], of which codebooks * card are read -> tokens [takes][codebooks]; finite [takes * codebooks]
// is 0 where a logit is not a number or infinite: that token is not drawn.
void segue_draw(int32_t path, const SeguePool* pool, const SegueDraw* draws, const SegueNoise* noise, int32_t takes,
                int32_t codebooks, int32_t card, int64_t stride, const float* logits, int64_t* tokens,
                uint8_t* finite, void* scratch);
int64_t segue_linear_scratch_bytes(const SegueLinear* linear, int32_t rows, int32_t threads);
// x [rows, x_stride], padded to `in` with zeros or exactly `width` wide -> y [rows, out].
void segue_linear(int32_t path, const SeguePool* pool, const SegueLinear* linear, const float* x, int32_t width,
                  int32_t rows, float* y, void* scratch);
#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop
