#include "scheduler/wait_estimate.hpp"

#include <gtest/gtest.h>

namespace troupe::scheduler {
namespace {

constexpr Instant at(int64_t s) { return Instant{seconds(s).ns}; }

TEST(WaitEstimate, SaysNothingBeforeItHasSeenTwoPlacesTaken) {
  WaitEstimate estimate;
  EXPECT_EQ(estimate.wait(0), std::nullopt);
  estimate.place_taken(at(1), true);
  EXPECT_EQ(estimate.wait(0), std::nullopt);
  estimate.place_taken(at(3), true);
  EXPECT_EQ(estimate.wait(0), seconds(2));
  EXPECT_EQ(estimate.wait(4), seconds(10));
}

TEST(WaitEstimate, FollowsAChange) {
  WaitEstimate estimate;
  for (int i = 0; i < 3; ++i) estimate.place_taken(at(2 * i), true);
  for (int i = 0; i < 100; ++i) estimate.place_taken(at(4 + 10 * (i + 1)), true);
  EXPECT_NEAR(to_seconds(*estimate.wait(0)), 10, 0.1);
}

TEST(WaitEstimate, CountsNoTimeInWhichNobodyWaited) {
  WaitEstimate estimate;
  estimate.place_taken(at(0), true);
  estimate.place_taken(at(2), true);
  estimate.queue_empty();
  estimate.place_taken(at(1000), true);
  estimate.place_taken(at(1002), false);  // nobody else waits
  estimate.place_taken(at(2000), true);
  estimate.place_taken(at(2002), true);
  EXPECT_EQ(estimate.wait(0), seconds(2));
}

}  // namespace
}  // namespace troupe::scheduler
