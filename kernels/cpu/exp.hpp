#pragma once

// exp as the specification defines it: one polynomial in fused multiply-adds. The SIMD version
// repeats it operation by operation, so both give the same bits; libm's exp would not promise that.
//
// Range: exp(x) = 2^n * e^r with n = round(x / ln 2), |r| <= 0.3468. e^r is 1 + r + r^2 * p(r),
// where p minimises the largest relative error (3.1e-9 before rounding; fitted for this range by
// us). Error: at most 1 ulp on [-87, 88] (tests/kernels/exp_test.cpp).

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/on_device.hpp"

namespace troupe::kernels {

/// Below: exactly 0 (so exp(-inf) = 0, and no result is subnormal).
inline constexpr float kExpLow = -87.0F;
/// Above: as if it were this, so the result is finite.
inline constexpr float kExpHigh = 88.0F;

inline constexpr float kLog2E = 0x1.715476p+0F;
/// ln 2 in two parts; the first has 16 bits, so its product with n is exact.
inline constexpr float kLn2High = 0x1.62e4p-1F;
inline constexpr float kLn2Low = 0x1.7f7d1cp-20F;
/// 1.5 * 2^23: adding it rounds to an integer, found in the low bits of the sum.
inline constexpr float kRoundMagic = 12582912.0F;
inline constexpr std::array kExpP = {0x1.fffffcp-2F, 0x1.555492p-3F, 0x1.5558f2p-5F, 0x1.123a2p-7F,
                                     0x1.6a23cep-10F};

/// e^x in float32; NaN stays NaN.
TROUPE_ON_DEVICE inline float exp_f32(float x) {
  if (x < kExpLow) return 0.0F;
  if (x > kExpHigh) x = kExpHigh;
  const float shifted = std::fma(x, kLog2E, kRoundMagic);
  const float n = shifted - kRoundMagic;
  const float r = std::fma(n, -kLn2Low, std::fma(n, -kLn2High, x));
  constexpr std::array kP = kExpP;  // a copy: devices have no namespace-scope arrays of the host
  float p = kP[4];
  for (int i = 3; i >= 0; --i) p = std::fma(p, r, kP[i]);
  const float e_r = std::fma(p, r * r, r) + 1.0F;
  // 2^n by its exponent bits; the magic's own bits leave the 32-bit word.
  const uint32_t scale = (std::bit_cast<uint32_t>(shifted) + 127U) << 23U;
  return e_r * std::bit_cast<float>(scale);
}

}  // namespace troupe::kernels
