#include "loadgen/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.hpp"

namespace troupe::loadgen {

Distribution::Distribution(std::vector<double> values) : sorted_(std::move(values)) {
  if (sorted_.empty()) return;
  std::sort(sorted_.begin(), sorted_.end());
  const auto n = static_cast<double>(sorted_.size());
  mean_ = std::accumulate(sorted_.begin(), sorted_.end(), 0.0) / n;
  double squares = 0;
  for (const double value : sorted_) squares += (value - mean_) * (value - mean_);
  standard_deviation_ = std::sqrt(squares / n);
}

double Distribution::percentile(double percent) const {
  CHECK(percent >= 0 && percent <= 100);
  if (sorted_.empty()) return 0;
  const double rank = percent / 100 * static_cast<double>(sorted_.size() - 1);
  const auto below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted_.size() - 1);
  return sorted_[below] + (sorted_[above] - sorted_[below]) * (rank - std::floor(rank));
}

}  // namespace troupe::loadgen
