#pragma once

// The weights by which sampling draws, and their sums, with the same bits on every machine
// (base/exponential.hpp). Sources of model/ only.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/exponential.hpp"

namespace troupe::model {

/// ln x for x >= 1: Halley's iteration on exp_of, the exponent as the first guess.
double log_of(double x);

/// @param log_total ln of the sum of weights at temperature 1
inline float logprob_of(float logit, float highest, double log_total) {
  return static_cast<float>(static_cast<double>(logit) - static_cast<double>(highest) - log_total);
}

/// Some logits at a temperature: the most likely one weighs 1, what is not finite nothing.
struct Softmax {
  std::span<const float> logits;
  float highest = 0;       ///< finite logit
  double temperature = 1;  ///< above 0
  double least = 0;        ///< what weighs less than this weighs nothing

  [[nodiscard]] double weight(float logit) const {
    return softmax_weight(logit, highest, temperature, least);
  }
  /// Of each logit.
  [[nodiscard]] std::vector<double> weights() const;
  /// The sum of all weights by rising index.
  [[nodiscard]] double total() const;
  /// The index at which the running sum of weights passes `uniform`, in [0, 1), of the total.
  [[nodiscard]] size_t draw(double uniform) const;
};

}  // namespace troupe::model
