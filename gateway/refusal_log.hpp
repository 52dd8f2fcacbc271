#pragma once

// Which refusals get a line of the log: under overload there are thousands in a second, and the
// lines would cost more than the refusals and fill the disk. All are counted in the metrics. Pure.

#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

#include "base/time.hpp"

namespace troupe::gateway {

class RefusalLog {
 public:
  static constexpr uint32_t kLinesPerSecond = 20;

  /// Thread-safe.
  /// @returns how many were left out before this line, nothing if it is to be left out
  std::optional<uint64_t> next(Instant now) {
    const std::lock_guard lock(mutex_);
    if (now - second_ >= seconds(1)) {
      second_ = now;
      num_lines_ = 0;
    }
    if (num_lines_ == kLinesPerSecond) {
      ++num_left_out_;
      return std::nullopt;
    }
    ++num_lines_;
    return std::exchange(num_left_out_, 0);
  }

 private:
  std::mutex mutex_;
  Instant second_{};  ///< when the current one began
  uint32_t num_lines_ = 0;
  uint64_t num_left_out_ = 0;
};

}  // namespace troupe::gateway
