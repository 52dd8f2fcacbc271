#include "base/bfloat16.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace troupe {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float rounded(float value) { return from_bf16(to_bf16(value)); }

TEST(Bfloat16, IsTheNearestTiesToEven) {
  EXPECT_EQ(rounded(1.0F), 1.0F);
  EXPECT_EQ(rounded(1.0F + 0x1p-8F), 1.0F);
  EXPECT_EQ(rounded(1.0F + 0x1.8p-7F), 1.0F + 0x1p-6F);
  EXPECT_EQ(rounded(-1.0F - 0x1.01p-8F), -1.0F - 0x1p-7F);
  EXPECT_EQ(rounded(0x1p-149F), 0.0F) << "the least denormal";
  EXPECT_EQ(rounded(0x1.8p-133F), 0x1p-132F) << "a denormal between two, to the even one";
}

TEST(Bfloat16, KeepsWhatItCanHold) {
  for (uint32_t bits = 0; bits <= 0xffffU; ++bits) {
    const float value = from_bf16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(to_bf16(value), bits) << value;
  }
}

TEST(Bfloat16, IsInfiniteFromHalfAStepBeyondTheLargest) {
  EXPECT_EQ(rounded(0x1.fefffep127F), 0x1.fep127F);
  EXPECT_EQ(rounded(0x1.ffp127F), kInfinity);
  EXPECT_EQ(rounded(-std::numeric_limits<float>::max()), -kInfinity);
  EXPECT_EQ(rounded(kInfinity), kInfinity);
}

TEST(Bfloat16, KeepsNanThoughItsUpperHalfIsThatOfInfinity) {
  EXPECT_TRUE(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(0x7f800001U))));
  EXPECT_EQ(to_bf16(std::bit_cast<float>(0xff800001U)), 0xffc0U);
}

}  // namespace
}  // namespace troupe
