// Entry points: which paths this processor runs, and a call's threads.
#include <pthread.h>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "path.h"

namespace {

// One numbering for all processors; library.py has the names.
enum { kPortable, kAvx2, kAvx512, kNeon, kDotprod };
const SeguePath* const kPaths[] = {
    &segue_portable,
#if defined(__x86_64__)
    &segue_avx2,
    &segue_avx512,
#elif defined(__aarch64__)
    nullptr,
    nullptr,
    &segue_neon,
    &segue_dotprod,
#endif
};

// Runs body(team, thread) on every thread of the pool.
template <class Body>
struct Running {
  const SeguePool& pool;
  const Body& body;
  Team* team;
  int made;

  static void in_pool(void* given) {
    Running& self = *(Running*)given;
    // the pool may give fewer threads than were asked for (limits, a region inside a region)
    const int number = self.pool.thread_number(), count = self.pool.thread_count();
    if (count == self.team->size) {
      self.body(*self.team, number);
    } else if (number == 0) {
      Team alone(1);
      self.body(alone, 0);
    }
  }

  static void* in_thread(void* given) {
    Running& self = *(Running*)given;
    const int number = __atomic_add_fetch(&self.made, 1, __ATOMIC_RELAXED);
    Team* team;
    while (!(team = __atomic_load_n(&self.team, __ATOMIC_ACQUIRE))) sched_yield();
    self.body(*team, number);
    return nullptr;
  }
};

template <class Body>
void on_team(const SeguePool& pool, const Body& body) {
  int threads = pool.threads < 1 ? 1 : pool.threads > kMostThreads ? kMostThreads : pool.threads;
  if (threads == 1) {
    Team alone(1);
    return body(alone, 0);
  }
  Running<Body> running = {pool, body, nullptr, 0};
  if (pool.parallel) {
    Team team(threads);
    running.team = &team;
    return pool.parallel(Running<Body>::in_pool, &running, threads, 0);
  }
  pthread_t made[kMostThreads];
  int count = 1;
  while (count < threads && !pthread_create(&made[count], nullptr, Running<Body>::in_thread, &running)) count++;
  Team team(count);  // as many as the system gave
  __atomic_store_n(&running.team, &team, __ATOMIC_RELEASE);
  body(team, 0);
  for (int i = 1; i < count; i++) pthread_join(made[i], nullptr);
}

}  // namespace

extern "C" {

int32_t segue_paths(void) {
  int32_t found = 1 << kPortable;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found |= 1 << kAvx2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    found |= 1 << kAvx512;
#elif defined(__aarch64__)
  found |= 1 << kNeon;
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & (1 << 20)) found |= 1 << kDotprod;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
  found |= 1 << kDotprod;  // all of this maker's processors that run this have it
#endif
#endif
  return found;
}

int64_t segue_scratch_bytes(const SegueModel* model, int32_t rows, int32_t longest, int32_t threads) {
  return segue_portable.scratch_bytes(*model, rows, longest, threads);
}

void segue_forward(int32_t path, const SeguePool* pool, const SegueModel* model, const SegueCache* own,
                   const SegueCache* cross, const SegueBatch* batch, const SegueInputs* inputs, float* mixed,
                   void* scratch) {
  on_team(*pool, [=](Team& team, int thread) {
    kPaths[path]->forward(team, thread, *model, *own, *cross, *batch, *inputs, mixed, scratch);
  });
}

int64_t segue_draw_scratch_bytes(int32_t card, int32_t threads) { return (int64_t)threads * 4 * (2 * card + 1); }

void segue_draw(int32_t path, const SeguePool* pool, const SegueDraw* draws, const SegueNoise* noise, int32_t takes,
                int32_t codebooks, int32_t card, int64_t stride, const float* logits, int64_t* tokens,
                uint8_t* finite, void* scratch) {
  on_team(*pool, [=](Team& team, int thread) {
    kPaths[path]->draw(team, thread, draws, *noise, takes, codebooks, card, stride, logits, tokens, finite, scratch);
  });
}

int64_t segue_linear_scratch_bytes(const SegueLinear* linear, int32_t rows, int32_t threads) {
  return segue_portable.linear_scratch_bytes(*linear, rows, threads);
}

void segue_linear(int32_t path, const SeguePool* pool, const SegueLinear* linear, const float* x, int32_t width,
                  int32_t rows, float* y, void* scratch) {
  on_team(*pool, [=](Team& team, int thread) {
    kPaths[path]->linear(team, thread, *linear, x, width, rows, y, scratch);
  });
}
}
