#pragma once

// What a set of measured values is summed up in.

#include <cstddef>
#include <vector>

namespace troupe::loadgen {

/// The percentiles that every report gives.
inline constexpr int kPercentiles[] = {50, 90, 95, 99};

/// Values in ascending order with their moments.
class Distribution {
 public:
  Distribution() = default;
  explicit Distribution(std::vector<double> values);

  [[nodiscard]] bool empty() const { return sorted_.empty(); }
  [[nodiscard]] size_t count() const { return sorted_.size(); }
  /// 0 where there are no values, as in vLLM's reports.
  [[nodiscard]] double mean() const { return mean_; }
  /// Of the whole population, divided by n (numpy's default, so vLLM's).
  [[nodiscard]] double standard_deviation() const { return standard_deviation_; }
  [[nodiscard]] double min() const { return empty() ? 0 : sorted_.front(); }
  [[nodiscard]] double max() const { return empty() ? 0 : sorted_.back(); }
  /// Linear between the two nearest ranks (numpy's default, so vLLM's).
  /// @param percent 0 to 100
  [[nodiscard]] double percentile(double percent) const;
  [[nodiscard]] const std::vector<double>& sorted() const { return sorted_; }

 private:
  std::vector<double> sorted_;
  double mean_ = 0;
  double standard_deviation_ = 0;
};

}  // namespace troupe::loadgen
