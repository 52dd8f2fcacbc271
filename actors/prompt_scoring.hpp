#pragma once

// Log-probabilities of a prompt's tokens, gathered while it is prefilled in any chunks: that of a
// token comes from the row before it. Rows that are not scored yet have to be computed, cached or
// not; what was scored before a preemption stays. Pure.

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "model/sampling.hpp"

namespace troupe::actors {

class PromptScoring {
 public:
  PromptScoring() = default;  ///< nothing is wanted
  /// All tokens of the prompt but the first. REQUIRES: num_prompt >= 1
  explicit PromptScoring(uint32_t num_prompt) : num_wanted_(num_prompt - 1) {}

  [[nodiscard]] bool is_over() const { return scored_.size() >= num_wanted_; }
  /// Of so many known tokens so many may be looked up in the prefix cache, which leaves the last
  /// one to be computed.
  [[nodiscard]] uint32_t num_cacheable(uint32_t num_known) const {
    return is_over() ? num_known : static_cast<uint32_t>(scored_.size()) + 1;
  }

  /// Positions in the prompt: the tokens behind them are scored.
  struct Rows {
    uint32_t first = 0;
    uint32_t count = 0;
  };
  /// Of the rows [first, first + count) that are computed next.
  /// REQUIRES: none is left out that is still to be scored.
  [[nodiscard]] Rows next_of(uint32_t first, uint32_t count) const {
    const auto begin = static_cast<uint32_t>(scored_.size());
    const uint32_t end = std::min(first + count, num_wanted_);
    if (begin >= end) return {};
    CHECK_LE(first, begin);
    return {begin, end - begin};
  }
  void take(std::span<model::SampledToken> scored) {
    std::ranges::move(scored, std::back_inserter(scored_));
  }
  /// What was gathered; nothing more is wanted.
  std::vector<model::SampledToken> finish() {
    num_wanted_ = 0;
    return std::exchange(scored_, {});
  }

 private:
  uint32_t num_wanted_ = 0;
  std::vector<model::SampledToken> scored_;
};

}  // namespace troupe::actors
