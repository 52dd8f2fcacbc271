#include "base/parse.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>

namespace troupe {
namespace {

using ::testing::ElementsAre;

TEST(Numbers, AreAllOfTheText) {
  EXPECT_EQ(parse_number<uint32_t>("4294967295"), 4294967295U);
  EXPECT_EQ(parse_number<int64_t>("-7"), -7);
  EXPECT_EQ(parse_number<double>("1.5e-3"), 0.0015);
  EXPECT_EQ(parse_number<double>("inf"), std::numeric_limits<double>::infinity());
  for (const char* text : {"", " 1", "1 ", "+1", "-1", "1x", "1.0", "4294967296", "0x1", "nan"}) {
    EXPECT_FALSE(parse_number<uint32_t>(text)) << text;
  }
  for (const char* text : {"", " 1", "1s", "+1", "nan", "-nan", "1e400"}) {
    EXPECT_FALSE(parse_number<double>(text)) << text;
  }
}

TEST(Split, HasOnePartMoreThanSeparators) {
  EXPECT_THAT(split("a,,b", ','), ElementsAre("a", "", "b"));
  EXPECT_THAT(split("a", ','), ElementsAre("a"));
  EXPECT_THAT(split("", ','), ElementsAre(""));
  EXPECT_THAT(split(",", ','), ElementsAre("", ""));
}

}  // namespace
}  // namespace troupe
