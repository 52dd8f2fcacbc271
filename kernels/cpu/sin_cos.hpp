#pragma once

// sin and cos in double, the same bits everywhere: libm's versions differ between releases and even
// between the variants one libm chooses from at run time.

#include <array>
#include <cmath>

#include "kernels/on_device.hpp"

namespace troupe::kernels {

struct SinCos {
  double sin;
  double cos;
};

/// Ratios of neighbouring Taylor coefficients, -1 / (2k (2k + 1)) and -1 / ((2k - 1) 2k).
inline constexpr auto kSinSteps = [] {
  std::array<double, 10> steps{};
  for (int k = 1; k < 10; ++k) steps[k] = -1.0 / (2 * k * (2 * k + 1));
  return steps;
}();
inline constexpr auto kCosSteps = [] {
  std::array<double, 10> steps{};
  for (int k = 1; k < 10; ++k) steps[k] = -1.0 / ((2 * k - 1) * (2 * k));
  return steps;
}();

/// Error below 3e-16 for |x| < 2^24 (context lengths end long before); NaN and infinity give NaN.
/// The angle is reduced by multiples of pi/2 in two parts; the series are Taylor's, whose first
/// dropped terms are below 1e-19 on [-pi/4, pi/4].
TROUPE_ON_DEVICE inline SinCos sin_cos(double x) {
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kHalfPiHigh = 0x1.921fb54442d18p+0;
  constexpr double kHalfPiLow = 0x1.1a62633145c07p-54;
  constexpr double kRoundMagic = 0x1.8p52;
  const double n = std::fma(x, kTwoOverPi, kRoundMagic) - kRoundMagic;
  const double r = std::fma(n, -kHalfPiLow, std::fma(n, -kHalfPiHigh, x));
  const double z = r * r;
  constexpr std::array kSin =
      kSinSteps;  // copies: devices have no namespace-scope arrays of the host
  constexpr std::array kCos = kCosSteps;
  double s = 0;
  double c = 0;
  for (int k = 9; k >= 1; --k) {  // 1 - z/(2k(2k+1)) (1 - ...), and the same for cos
    s = z * kSin[k] * (1 + s);
    c = z * kCos[k] * (1 + c);
  }
  s = std::fma(r, s, r);
  c = 1 + c;
  const double quarter = n - 4 * std::floor(n / 4);
  if (quarter == 1) return {c, -s};
  if (quarter == 2) return {-s, -c};
  if (quarter == 3) return {-c, s};
  return {s, c};
}

}  // namespace troupe::kernels
