#pragma once

// What a step costs, learned on line by moving averages, so that growing contexts and batches are
// followed: a constant for a step that decodes, and what rows of prefill add to it. Steps that only
// decode teach the constant; a mixture alone could not tell the two apart, so the batcher leaves
// prefill out of a step now and then.
//
// A row of prefill has no one price: the first few of a step make it read most experts and cost
// more than those that follow. So the steps that mix and those that only prefill, which are larger,
// are remembered apart, and what lies between lies on the line through both.

#include <cstdint>
#include <optional>

#include "base/time.hpp"

namespace troupe::scheduler {

/// What of a step decides its cost.
struct StepShape {
  bool decodes = false;
  uint32_t prefill_tokens = 0;
};

class StepCost {
 public:
  /// REQUIRES: the step decodes or has rows of prefill.
  void learn(const StepShape& step, Duration took);

  /// Rows of prefill that lengthen a step that decodes to `percent` of its time without them, or to
  /// `target`, whichever is more.
  /// @param percent >= 100
  /// @returns nothing as long as no step that decodes, or none that prefills, is known
  [[nodiscard]] std::optional<uint64_t> prefill_tokens_within(uint32_t percent,
                                                              Duration target) const;

 private:
  /// Of the prefill of some steps; both 0: not known.
  struct Average {
    double rows = 0;
    double ns = 0;
    void learn(double rows_sample, double ns_sample);
    [[nodiscard]] bool known() const { return ns > 0; }
  };

  double decode_ns_ = 0;  ///< 0: not known
  Average mixed_, alone_;
};

}  // namespace troupe::scheduler
