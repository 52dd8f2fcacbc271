#include "gateway/refusal_log.hpp"

#include <gtest/gtest.h>

namespace troupe::gateway {
namespace {

TEST(RefusalLog, WritesSomeLinesInASecondAndCountsTheRest) {
  RefusalLog log;
  const Instant start{seconds(1000).ns};
  for (uint32_t i = 0; i < RefusalLog::kLinesPerSecond; ++i) EXPECT_EQ(log.next(start), 0U);
  for (int i = 0; i < 7; ++i) EXPECT_EQ(log.next(start + milliseconds(999)), std::nullopt);
  EXPECT_EQ(log.next(start + seconds(1)), 7U) << "told by the first line after them";
  EXPECT_EQ(log.next(start + seconds(1)), 0U);
}

}  // namespace
}  // namespace troupe::gateway
