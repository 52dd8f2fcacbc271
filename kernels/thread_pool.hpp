#pragma once

// A fixed set of compute threads for one process: the only place where arithmetic is parallel.

#include <cstddef>
#include <functional>
#include <memory>

namespace troupe::kernels {

/// Runs index ranges on `num_threads` threads, of which the caller is one. Idle workers sleep; they
/// may spin for a short time between two calls of one step. One call at a time per pool (a second
/// caller waits its turn); a call from inside a running task runs in that task's thread.
class ThreadPool {
 public:
  /// @param num_threads >= 1, the caller included: 1 starts no thread.
  explicit ThreadPool(size_t num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] size_t num_threads() const;

  /// Calls task(i) for each i in [0, n), each exactly once, and returns when all are done.
  void parallel_for(size_t n, const std::function<void(size_t)>& task);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace troupe::kernels
