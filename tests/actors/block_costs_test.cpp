#include "actors/block_costs.hpp"

#include <gtest/gtest.h>

namespace troupe::actors {
namespace {

TEST(MeasuredBlockCosts, AreKnownWhenCopiesAndRowsWereMeasured) {
  MeasuredBlockCosts costs(16, 4000);
  EXPECT_FALSE(costs.with(microseconds(100)).has_value());
  costs.copied(microseconds(80), 8);
  EXPECT_FALSE(costs.with(std::nullopt).has_value());
  EXPECT_TRUE(costs.with(microseconds(100)).has_value());
}

TEST(MeasuredBlockCosts, CountDeeperBlocksForWhatTheyAttendTo) {
  MeasuredBlockCosts costs(16, 4000);
  costs.copied(microseconds(80), 8);
  const auto block = costs.with(microseconds(100));
  EXPECT_EQ(block->copy, microseconds(10));
  EXPECT_EQ(block->compute, microseconds(1600)) << "100 us a row";
  EXPECT_EQ(block->compute_deeper, Duration{6'400}) << "twice as much 250 blocks later";
}

TEST(MeasuredBlockCosts, FollowCopiesAsTheyGetSlowerAndLeaveOutWhatTookNoTime) {
  MeasuredBlockCosts costs(16, 4000);
  costs.copied(microseconds(10), 1);
  costs.copied({}, 5);
  costs.copied(microseconds(10), 0);
  EXPECT_EQ(costs.with(microseconds(1))->copy, microseconds(10));
  for (int i = 0; i < 40; ++i) costs.copied(microseconds(60), 2);
  EXPECT_NEAR(static_cast<double>(costs.with(microseconds(1))->copy.ns), 30'000, 10);
}

}  // namespace
}  // namespace troupe::actors
