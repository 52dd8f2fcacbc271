#pragma once

// Where the streams of emulated devices meet to gather what each has.

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

namespace troupe::kernels {

/// Each rank in a thread of its own.
class EmulatedExchange {
 public:
  explicit EmulatedExchange(size_t num_ranks) : offers_(num_ranks) {}
  EmulatedExchange(const EmulatedExchange&) = delete;
  EmulatedExchange& operator=(const EmulatedExchange&) = delete;

  [[nodiscard]] size_t num_ranks() const { return offers_.size(); }
  /// Waits for all ranks to come, copies, and waits until all have copied, as who comes next may
  /// write to its part. @returns "" or what is wrong
  std::string gather(size_t rank, const float* part, size_t count, float* parts);

 private:
  struct Offer {
    const float* part = nullptr;
    size_t count = 0;
  };
  /// Until all are there. @returns whether they came within a minute
  bool meet(std::unique_lock<std::mutex>& lock);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Offer> offers_;  ///< of the gather at hand, by rank
  size_t num_here_ = 0;
  size_t num_meetings_ = 0;
};

}  // namespace troupe::kernels
