#pragma once

// Runs kernels written against kernels/cuda/simt.cuh on the CPU, for tests: every thread of a block
// is a fiber, blocks run one after the other, and barriers, shuffles and matrix products wait for
// all threads that take part, as on a GPU.
//
// A launch ends with a report when threads wait at different places or one has ended, when shared
// memory is left, when a load is not aligned. Shared memory begins as NaNs, and an asynchronous
// copy arrives only when it is waited for. What is not found: races that no order of threads tried
// here brings out. Products of a matrix add 16 elements in ascending order in float32; those of a
// GPU may round differently.

#include <cstdint>
#include <deque>
#include <functional>
#include <string>

namespace troupe::kernels::simt {

/// In which order threads that could go on do. Results of a correct kernel do not depend on it.
struct ThreadOrder {
  bool falling = false;
  uint64_t shuffle_seed = 0;  ///< 0: as they are numbered
};

/// Of launches without a stream.
void set_thread_order(ThreadOrder order);

/// Work in order, which is done when somebody waits for it and no sooner, so that what the host
/// reads or writes too early is seen in results. Launches without a stream are done at once.
class EmulatedStream {
 public:
  /// @param work says "" or what is wrong; then nothing after it is done
  void add(std::function<std::string()> work);
  void add_silent(std::function<void()> work);
  /// Behind all that was added.
  [[nodiscard]] uint64_t position() const { return done_ + work_.size(); }
  /// How much of that is done.
  [[nodiscard]] uint64_t done() const { return done_; }
  /// Does what was added before `position` and is not done. @returns "" or the first report
  std::string run_until(uint64_t position);
  std::string run() { return run_until(position()); }
  /// Launches take turns at three, so two computations of the same numbers are done in different
  /// ones.
  ThreadOrder next_order();

 private:
  std::deque<std::function<std::string()>> work_;
  uint64_t done_ = 0;
  uint64_t launches_ = 0;
};

}  // namespace troupe::kernels::simt
