#pragma once

// exp in double, by which sampling weighs tokens, with defined bits: the C library's differ between
// CPUs in the last bit (some use fused multiply-adds), which could move a draw. This one uses only
// operations that IEEE 754 rounds exactly, in a fixed order, so every machine gets the same bits;
// kernels on a device, too.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace troupe {

/// 1/k!, the coefficients of e^r.
inline constexpr std::array<double, 14> kInverseFactorials = [] {
  std::array<double, 14> out{1.0};
  double factorial = 1.0;
  for (size_t k = 1; k < out.size(); ++k) out[k] = 1.0 / (factorial *= static_cast<double>(k));
  return out;
}();

/// e^x for x <= 0 (or hardly above) within 2 units in the last place; 0 below -708 and of NaN.
/// Without a branch, so that a loop over it computes several at once.
constexpr double exp_of(double x) {
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42feep-1;  // ends in zero bits: a product with n is exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRounder = 0x1.8p52;  // adding it leaves no bits for a fraction
  // A copy: devices have no namespace-scope arrays of the host.
  constexpr std::array<double, 14> kTerms = kInverseFactorials;
  const double rounded = x * kLog2E + kRounder;
  const double n = rounded - kRounder;
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| < 0.35: the next term is below 2^-57
  double sum = kTerms[kTerms.size() - 1];
  for (size_t k = kTerms.size() - 1; k-- > 0;) sum = sum * r + kTerms[k];
  // The lowest bits of `rounded` are those of n.
  const uint64_t power_of_two = (std::bit_cast<uint64_t>(rounded) + 1023) << 52;
  const double result = sum * std::bit_cast<double>(power_of_two);
  return x > -708.0 ? result : 0.0;
}

/// What a logit weighs where the highest of all weighs 1: nothing if it is not finite, or weighs
/// less than `least`. @param highest finite @param temperature above 0
constexpr double softmax_weight(float logit, float highest, double temperature, double least) {
  const double exponential =
      exp_of((static_cast<double>(logit) - static_cast<double>(highest)) / temperature);
  const double finite = logit <= highest ? exponential : 0.0;
  return finite < least ? 0.0 : finite;
}

}  // namespace troupe
