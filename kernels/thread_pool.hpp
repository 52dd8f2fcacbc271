#pragma once

// A fixed set of compute threads for one process: the only place where arithmetic is parallel.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace troupe::kernels {

/// Runs index ranges on `num_threads` threads, of which the caller is one. Idle workers sleep; they
/// may spin for a short time between two calls of one step. One call at a time per pool (a second
/// caller waits its turn); a call from inside a running task runs in that task's thread.
class ThreadPool {
 public:
  /// @param num_threads >= 1, the caller included: 1 starts no thread.
  /// @param cpus to pin the threads to, one for each, the first for pin_caller(); empty: none
  explicit ThreadPool(size_t num_threads, std::vector<uint32_t> cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] size_t num_threads() const;

  /// Pins the calling thread, which is the one that is to call parallel_for(). Threads that it
  /// starts later would run on that CPU, too.
  void pin_caller();

  /// Calls task(i) for each i in [0, n), each exactly once, and returns when all are done.
  void parallel_for(size_t n, const std::function<void(size_t)>& task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace troupe::kernels
