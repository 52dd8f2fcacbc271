#pragma once

// What a router's KV blocks cost, measured while it serves, for its holder to choose between
// copying an evicted block to the host and computing it again. Pure.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/time.hpp"
#include "kvcache/prefix_cache.hpp"

namespace troupe::actors {

class MeasuredBlockCosts {
 public:
  /// @param attention_span see RouterEngine::attention_span()
  MeasuredBlockCosts(uint32_t block_tokens, double attention_span)
      : block_tokens_(block_tokens), attention_span_(attention_span) {}

  void copied(Duration took, size_t num_copies) {
    constexpr double kRate = 0.25;
    if (took.ns <= 0 || num_copies == 0) return;
    const double ns = static_cast<double>(took.ns) / static_cast<double>(num_copies);
    copy_ns_ += (copy_ns_ > 0 ? kRate : 1) * (ns - copy_ns_);
  }
  /// @param first_row what the first row of a prompt costs in steps that only prefill
  /// @returns nothing as long as one of both is not known
  [[nodiscard]] std::optional<kvcache::BlockCosts> with(std::optional<Duration> first_row) const {
    if (copy_ns_ <= 0 || !first_row) return std::nullopt;
    const double compute_ns = static_cast<double>(first_row->ns) * block_tokens_;
    return kvcache::BlockCosts{
        .copy = Duration{std::llround(copy_ns_)},
        .compute = Duration{std::llround(compute_ns)},
        .compute_deeper = Duration{std::llround(compute_ns * block_tokens_ / attention_span_)}};
  }

 private:
  double block_tokens_;
  double attention_span_;
  double copy_ns_ = 0;  ///< of one block; 0: not known
};

}  // namespace troupe::actors
