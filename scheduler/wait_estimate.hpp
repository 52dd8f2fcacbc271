#pragma once

// How long a request that queues now would wait for a place, learned from how fast places came free
// while others waited. A moving average; says nothing before it has seen two of them. Pure.

#include <algorithm>
#include <optional>

#include "base/time.hpp"

namespace troupe::scheduler {

class WaitEstimate {
 public:
  /// A request that had waited got a place. `others_wait`: the next place is waited for, too.
  void place_taken(Instant now, bool others_wait) {
    if (last_) {
      const Duration gap = now - *last_;
      mean_ns_ = mean_ns_ < 0 ? static_cast<double>(gap.ns)
                              : mean_ns_ + kRate * (static_cast<double>(gap.ns) - mean_ns_);
    }
    last_ = others_wait ? std::optional(now) : std::nullopt;
  }
  /// Nobody waits any more: the time until the next place is taken says nothing.
  void queue_empty() { last_.reset(); }

  /// For a request that `num_ahead` others are served before.
  [[nodiscard]] std::optional<Duration> wait(uint64_t num_ahead) const {
    if (mean_ns_ < 0) return std::nullopt;
    const double ns = mean_ns_ * static_cast<double>(num_ahead + 1);
    return Duration{static_cast<int64_t>(std::min(ns, 1e18))};
  }

 private:
  static constexpr double kRate = 0.125;
  double mean_ns_ = -1;          ///< between two places; < 0: not known
  std::optional<Instant> last_;  ///< the place before, if others waited for the next since
};

}  // namespace troupe::scheduler
