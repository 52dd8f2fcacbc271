#include "kernels/cpu/exp.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/sin_cos.hpp"

namespace troupe::kernels {
namespace {

TEST(Exp, IsWithinOneUlpOfTheTruthOnItsRange) {
  // Every 149th float of either sign in [-87, 88]; all of them take minutes.
  double worst = 0;
  for (const uint32_t sign : {0U, 0x80000000U}) {
    const uint32_t last = std::bit_cast<uint32_t>(sign == 0 ? kExpHigh : -kExpLow);
    for (uint32_t magnitude = 0; magnitude <= last; magnitude += 149) {
      const float x = std::bit_cast<float>(sign | magnitude);
      const double truth = std::exp(static_cast<double>(x));
      const double ulp = std::ldexp(1.0, std::ilogb(truth) - 23);
      worst = std::max(worst, std::abs(exp_f32(x) - truth) / ulp);
    }
  }
  EXPECT_LE(worst, 1.0);
  RecordProperty("worst_ulp", std::to_string(worst));
}

TEST(Exp, IsClampedOutsideItsRangeAndKeepsNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(exp_f32(-infinity), 0.0F);
  EXPECT_EQ(exp_f32(-1e30F), 0.0F);
  EXPECT_EQ(exp_f32(std::nextafter(kExpLow, -infinity)), 0.0F);
  EXPECT_GT(exp_f32(kExpLow), 0.0F);
  EXPECT_EQ(exp_f32(infinity), exp_f32(kExpHigh));
  EXPECT_EQ(exp_f32(1e30F), exp_f32(kExpHigh));
  EXPECT_TRUE(std::isfinite(exp_f32(kExpHigh)));
  EXPECT_EQ(exp_f32(0.0F), 1.0F);
  EXPECT_EQ(exp_f32(-0.0F), 1.0F);
  EXPECT_TRUE(std::isnan(exp_f32(std::numeric_limits<float>::quiet_NaN())));
}

TEST(SinCos, AgreesWithTheLibraryForAllAnglesOfAContext) {
  double worst = 0;
  for (double x = -3.5; x < 2e5; x += 0.37 + 1e-5 * std::abs(x)) {
    const SinCos got = sin_cos(static_cast<float>(x));
    worst =
        std::max(worst, std::abs(got.sin - std::sin(static_cast<double>(static_cast<float>(x)))));
    worst =
        std::max(worst, std::abs(got.cos - std::cos(static_cast<double>(static_cast<float>(x)))));
  }
  EXPECT_LE(worst, 3e-16);
  EXPECT_EQ(sin_cos(0).sin, 0);
  EXPECT_EQ(sin_cos(0).cos, 1);
}

}  // namespace
}  // namespace troupe::kernels
