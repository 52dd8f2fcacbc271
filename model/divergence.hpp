#pragma once

// How far a model's choices are from another's: what fewer bits cost, token by token.

#include <cstddef>
#include <span>
#include <vector>

namespace troupe::model {

/// Collects positions; all figures are computed in double.
class Divergence {
 public:
  /// Adds one position's logits, [vocab] of each model.
  /// REQUIRES: equal, positive sizes; finite values.
  void add(std::span<const float> reference, std::span<const float> other);

  [[nodiscard]] size_t positions() const { return divergences_.size(); }
  /// Share of positions whose likeliest token is the same (ties to the lower id), 0 to 1.
  [[nodiscard]] double top1_agreement() const;
  /// Mean over positions of the Kullback-Leibler divergence of the other model's probabilities
  /// from the reference's, sum p * log(p / q), in nats.
  [[nodiscard]] double mean_kl() const;
  /// The divergence that a share `q` of the positions does not exceed (nearest rank).
  [[nodiscard]] double kl_quantile(double q) const;
  /// Root of the mean square of the logits' differences, over that of the reference's logits
  /// around their mean at each position: 0 if equal, 1 if as large as the logits' own spread.
  [[nodiscard]] double relative_error() const;

 private:
  std::vector<double> divergences_;
  size_t agreements_ = 0;
  double squared_errors_ = 0;
  double squared_spread_ = 0;
};

}  // namespace troupe::model
