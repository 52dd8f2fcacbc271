#pragma once

// The weights by which sampling draws, and their sums. exp and log are our own: the C library's
// differ between CPUs in the last bit (some use fused multiply-adds), which could move a draw.
// These use only operations that IEEE 754 rounds exactly, in a fixed order, so every machine gets
// the same bits. Sources of model/ only.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace troupe::model {

/// 1/k!, the coefficients of e^r.
inline constexpr std::array<double, 14> kInverseFactorials = [] {
  std::array<double, 14> out{1.0};
  double factorial = 1.0;
  for (size_t k = 1; k < out.size(); ++k) out[k] = 1.0 / (factorial *= static_cast<double>(k));
  return out;
}();

/// e^x for x <= 0 (or hardly above) within 2 units in the last place; 0 below -708 and of NaN.
/// Without a branch, so that a loop over it computes several at once.
inline double exp_of(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42feep-1;  // ends in zero bits: a product with n is exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRounder = 0x1.8p52;  // adding it leaves no bits for a fraction
  const double rounded = x * kLog2E + kRounder;
  const double n = rounded - kRounder;
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| < 0.35: the next term is below 2^-57
  double sum = kInverseFactorials.back();
  for (size_t k = kInverseFactorials.size() - 1; k-- > 0;) sum = sum * r + kInverseFactorials[k];
  // The lowest bits of `rounded` are those of n.
  const uint64_t power_of_two = (std::bit_cast<uint64_t>(rounded) + 1023) << 52;
  const double result = sum * std::bit_cast<double>(power_of_two);
  return x > -708.0 ? result : 0.0;
}

/// ln x for x >= 1: Halley's iteration on exp_of, the exponent as the first guess.
double log_of(double x);

/// Some logits at a temperature: the most likely one weighs 1, what is not finite nothing.
struct Softmax {
  std::span<const float> logits;
  float highest = 0;       ///< finite logit
  double temperature = 1;  ///< above 0
  double least = 0;        ///< what weighs less than this weighs nothing

  [[nodiscard]] double weight(float logit) const {
    const double exponential =
        exp_of((static_cast<double>(logit) - static_cast<double>(highest)) / temperature);
    const double finite = logit <= highest ? exponential : 0.0;
    return finite < least ? 0.0 : finite;
  }
  /// Of each logit.
  [[nodiscard]] std::vector<double> weights() const;
  /// The sum of all weights by rising index.
  [[nodiscard]] double total() const;
  /// The index at which the running sum of weights passes `uniform`, in [0, 1), of the total.
  [[nodiscard]] size_t draw(double uniform) const;
};

}  // namespace troupe::model
