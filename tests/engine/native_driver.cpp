// Runs the native kernels without Python, so that they can be tried under an emulator or a sanitizer: networks of
// odd shapes, one row alone and the same row in company, and what comes out as one number for each path.
//
// Prints "<case> <path> <hash>" lines; a row that has other bits in company ends it with status 1.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmath>
#include <vector>

#include "segue.h"

namespace {

const char* const kNames[] = {"portable", "avx2", "avx512", "neon", "dotprod"};
const char* const kForms[] = {"ints", "halves", "floats"};

struct Noise {
  uint64_t state;
  uint32_t next() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
  }
  // -1…1, exact in float32
  float value() { return ((int)(next() % 4097) - 2048) / 2048.0f; }
};

int up(int value, int step) { return (value + step - 1) / step * step; }

// Memory that ends where it is said to end, at 64 bytes: a sanitizer sees the first byte read too many.
template <class T>
struct Block {
  T* at;
  size_t count;
  explicit Block(size_t count_) : at(nullptr), count(count_) {
    const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
    if (posix_memalign((void**)&at, 64, bytes ? bytes : 64)) abort();
    memset((void*)at, 0, bytes ? bytes : 64);
  }
  ~Block() { free(at); }
  Block(const Block&) = delete;
};

template <class T>
using Blocks = std::vector<Block<T>*>;

struct Made {
  Blocks<float> floats;
  Blocks<int8_t> bytes;
  Blocks<int32_t> ints;
  Blocks<uint16_t> halves;
  ~Made() {
    for (auto* b : floats) delete b;
    for (auto* b : bytes) delete b;
    for (auto* b : ints) delete b;
    for (auto* b : halves) delete b;
  }
  template <class T>
  T* take(Blocks<T>& list, size_t count) {
    list.push_back(new Block<T>(count));
    return list.back()->at;
  }
};

uint16_t half_of(float value) {  // of values that have few bits
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (uint16_t)(bits >> 16);
}

// Where the weight of a column and an input lies, in so many inputs.
size_t place_of(int form, int in, int column, int k) {
  const int beside = form == kInts ? 4 : form == kHalves ? 2 : 1;
  const size_t line = (size_t)(column / kPanel) * (in / beside) + k / beside;
  return (line * kPanel + column % kPanel) * beside + k % beside;
}

SegueLinear linear_of(Made& made, Noise& noise, int form, int in, int out, bool largest = false) {
  const int columns = up(in, kLane), rows = up(out, kPanel);
  if (form != kInts) {
    float* bias = made.take(made.floats, rows);
    uint16_t* halves = form == kHalves ? made.take(made.halves, (size_t)rows * columns) : nullptr;
    float* floats = form == kFloats ? made.take(made.floats, (size_t)rows * columns) : nullptr;
    for (int n = 0; n < out; n++) {
      bias[n] = noise.value() / 8;
      for (int k = 0; k < in; k++) {
        const size_t at = place_of(form, columns, n, k);
        const float value = ((int)(noise.next() % 255) - 127) / 128.0f;  // exact in bfloat16
        if (halves) halves[at] = half_of(value);
        if (floats) floats[at] = value;
      }
    }
    SegueLinear linear = {};
    linear.weights = halves ? (const void*)halves : floats;
    linear.bias = bias, linear.in = columns, linear.out = rows, linear.form = form;
    return linear;
  }
  int8_t* weights = made.take(made.bytes, (size_t)rows * columns);
  float* scale = made.take(made.floats, rows);
  float* bias = made.take(made.floats, rows);
  int32_t* sums = made.take(made.ints, rows);
  for (int n = 0; n < out; n++) {
    scale[n] = (1.5f + noise.value()) / (100.0f * std::sqrt((float)in));
    bias[n] = noise.value() / 8;
    for (int k = 0; k < in; k++) {
      const int w = largest ? (n % 2 ? 127 : -127) : (int)(noise.next() % 255) - 127;
      weights[place_of(form, columns, n, k)] = (int8_t)w;
      sums[n] += w;
    }
  }
  SegueLinear linear = {};
  linear.weights = weights, linear.scale = scale, linear.bias = bias, linear.sums = sums;
  linear.in = columns, linear.out = rows;
  return linear;
}

SegueNorm norm_of(Made& made, Noise& noise, int dim) {
  float *weight = made.take(made.floats, up(dim, kLane)), *bias = made.take(made.floats, up(dim, kLane));
  for (int i = 0; i < dim; i++) weight[i] = 1 + noise.value() / 4, bias[i] = noise.value() / 4;
  SegueNorm norm = {};
  norm.weight = weight, norm.bias = bias, norm.epsilon = 1e-5f;
  return norm;
}

struct Shape {
  const char* name;
  int dim, heads, inner, layers;
  bool cross, relu;
};

const Shape kShapes[] = {
    {"plain", 64, 4, 256, 2, true, false},   {"odd-width", 36, 3, 100, 2, true, false},
    {"width-48", 48, 1, 80, 1, true, true},  {"one-wide-head", 144, 1, 64, 1, false, false},
    {"many-heads", 48, 16, 64, 1, true, false}, {"narrow", 4, 2, 4, 1, true, true},
};

constexpr int kSlots = 3, kStreams = 2, kPlaces = 64, kSource = 7;

// Floats of either kind, filled or empty; or bytes with scales, empty
struct Caches {
  std::vector<void*> keys, values;
  SegueCache c;
  Caches(Made& made, const Shape& shape, int places, Noise* fill, int form) {
    const size_t lines = (size_t)kSlots * kStreams * shape.heads * places;
    const size_t width = up(shape.dim / shape.heads, kLane), count = lines * width;
    for (int i = 0; i < shape.layers; i++)
      for (auto* list : {&keys, &values}) {
        const size_t pairs = form == kInts ? lines * (width + 4) / 2 : count;
        uint16_t* halves = form == kFloats ? nullptr : made.take(made.halves, pairs);
        float* floats = form == kFloats ? made.take(made.floats, count) : nullptr;
        list->push_back(halves ? (void*)halves : floats);
        for (size_t j = 0; fill && j < count; j++) {
          const float value = fill->value();
          if (halves) halves[j] = half_of(value);
          if (floats) floats[j] = value;
        }
      }
    c = {};
    c.form = form;
    c.keys = keys.data(), c.values = values.data();
    c.slots = kSlots, c.streams = kStreams, c.places = places;
  }
};

struct Network {
  Made made;
  Shape shape;
  std::vector<SegueLayer> layers;
  SegueModel model;
  Network(const Shape& s, Noise& noise, int form) : shape(s), layers(s.layers), model() {
    const auto linear = [&](int in, int out) { return linear_of(made, noise, form, in, out); };
    for (auto& l : layers) {
      l.norm1 = norm_of(made, noise, s.dim), l.norm2 = norm_of(made, noise, s.dim);
      l.norm_cross = norm_of(made, noise, s.dim);
      l.qkv = linear(s.dim, 3 * s.dim), l.out = linear(s.dim, s.dim);
      l.cross_q = linear(s.dim, s.dim), l.cross_out = linear(s.dim, s.dim);
      l.up = linear(s.dim, s.inner), l.down = linear(s.inner, s.dim);
      l.has_cross = s.cross;
    }
    model.layers = layers.data(), model.out_norm = norm_of(made, noise, s.dim);
    model.layer_count = s.layers, model.dim = s.dim, model.heads = s.heads, model.head_dim = s.dim / s.heads;
    model.feedforward = s.inner, model.relu = s.relu, model.form = form;
    model.score_scale = 1 / std::sqrt((float)model.head_dim);
  }
};

struct Row {
  int slot, stream, place;
};

SeguePool pool_of(int threads) {
  SeguePool pool = {};
  pool.threads = threads;
  return pool;
}

// Each row is a run of its own unless it goes on where the last one ended; every session is the rows of one slot.
void run(int path, int threads, const Network& n, Caches& own, Caches& cross, const std::vector<Row>& rows,
         const std::vector<float>& x, std::vector<float>& mixed) {
  std::vector<SegueRun> runs, cross_runs;
  std::vector<int32_t> order, hearing, cross_order, first = {0}, mix_rows;
  std::vector<float> weights;
  int longest = kSource;
  for (int i = 0; i < (int)rows.size(); i++) {
    const Row& r = rows[i];
    const bool follows = i && r.slot == rows[i - 1].slot && r.stream == rows[i - 1].stream;
    if (follows)
      runs.back().rows++;
    else
      runs.push_back({i, 1, r.slot, r.stream, r.place});
    order.push_back(i);
    if (r.stream == 0) {  // the other stream has no source, as guidance's second half
      cross_order.push_back((int)hearing.size());
      cross_runs.push_back({(int)hearing.size(), 1, r.slot, 0, kSource});
      hearing.push_back(i);
    }
    const bool last = i + 1 == (int)rows.size() || rows[i + 1].slot != r.slot || rows[i + 1].stream != r.stream;
    if (last) mix_rows.push_back(i), weights.push_back(3.0f);
    if (last && (i + 1 == (int)rows.size() || rows[i + 1].slot != r.slot)) first.push_back((int)mix_rows.size());
    if (r.place + 1 > longest) longest = r.place + 1;
  }
  SegueBatch batch = {};
  batch.rows = (int)rows.size(), batch.own_run_count = (int)runs.size();
  batch.cross_row_count = n.shape.cross ? (int)hearing.size() : 0;
  batch.cross_run_count = n.shape.cross ? (int)cross_runs.size() : 0;
  batch.sessions = (int)first.size() - 1, batch.longest = longest;
  batch.own_runs = runs.data(), batch.own_rows = order.data();
  batch.cross_rows = hearing.data(), batch.cross_runs = cross_runs.data(), batch.cross_order = cross_order.data();
  batch.mix_first = first.data(), batch.mix_rows = mix_rows.data(), batch.mix_weights = weights.data();
  const SeguePool pool = pool_of(threads);
  Block<uint8_t> scratch((size_t)segue_scratch_bytes(&n.model, batch.rows, longest, threads));
  memset(scratch.at, 0x7f, scratch.count);  // what a call does not write it must not read
  mixed.assign((size_t)batch.sessions * n.shape.dim, -1.0f);
  SegueInputs inputs = {};
  inputs.x = x.data();
  segue_forward(path, &pool, &n.model, &own.c, &cross.c, &batch, &inputs, mixed.data(), scratch.at);
}

uint64_t hash(const void* data, size_t bytes, uint64_t h) {
  for (size_t i = 0; i < bytes; i++) h = (h ^ ((const uint8_t*)data)[i]) * 1099511628211u;
  return h;
}

bool fail(const char* what, const char* where, int path) {
  printf("WRONG %s: %s on %s\n", where, what, kNames[path]);
  return false;
}

// Slot 0 alone and in company: a prefill of 37 places at once, in pieces and one by one, then steps. The odd slot is
// a place behind and feeds its last one again.
bool network(const Shape& shape, int path, int form, int kept) {
  Noise noise = {(uint64_t)(shape.dim * 1000 + shape.heads)};
  Network n(shape, noise, form);
  Caches heard(n.made, shape, up(kSource, kLane), &noise, form == kFloats ? kFloats : kHalves);
  std::vector<float> inputs((size_t)kSlots * kStreams * kPlaces * shape.dim);
  for (auto& value : inputs) value = noise.value();
  auto feed = [&](const std::vector<Row>& rows) {
    std::vector<float> x;
    for (const Row& r : rows) {
      const float* from = &inputs[(((size_t)r.slot * kStreams + r.stream) * kPlaces + r.place) * shape.dim];
      x.insert(x.end(), from, from + shape.dim);
    }
    return x;
  };
  uint64_t h = 14695981039346656037u;
  std::vector<std::vector<float>> takes;
  const int kPrefill = 37, kSteps = 13;
  for (int way = 0; way < 3; way++) {
    Made own_memory;
    Caches own(own_memory, shape, kPlaces, nullptr, kept);
    const int company = way ? kSlots : 1, threads = way == 1 ? 2 : 1, piece = way == 0 ? kPrefill : way == 1 ? 5 : 1;
    std::vector<float> mixed, all;
    for (int slot = 0; slot < company; slot++)
      for (int at = 0; at < kPrefill; at += piece) {
        std::vector<Row> rows;
        for (int stream = 0; stream < kStreams; stream++)
          for (int p = at; p < at + piece && p < kPrefill; p++) rows.push_back({slot, stream, p});
        run(path, threads, n, own, heard, rows, feed(rows), mixed);
      }
    for (int step = 0; step < kSteps; step++) {
      std::vector<Row> rows;
      for (int slot = company - 1; slot >= 0; slot--)
        for (int stream = 0; stream < kStreams; stream++) rows.push_back({slot, stream, kPrefill + step - slot % 2});
      run(path, threads, n, own, heard, rows, feed(rows), mixed);
      all.insert(all.end(), mixed.end() - shape.dim, mixed.end());
    }
    for (float value : all)
      if (!std::isfinite(value)) return fail("not finite", shape.name, path);
    if (way == 0) h = hash(all.data(), all.size() * sizeof(float), h);
    takes.push_back(all);
    if (takes[0].size() != all.size() || memcmp(takes[0].data(), all.data(), all.size() * sizeof(float)))
      return fail("a take depends on its company or on how it is fed", shape.name, path);
  }
  printf("%s-%s-%s %s %016llx\n", shape.name, kForms[form], kForms[kept], kNames[path], (unsigned long long)h);
  return true;
}

bool linears(int path, int form) {
  const int shapes[][3] = {{1, 16, 64}, {2, 1024, 128}, {3, 36, 50}, {7, 100, 200}, {13, 512, 64}, {2, 131072, 2}};
  for (const auto& s : shapes) {
    const int rows = s[0], in = s[1], out = s[2];
    if (in > 65536 && form != kInts) continue;  // only integers can overflow
    Made made;
    Noise noise = {(uint64_t)in};
    const SegueLinear linear = linear_of(made, noise, form, in, out, in > 65536);
    std::vector<float> x((size_t)rows * in), y((size_t)rows * linear.out), alone(linear.out);
    for (auto& value : x) value = in > 65536 ? (&value - x.data() < in ? 1.0f : -1.0f) : noise.value();
    for (int threads : {1, 2}) {
      const SeguePool pool = pool_of(threads);
      Block<uint8_t> scratch((size_t)segue_linear_scratch_bytes(&linear, rows, threads));
      memset(scratch.at, 0x7f, scratch.count);
      segue_linear(path, &pool, &linear, x.data(), in, rows, y.data(), scratch.at);
      for (int m = 0; m < rows; m++) {
        segue_linear(path, &pool, &linear, &x[(size_t)m * in], in, 1, alone.data(), scratch.at);
        if (memcmp(alone.data(), &y[(size_t)m * linear.out], sizeof(float) * linear.out))
          return fail("a row depends on its company", "linear", path);
      }
    }
    // the integers are exact, so the plain sum may differ by the last rounding only; sums of floats by a few more
    for (int m = 0; m < rows && form != kInts; m++)
      for (int c = 0; c < out; c++) {
        double sum = linear.bias[c], size = std::fabs(sum);
        for (int k = 0; k < in; k++) {
          const size_t at = place_of(form, linear.in, c, k);
          const uint32_t bits = form == kHalves ? (uint32_t)((const uint16_t*)linear.weights)[at] << 16 : 0;
          float weight;
          memcpy(&weight, form == kHalves ? (const void*)&bits : (const float*)linear.weights + at, 4);
          const double part = (double)x[(size_t)m * in + k] * weight;
          sum += part, size += std::fabs(part);
        }
        if (std::fabs(sum - y[(size_t)m * linear.out + c]) > 1e-6 * size) return fail("wrong sum", "linear", path);
      }
    for (int m = 0; m < rows && form == kInts; m++) {
      float largest = 0;
      for (int k = 0; k < in; k++) largest = std::fmax(largest, std::fabs(x[(size_t)m * in + k]));
      for (int c = 0; c < out; c++) {
        int64_t sum = 0;
        for (int k = 0; k < in; k++) {
          const size_t at = place_of(form, linear.in, c, k);
          sum += (int64_t)std::nearbyint(x[(size_t)m * in + k] * (127.0f / largest)) * ((const int8_t*)linear.weights)[at];
        }
        const double wanted = (double)sum * linear.scale[c] * (largest / 127.0f) + linear.bias[c];
        const double size = std::fabs((double)sum * linear.scale[c] * (largest / 127.0f)) + std::fabs(linear.bias[c]);
        if (std::fabs(wanted - y[(size_t)m * linear.out + c]) > 4e-7 * size + 1e-30)
          return fail("wrong sum", "linear", path);
      }
    }
    const uint64_t h = hash(y.data(), y.size() * sizeof(float), 14695981039346656037u);
    printf("linear-%s-%d-%d-%d %s %016llx\n", kForms[form], rows, in, out, kNames[path], (unsigned long long)h);
  }
  return true;
}

// Tokens of logits among which many are equal, with and without each part of the rule.
bool draws(int path) {
  const int takes = 5, books = 3, stride = 3 * 301 + 2, card = 301;
  Noise noise = {7};
  std::vector<float> logits((size_t)takes * stride), table(1 << 12);
  std::vector<int32_t> salts(card);
  std::vector<int64_t> keys(books), near = {-1, 300, 5};
  for (auto& value : logits) value = noise.value() * 8;
  for (auto& value : table) value = noise.value() * 4;
  for (auto& value : salts) value = (int32_t)noise.next();
  for (auto& value : keys) value = (int64_t)(((uint64_t)noise.next() << 33) ^ noise.next());
  logits[4 * stride + 1] = INFINITY;
  // 32 exponents of 2^7 entries: the float's bits but for the last 16
  const SegueNoise from = {table.data(), salts.data(), 16};
  const SegueDraw rules[takes] = {
      {keys.data(), nullptr, 1, 0, 0.0f, 1.0f, 0},      {keys.data(), near.data(), 1, 1, 3.0f, 0.7f, 20},
      {nullptr, near.data(), 1, 1, 0.5f, 1.0f, 0},      {keys.data(), nullptr, 1, 0, 0.0f, 1.3f, 1},
      {keys.data(), nullptr, 1, 0, 0.0f, 1.0f, card + 9},
  };
  std::vector<int64_t> tokens((size_t)takes * books, -7), again(tokens);
  std::vector<uint8_t> finite((size_t)takes * books);
  for (int threads : {1, 2}) {
    const SeguePool pool = pool_of(threads);
    Block<uint8_t> scratch((size_t)segue_draw_scratch_bytes(card, threads));
    segue_draw(path, &pool, rules, &from, takes, books, card, stride, logits.data(), tokens.data(), finite.data(),
               scratch.at);
    if (threads == 1) again = tokens;
  }
  if (again != tokens) return fail("a token depends on threads", "draws", path);
  for (int i = 0; i < takes * books; i++) {
    if (finite[i] != (i != 4 * books)) return fail("finite", "draws", path);
    if (finite[i] ? tokens[i] < 0 || tokens[i] >= card : tokens[i] != -7) return fail("a token", "draws", path);
  }
  const uint64_t h = hash(tokens.data(), tokens.size() * sizeof(int64_t), 14695981039346656037u);
  printf("draws %s %016llx\n", kNames[path], (unsigned long long)h);
  return true;
}

}  // namespace

int main() {
  for (int path = 0; path < 5; path++) {
    if (!(segue_paths() >> path & 1)) continue;
    if (!draws(path)) return 1;
    for (int form : {kInts, kHalves, kFloats}) {
      if (!linears(path, form)) return 1;
      for (const Shape& shape : kShapes) {
        if (form != kInts && &shape >= kShapes + 3) break;  // an emulator takes its time
        if (form == kInts && !network(shape, path, form, kHalves)) return 1;
        if (!network(shape, path, form, form)) return 1;
      }
    }
  }
  return 0;
}
