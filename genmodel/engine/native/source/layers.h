// The network for the rows of one call, on one thread of the team. Included once for each path.
#pragma once
#include "attend.h"
#include "path.h"
#include "rows.h"

namespace SEGUE_PATH {

// The pieces of the scratch memory.
struct Rooms {
  size_t x_stride, wide_stride, score_stride;
  float *x, *heard, *wide;
  Room room;
  float *row, *attention;  // of this thread
};

struct Cutter {
  uintptr_t at;
  template <class T>
  T* cut(size_t count) {
    T* made = (T*)at;
    at += (count * sizeof(T) + 63) / 64 * 64;
    return made;
  }
};

static inline int widest_of(const SegueModel& model) {
  const int inner = up(model.feedforward, kPanel), joint = up(3 * model.dim, kPanel);
  return inner > joint ? inner : joint;
}

// Also counts: with a null base the end is the size.
static inline Rooms cut_rooms(const SegueModel& model, int rows, int longest, int threads, int thread, void* base,
                              int64_t* bytes) {
  Cutter cutter = {(uintptr_t)base};
  Rooms r = {};
  const int widest = widest_of(model);
  r.x_stride = up(model.dim, kPanel) + kLane;  // no power of two, or rows fall into one set of the cache
  r.wide_stride = widest + kLane;
  r.score_stride = up(longest, kLane) + kLane;
  r.x = cutter.cut<float>(rows * r.x_stride);
  r.heard = cutter.cut<float>(rows * r.x_stride);
  r.wide = cutter.cut<float>(rows * r.wide_stride);
  const bool ints = model.form == kInts;
  r.room.shared_q = cutter.cut<uint8_t>(ints ? (size_t)rows * widest : 0);
  r.room.shared_scale = cutter.cut<float>(ints ? rows : 0);
  r.room.shared_x = cutter.cut<float>(ints ? 0 : rows * r.x_stride);
  for (int t = 0; t < threads; t++) {
    Room own = r.room;
    own.own_q = cutter.cut<uint8_t>(ints ? (size_t)kOwnRows * widest : 0);
    own.own_scale = cutter.cut<float>(ints ? kOwnRows : 0);
    own.own_x = cutter.cut<float>(ints ? 0 : kOwnRows * r.x_stride);
    own.sums = cutter.cut<float>(ints ? 0 : (size_t)rows * kPanel);
    float* row = cutter.cut<float>(2 * r.x_stride);
    float* attention = cutter.cut<float>(kQueries * (model.head_dim + kLane + r.score_stride));
    if (t == thread || bytes) r.room = own, r.row = row, r.attention = attention;
  }
  if (bytes) *bytes = (int64_t)cutter.at;
  return r;
}

struct Call {
  Team& team;
  int thread;
  const SegueModel& model;
  const SegueBatch& batch;
  Rooms at;

  // One head of one run. For own attention the run's keys and values are stored first.
  void attend_run(const SegueCache& cache, int layer, const SegueRun& run, int head, const int32_t* order,
                  bool own) const {
    const int dim = model.head_dim, width = up(dim, kLane);
    const size_t line = ((size_t)run.slot * cache.streams + run.stream) * model.heads + head;
    const size_t places = line * cache.places;
    if (cache.form == kInts)
      attend_head(head_at<ByteHead>(cache, layer, places * (width + sizeof(float)), dim), run, head, order, own);
    else if (cache.form == kHalves)
      attend_head(head_at<PlainHead<uint16_t>>(cache, layer, places * width, dim), run, head, order, own);
    else
      attend_head(head_at<PlainHead<float>>(cache, layer, places * width, dim), run, head, order, own);
  }

  template <class Head>
  static Head head_at(const SegueCache& cache, int layer, size_t start, int dim) {
    using Element = typename Head::Element;
    return {(Element*)cache.keys[layer] + start, (Element*)cache.values[layer] + start, dim, up(dim, kLane)};
  }

  template <class Head>
  void attend_head(const Head& held, const SegueRun& run, int head, const int32_t* order, bool own) const {
    const int offset = head * held.dim;
    if (own)
      for (int i = 0; i < run.rows; i++) {
        const float* row = at.wide + (size_t)order[run.first + i] * at.wide_stride + offset;
        store_place(held, run.start + i, row + model.dim, row + 2 * model.dim, at.attention);
      }
    for (int i = 0; i < run.rows; i += kQueries) {
      const float* q[kQueries];
      float* out[kQueries];
      int lengths[kQueries];
      const int count = run.rows - i < kQueries ? run.rows - i : kQueries;
      for (int j = 0; j < count; j++) {
        const size_t row = order[run.first + i + j];
        q[j] = at.wide + row * at.wide_stride + offset;
        out[j] = at.heard + row * at.x_stride + offset;
        lengths[j] = own ? run.start + i + j + 1 : run.start;
      }
      if (count == kQueries)
        attend<kQueries>(held, q, model.score_scale, lengths, out, at.attention, at.score_stride);
      else
        for (int j = 0; j < count; j++)
          attend<1>(held, q + j, model.score_scale, lengths + j, out + j, at.attention, at.score_stride);
    }
  }

  void attend_all(const SegueCache& cache, int layer, const SegueRun* runs, int count, const int32_t* order,
                  bool own) const {
    for (int piece; (piece = team.take(thread, count * model.heads)) >= 0;)
      attend_run(cache, layer, runs[piece / model.heads], piece % model.heads, order, own);
    team.wait();
  }

  // norm and multiply; rows: which rows of x (null: all)
  void normed(const SegueNorm& norm, const SegueLinear& linear, int count, const int32_t* rows,
              Into::Kind kind) const {
    const auto norm_to = [&](int m, float* row) {
      norm_row(at.x + (size_t)(rows ? rows[m] : m) * at.x_stride, model.dim, norm, row);
    };
    const Rows ready = linear.form != kInts
                           ? filled(team, thread, at.room, count, at.x_stride, norm_to)
                           : quantise(team, thread, at.room, count, linear.in, [&](int m) {
                               norm_to(m, at.row);
                               return at.row;
                             });
    multiply(team, thread, linear, ready, count, at.room.sums, {at.wide, at.wide_stride, nullptr, kind});
  }

  // multiply and add to rows of x
  void added(const float* from, size_t stride, const SegueLinear& linear, int count, const int32_t* rows) const {
    const Rows ready = linear.form != kInts ? Rows{nullptr, nullptr, from, stride}
                                            : quantise(team, thread, at.room, count, linear.in,
                                                       [&](int m) { return from + (size_t)m * stride; });
    multiply(team, thread, linear, ready, count, at.room.sums, {at.x, at.x_stride, rows, Into::kAdd});
  }

  void layer(const SegueLayer& l, int number, const SegueCache& own, const SegueCache& cross) const {
    normed(l.norm1, l.qkv, batch.rows, nullptr, Into::kStore);
    attend_all(own, number, batch.own_runs, batch.own_run_count, batch.own_rows, true);
    added(at.heard, at.x_stride, l.out, batch.rows, nullptr);
    if (l.has_cross && batch.cross_row_count) {
      normed(l.norm_cross, l.cross_q, batch.cross_row_count, batch.cross_rows, Into::kStore);
      attend_all(cross, number, batch.cross_runs, batch.cross_run_count, batch.cross_order, false);
      added(at.heard, at.x_stride, l.cross_out, batch.cross_row_count, batch.cross_rows);
    }
    normed(l.norm2, l.up, batch.rows, nullptr, model.relu ? Into::kRelu : Into::kGelu);
    added(at.wide, at.wide_stride, l.down, batch.rows, nullptr);
  }

  // Guidance on hidden states after the last norm: base + sum of weight * (row - base), the base last.
  void mix(int session, float* mixed) const {
    const int first = batch.mix_first[session], last = batch.mix_first[session + 1] - 1;
    float *base = at.row, *row = at.row + at.x_stride, *out = mixed + (size_t)session * model.dim;
    norm_row(at.x + batch.mix_rows[last] * at.x_stride, model.dim, model.out_norm, base);
    memcpy(out, base, sizeof(float) * model.dim);
    for (int i = first; i < last; i++) {
      norm_row(at.x + batch.mix_rows[i] * at.x_stride, model.dim, model.out_norm, row);
      for (int d = 0; d < model.dim; d++) out[d] += batch.mix_weights[i] * (row[d] - base[d]);
    }
  }
};

// The input of row m, in the order of sums that torch has.
static inline void fill_input(const SegueInputs& from, int dim, int m, float* row) {
  if (from.x) {
    memcpy(row, from.x + (size_t)m * dim, sizeof(float) * dim);
    return;
  }
  for (int k = 0; k < from.codebooks; k++) {
    const int64_t token = from.tokens[(size_t)from.session[m] * from.codebooks + k];
    if (token < 0 || token >= from.table_rows) {  // shows itself as numbers that are not finite
      for (int d = 0; d < dim; d++) row[d] = NAN;
      return;
    }
    const float* entry = from.embedding + ((size_t)k * from.table_rows + token) * dim;
    for (int d = 0; d < dim; d++) row[d] += entry[d];
  }
  const float* code = from.positions + (size_t)from.place[m] * dim;
  for (int d = 0; d < dim; d++) row[d] += code[d];
  if (from.added)
    for (int d = 0; d < dim; d++) row[d] += from.added[(size_t)m * dim + d];
}

static void forward(Team& team, int thread, const SegueModel& model, const SegueCache& own, const SegueCache& cross,
                    const SegueBatch& batch, const SegueInputs& inputs, float* mixed, void* scratch) {
  const Call call = {team, thread, model, batch,
                     cut_rooms(model, batch.rows, batch.longest, team.size, thread, scratch, nullptr)};
  for (int m; (m = team.take(thread, batch.rows)) >= 0;) {
    float* row = call.at.x + m * call.at.x_stride;
    memset(row, 0, sizeof(float) * call.at.x_stride);
    fill_input(inputs, model.dim, m, row);
    memset(call.at.heard + m * call.at.x_stride, 0, sizeof(float) * call.at.x_stride);  // its padding
  }
  team.wait();
  for (int i = 0; i < model.layer_count; i++) call.layer(model.layers[i], i, own, cross);
  for (int session; (session = team.take(thread, batch.sessions)) >= 0;) call.mix(session, mixed);
  team.wait();
}

static int64_t scratch_bytes(const SegueModel& model, int rows, int longest, int threads) {
  int64_t bytes = 0;
  cut_rooms(model, rows, longest, threads, -1, nullptr, &bytes);
  return bytes;
}

// The scratch of one linear by itself; counts with a null base, as above.
static inline Room cut_linear(const SegueLinear& linear, int rows, int threads, int thread, void* base, float** row,
                              int64_t* bytes) {
  Cutter cutter = {(uintptr_t)base};
  const size_t stride = up(linear.in, 64);
  const bool ints = linear.form == kInts;
  Room room = {};
  room.shared_q = cutter.cut<uint8_t>(ints ? rows * stride : 0);
  room.shared_scale = cutter.cut<float>(ints ? rows : 0);
  room.shared_x = cutter.cut<float>(ints ? 0 : rows * stride);
  for (int t = 0; t < threads; t++) {
    Room own = room;
    own.own_q = cutter.cut<uint8_t>(ints ? kOwnRows * stride : 0);
    own.own_scale = cutter.cut<float>(ints ? kOwnRows : 0);
    own.own_x = cutter.cut<float>(ints ? 0 : kOwnRows * stride);
    own.sums = cutter.cut<float>(ints ? 0 : (size_t)rows * kPanel);
    float* made = cutter.cut<float>(linear.in);
    if (t == thread || bytes) room = own, *row = made;
  }
  if (bytes) *bytes = (int64_t)cutter.at;
  return room;
}

static void linear(Team& team, int thread, const SegueLinear& linear, const float* x, int width, int rows, float* y,
                   void* scratch) {
  float* row = nullptr;
  const Room room = cut_linear(linear, rows, team.size, thread, scratch, &row, nullptr);
  const auto copy_to = [&](int m, float* to) {
    memcpy(to, x + (size_t)m * width, sizeof(float) * width);
    for (int i = width; i < linear.in; i++) to[i] = 0.0f;
  };
  const Rows ready = linear.form != kInts ? filled(team, thread, room, rows, up(linear.in, 64), copy_to)
                                          : quantise(team, thread, room, rows, linear.in, [&](int m) {
                                              copy_to(m, row);
                                              return row;
                                            });
  multiply(team, thread, linear, ready, rows, room.sums, {y, (size_t)linear.out, nullptr, Into::kStore});
}

static int64_t linear_scratch_bytes(const SegueLinear& linear, int rows, int threads) {
  int64_t bytes = 0;
  float* row = nullptr;
  cut_linear(linear, rows, threads, -1, nullptr, &row, &bytes);
  return bytes;
}

}  // namespace SEGUE_PATH
