#include "kernels/thread_pool.hpp"

#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "kernels/cpu_claims.hpp"

namespace troupe::kernels {
namespace {

/// Looks at the next call before a worker sleeps: 5 to 15 us, by the CPU's pause instruction. The
/// operations of one step follow each other within that time; waking a sleeper costs 30 to 70 us.
constexpr int kSpins = 256;

/// True in a thread while it runs a task of any pool: calls from there must not wait for a pool.
thread_local bool in_task = false;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// @param cpus of a pool's threads, or empty. A set of CPUs that became smaller meanwhile, in which
/// the kernel refuses, is no reason to end: the thread runs where it may.
void pin(const std::vector<uint32_t>& cpus, size_t thread) {
  if (!cpus.empty()) static_cast<void>(run_this_thread_on({&cpus[thread], 1}).ok());
}

/// Waits until `value` differs from `old`: spins for a short time, then sleeps.
void wait_while_equal(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

/// Indices [first, last) that are still to be run.
struct Indices {
  uint32_t first = 0;
  uint32_t last = 0;
  [[nodiscard]] uint32_t size() const { return last - first; }
};

/// What is left of a thread's share; alone in its cache lines.
struct alignas(128) Share {
  std::atomic<Indices> left{Indices{}};
  static_assert(std::atomic<Indices>::is_always_lock_free);
};

// A call is open while the caller has indices. Workers enter an open call and leave it when the
// indices are used up; the caller closes it and waits for those inside only. A worker that wakes
// too late finds it closed and costs nobody anything.
//
// Each thread begins with an equal share of neighbouring indices, since neighbours often read what
// follows in memory, and takes half of another's rest when its own is used up.
struct ThreadPool::State {
  static constexpr uint32_t kClosed = 1U << 31U;

  std::mutex one_call;  // held by the caller for the whole call
  std::vector<std::thread> workers;

  std::atomic<uint32_t> call_number{0};   // workers sleep on it
  std::atomic<uint32_t> inside{kClosed};  // workers inside the call, and whether it is closed
  std::atomic<bool> stopping{false};

  // Written only while closed and nobody is inside.
  const std::function<void(size_t)>* task = nullptr;
  std::vector<Share> shares;  // of the caller, then of the workers

  const std::vector<uint32_t> cpus;  // in the same order, or empty

  State(size_t num_threads, std::vector<uint32_t> pinned_to)
      : shares(num_threads), cpus(std::move(pinned_to)) {}

  // An index is taken once, so that a range never comes back and comparing it is enough.

  void run_indices(size_t self) {
    in_task = true;
    std::atomic<Indices>& own = shares[self].left;
    do {
      for (Indices left = own.load(std::memory_order_relaxed); left.size() > 0;) {
        if (!own.compare_exchange_weak(left, {left.first + 1, left.last},
                                       std::memory_order_relaxed)) {
          continue;
        }
        (*task)(left.first);
        left = own.load(std::memory_order_relaxed);
      }
    } while (take_half(self));
    in_task = false;
  }

  /// Moves the second half of what another thread has left to `self`. @returns false: all is taken.
  bool take_half(size_t self) {
    for (size_t i = 1; i < shares.size(); ++i) {
      std::atomic<Indices>& other = shares[(self + i) % shares.size()].left;
      for (Indices left = other.load(std::memory_order_relaxed); left.size() > 0;) {
        const uint32_t middle = left.first + left.size() / 2;
        if (other.compare_exchange_weak(left, {left.first, middle}, std::memory_order_relaxed)) {
          shares[self].left.store({middle, left.last}, std::memory_order_relaxed);
          return true;
        }
      }
    }
    return false;
  }

  void leave() {
    if (inside.fetch_sub(1, std::memory_order_acq_rel) == (kClosed | 1U)) inside.notify_all();
  }

  void work(size_t self) {
    pin(cpus, self);
    uint32_t seen = 0;
    for (;;) {
      wait_while_equal(call_number, seen);
      seen = call_number.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_acquire)) return;
      if ((inside.fetch_add(1, std::memory_order_acq_rel) & kClosed) == 0) run_indices(self);
      leave();
    }
  }

  void call(size_t count, const std::function<void(size_t)>& f) {
    CHECK_LE(count, std::numeric_limits<uint32_t>::max());
    task = &f;
    for (size_t t = 0; t < shares.size(); ++t) {
      shares[t].left.store({static_cast<uint32_t>(count * t / shares.size()),
                            static_cast<uint32_t>(count * (t + 1) / shares.size())},
                           std::memory_order_relaxed);
    }
    inside.fetch_and(~kClosed, std::memory_order_acq_rel);
    call_number.fetch_add(1, std::memory_order_acq_rel);
    call_number.notify_all();
    run_indices(0);
    uint32_t count_inside = inside.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
    while (count_inside != kClosed) {
      wait_while_equal(inside, count_inside);
      count_inside = inside.load(std::memory_order_acquire);
    }
  }
};

ThreadPool::ThreadPool(size_t num_threads, std::vector<uint32_t> cpus)
    : state_(std::make_unique<State>(num_threads, std::move(cpus))) {
  CHECK_GE(num_threads, 1U);
  if (!state_->cpus.empty()) CHECK_EQ(state_->cpus.size(), num_threads);
  for (size_t i = 1; i < num_threads; ++i) {
    state_->workers.emplace_back([state = state_.get(), i] { state->work(i); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_release);
  state_->call_number.fetch_add(1, std::memory_order_acq_rel);
  state_->call_number.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

size_t ThreadPool::num_threads() const { return state_->workers.size() + 1; }

void ThreadPool::pin_caller() { pin(state_->cpus, 0); }

void ThreadPool::parallel_for(size_t n, const std::function<void(size_t)>& task) {
  if (n == 0) return;
  if (in_task) {
    for (size_t i = 0; i < n; ++i) task(i);
    return;
  }
  const std::lock_guard<std::mutex> lock(state_->one_call);
  if (n == 1 || state_->workers.empty()) {
    in_task = true;
    for (size_t i = 0; i < n; ++i) task(i);
    in_task = false;
  } else {
    state_->call(n, task);
  }
}

}  // namespace troupe::kernels
