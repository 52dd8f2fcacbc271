#include "base/panels.hpp"

#include <gtest/gtest.h>

#include <set>

namespace troupe {
namespace {

constexpr size_t kOut = 48, kIn = 96;

TEST(Panels, OfI8HoldEachElementWhereTheShapeSays) {
  std::set<size_t> bytes;
  for (size_t o = 0; o < kOut; ++o) {
    for (size_t i = 0; i < kIn; ++i) {
      const size_t at = panel_byte_of_i8(kIn, o, i);
      // [out / 16, in / 4, 16, 4]
      EXPECT_EQ(at, ((o / 16 * (kIn / 4) + i / 4) * 16 + o % 16) * 4 + i % 4);
      bytes.insert(at);
    }
  }
  EXPECT_EQ(bytes.size(), kOut * kIn);
  EXPECT_EQ(*bytes.rbegin(), kOut * kIn - 1);
}

TEST(Panels, OfI4HoldTwoElementsInAByte) {
  std::set<std::pair<size_t, bool>> halves;
  for (size_t o = 0; o < kOut; ++o) {
    for (size_t i = 0; i < kIn; ++i) {
      const size_t at = panel_byte_of_i4(kIn, o, i);
      // [out / 16, in / 32, 4, 16, 4]
      EXPECT_EQ(at, (((o / 16 * (kIn / 32) + i / 32) * 4 + i % 16 / 4) * 16 + o % 16) * 4 + i % 4);
      halves.emplace(at, in_high_half(i));
    }
  }
  EXPECT_EQ(halves.size(), kOut * kIn);
  EXPECT_EQ(halves.rbegin()->first, kOut * kIn / 2 - 1);
}

TEST(Panels, KeepTheScalesOfAGroupTogether) {
  EXPECT_EQ(panel_scale(3, 0, 0), 0U);
  EXPECT_EQ(panel_scale(3, 15, 0), 15U);
  EXPECT_EQ(panel_scale(3, 0, 1), 16U);
  EXPECT_EQ(panel_scale(3, 16, 0), 48U);
  EXPECT_EQ(panel_scale(3, 17, 2), 48U + 32U + 1U);
}

TEST(Panels, TakeWholePanelsAndBlocksOnly) {
  EXPECT_TRUE(fits_panels(16, 32));
  EXPECT_FALSE(fits_panels(24, 32));
  EXPECT_FALSE(fits_panels(16, 48));
}

}  // namespace
}  // namespace troupe
