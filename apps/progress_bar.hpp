#pragma once

// A bar on standard error for work of known size.

#include <chrono>
#include <cstdint>
#include <string>

namespace troupe::apps {

/// Redrawn at most five times a second on a terminal, else a line every ten seconds. Not for
/// several threads at once.
class ProgressBar {
 public:
  explicit ProgressBar(std::string what);
  void show(uint64_t bytes_done, uint64_t bytes_total);
  /// Ends the line.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool terminal_;
  std::chrono::milliseconds interval_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point next_ = start_ + interval_;
  uint64_t first_bytes_ = 0;
  bool shown_ = false;
};

}  // namespace troupe::apps
