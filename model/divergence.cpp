#include "model/divergence.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.hpp"

namespace troupe::model {
namespace {

/// log(sum(exp(logits))), without overflow.
double log_sum_exp(std::span<const float> logits) {
  const double max = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - max);
  return max + std::log(sum);
}

double mean(std::span<const float> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

void Divergence::add(std::span<const float> reference, std::span<const float> other) {
  CHECK_GT(reference.size(), 0U);
  CHECK_EQ(reference.size(), other.size());
  const double log_p_sum = log_sum_exp(reference), log_q_sum = log_sum_exp(other);
  // Logits plus a constant are the same choice: differences are taken around their means.
  const double p_mean = mean(reference), q_mean = mean(other);
  double divergence = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double log_p = reference[i] - log_p_sum, log_q = other[i] - log_q_sum;
    divergence += std::exp(log_p) * (log_p - log_q);
    const double p = reference[i] - p_mean, q = other[i] - q_mean;
    squared_errors_ += (p - q) * (p - q);
    squared_spread_ += p * p;
  }
  divergences_.push_back(divergence);
  const auto best = [](std::span<const float> logits) {
    return std::ranges::max_element(logits) - logits.begin();
  };
  if (best(reference) == best(other)) ++agreements_;
}

double Divergence::top1_agreement() const {
  CHECK_GT(positions(), 0U);
  return static_cast<double>(agreements_) / static_cast<double>(positions());
}

double Divergence::mean_kl() const {
  CHECK_GT(positions(), 0U);
  return std::accumulate(divergences_.begin(), divergences_.end(), 0.0) /
         static_cast<double>(positions());
}

double Divergence::kl_quantile(double q) const {
  CHECK_GT(positions(), 0U);
  std::vector<double> sorted = divergences_;
  std::ranges::sort(sorted);
  const auto rank = static_cast<size_t>(std::ceil(q * static_cast<double>(sorted.size())));
  return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

double Divergence::relative_error() const {
  return squared_spread_ == 0 ? 0 : std::sqrt(squared_errors_ / squared_spread_);
}

}  // namespace troupe::model
