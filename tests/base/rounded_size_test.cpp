#include "base/rounded_size.hpp"

#include <gtest/gtest.h>

namespace troupe {
namespace {

TEST(RoundedSize, HasTheLargestUnitThatLeavesOne) {
  EXPECT_EQ(rounded_size(0), "0 B");
  EXPECT_EQ(rounded_size(1023), "1023 B");
  EXPECT_EQ(rounded_size(1024), "1.00 KiB");
  EXPECT_EQ(rounded_size(3ULL << 29), "1.50 GiB");
  EXPECT_EQ(rounded_size(1ULL << 40), "1.00 TiB");
  EXPECT_EQ(rounded_size(2048ULL << 40), "2048.00 TiB");
}

}  // namespace
}  // namespace troupe
