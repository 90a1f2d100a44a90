// The threads of one call: a barrier that spins, and shares of work that idle threads may take from others.
//
// Nothing here decides a result: which thread does a piece never changes its bits.
#pragma once
#include <sched.h>
#include <stdint.h>

#include "segue.h"

enum { kMostThreads = 64 };

struct Team {
  struct alignas(64) Share {
    int taken;
  };

  explicit Team(int size_) : size(size_) {}

  // Every thread calls it; what was written before is seen by all after.
  void wait() {
    const unsigned round = __atomic_load_n(&round_, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == size) {
      for (int i = 0; i < size; i++) shares_[i].taken = 0;
      arrived_ = 0;
      __atomic_store_n(&round_, round + 1, __ATOMIC_RELEASE);
      return;
    }
    // a phase lasts microseconds; one that lasts longer has lost its processor to somebody else
    for (int spins = 0; __atomic_load_n(&round_, __ATOMIC_ACQUIRE) == round; spins++) {
      if (spins < 4000) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
      } else {
        sched_yield();
      }
    }
  }

  // The next piece of `pieces` for a thread: its own in order (memory is read as one stream), then others'. -1: none.
  int take(int thread, int pieces) {
    for (int i = 0; i < size; i++) {
      const int owner = (thread + i) % size;
      const int begin = (int)((int64_t)pieces * owner / size);
      const int end = (int)((int64_t)pieces * (owner + 1) / size);
      if (__atomic_load_n(&shares_[owner].taken, __ATOMIC_RELAXED) >= end - begin) continue;
      const int at = begin + __atomic_fetch_add(&shares_[owner].taken, 1, __ATOMIC_RELAXED);
      if (at < end) return at;
    }
    return -1;
  }

  const int size;

 private:
  alignas(64) unsigned round_ = 0;
  alignas(64) int arrived_ = 0;
  Share shares_[kMostThreads] = {};
};
