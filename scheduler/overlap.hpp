#pragma once

// Whether a step is worth cutting into two micro-batches. Two hide the time that rows are away at
// the experts, and read every weight twice; which weighs more depends on the machine, the network
// and the rows. So it is learned: by the number of rows, and whether some are prefill, what steps
// cut and not cut took. Of each kind the median of the last three counts, so one step that a cold
// start, a page fault or another process made long decides nothing. The kind that looks worse is
// tried again more and more seldom. Pure.

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/time.hpp"

namespace troupe::scheduler {

class Overlap {
 public:
  /// @param fixed 1 or 2 micro-batches, always; 0: as learned
  /// @param attention_span BatcherOptions::attention_span
  explicit Overlap(uint32_t fixed, uint32_t attention_span = 0)
      : fixed_(fixed), attention_span_(attention_span) {}

  /// Micro-batches for such a step: 1 or 2, and 1 for a single row.
  [[nodiscard]] uint32_t choose(uint32_t num_rows, bool prefills);
  /// Such a step, cut as choose() said, took so long.
  /// @param depth positions before each of its rows, summed: what is deep in its context costs more
  void learn(uint32_t num_rows, bool prefills, uint32_t micro_batches, uint64_t depth,
             Duration took);

 private:
  /// What a row at the start of a context took in the last steps of one kind.
  class Recent {
   public:
    static constexpr uint32_t kKept = 3;
    void add(double ns);
    [[nodiscard]] uint32_t count() const { return std::min(num_added_, kKept); }
    /// REQUIRES: count() == kKept
    [[nodiscard]] double median() const;

   private:
    std::array<double, kKept> ns_{};
    uint32_t num_added_ = 0;
  };
  /// Steps of 2^i to 2^(i+1) - 1 rows.
  struct Bucket {
    std::array<Recent, 2> recent;  ///< by micro-batches - 1
    uint32_t until_trial = 0;      ///< steps before the worse kind is tried
    uint32_t trial_period = kFirstPeriod;
    [[nodiscard]] bool known() const;
    /// REQUIRES: known()
    [[nodiscard]] uint32_t better() const;
  };
  static constexpr uint32_t kFirstPeriod = 16, kLastPeriod = 1024;
  Bucket& bucket(uint32_t num_rows, bool prefills);

  uint32_t fixed_;
  uint32_t attention_span_;
  std::array<std::array<Bucket, 32>, 2> buckets_;
};

}  // namespace troupe::scheduler
