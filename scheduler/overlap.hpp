#pragma once

// Whether a step is worth cutting into two micro-batches. Two hide the time that rows are away at
// the experts, and read every weight twice; which weighs more depends on the machine, the network
// and the rows. So it is learned: by the number of rows, and whether some are prefill, what steps
// cut and not cut took, as moving averages, with the kind that looks worse tried again more and
// more seldom. Pure.

#include <array>
#include <cstdint>

#include "base/time.hpp"

namespace troupe::scheduler {

class Overlap {
 public:
  /// @param fixed 1 or 2 micro-batches, always; 0: as learned
  explicit Overlap(uint32_t fixed) : fixed_(fixed) {}

  /// Micro-batches for such a step: 1 or 2, and 1 for a single row.
  [[nodiscard]] uint32_t choose(uint32_t num_rows, bool prefills);
  /// Such a step, cut as choose() said, took so long.
  void learn(uint32_t num_rows, bool prefills, uint32_t micro_batches, Duration took);

 private:
  /// Steps of 2^i to 2^(i+1) - 1 rows.
  struct Bucket {
    std::array<double, 2> row_ns{0, 0};  ///< per row, by micro-batches - 1; 0: not known
    uint32_t until_trial = 0;            ///< steps before the worse kind is tried
    uint32_t trial_period = kFirstPeriod;
  };
  static constexpr uint32_t kFirstPeriod = 16, kLastPeriod = 1024;
  Bucket& bucket(uint32_t num_rows, bool prefills);

  uint32_t fixed_;
  std::array<std::array<Bucket, 32>, 2> buckets_;
};

}  // namespace troupe::scheduler
