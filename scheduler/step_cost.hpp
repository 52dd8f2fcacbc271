#pragma once

// What a step costs, learned on line: a constant for a step that decodes plus a price per row of
// prefill, both moving averages, so that growing contexts and batches are followed. Steps that only
// decode teach the constant, all others the price; a mixture alone could not tell the two apart, so
// the batcher leaves prefill out of a step now and then.

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
  /// @returns nothing as long as one of the two prices is not known
  [[nodiscard]] std::optional<uint64_t> prefill_tokens_within(uint32_t percent,
                                                              Duration target) const;

 private:
  double decode_ns_ = 0;  ///< 0: not known
  double token_ns_ = 0;   ///< 0: not known
};

}  // namespace troupe::scheduler
