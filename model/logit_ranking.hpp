#pragma once

// The most likely of some logits, without sorting them all. The highest of each block is found
// once; the n-th of those bounds the n-th of all logits from below, and blocks whose highest is
// less are not looked at again. Sources of model/ only.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace troupe::model {

class LogitRanking {
 public:
  /// Cost: O(logits), some 30 microseconds for 102,400 (bench/results/cpu.md).
  /// @param logits outlive it; those that are not finite have no rank
  explicit LogitRanking(std::span<const float> logits);

  /// The index of the highest logit, the lowest of equals; nullopt: none is finite.
  [[nodiscard]] std::optional<uint32_t> best() const;
  /// Indices of the `count` highest, or of all if they are fewer: falling, equals by rising index.
  [[nodiscard]] std::vector<uint32_t> most_likely(size_t count) const;

 private:
  std::span<const float> logits_;
  std::vector<float> highest_;  ///< of each block; minus infinity: none is finite
};

}  // namespace troupe::model
