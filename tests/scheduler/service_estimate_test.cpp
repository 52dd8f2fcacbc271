#include "scheduler/service_estimate.hpp"

#include <gtest/gtest.h>

namespace troupe::scheduler {
namespace {

constexpr Instant at(int64_t s) { return Instant{seconds(s).ns}; }

TEST(ServiceEstimate, KnowsNothingBeforeItsFirstLesson) {
  ServiceEstimate estimate;
  EXPECT_TRUE(estimate.empty());
  EXPECT_EQ(estimate.prefill(1, 100, at(1)), Duration{});
  EXPECT_EQ(estimate.decode(1, 100, at(1)), Duration{});
  EXPECT_EQ(estimate.length(100, at(1)), 1U);
  estimate.prefilled(1, 10, milliseconds(20), at(1));
  EXPECT_FALSE(estimate.empty());
}

TEST(ServiceEstimate, ScalesWhatItLearned) {
  ServiceEstimate estimate;
  estimate.prefilled(1, 100, milliseconds(200), at(1));
  estimate.decoded(1, 10, milliseconds(50), at(1));
  EXPECT_EQ(estimate.prefill(1, 120, at(1)), milliseconds(240));
  EXPECT_EQ(estimate.decode(1, 1000, at(1)), seconds(5));
}

TEST(ServiceEstimate, HoldsTheCostOfShortPromptsNotAgainstLongOnes) {
  ServiceEstimate estimate;
  estimate.prefilled(1, 10, milliseconds(30), at(1));  // most of it not because of its tokens
  EXPECT_EQ(estimate.prefill(1, 10'000, at(1)), milliseconds(45)) << "as 15";
  EXPECT_EQ(estimate.prefill(1, 7, at(1)), Duration{});
  estimate.prefilled(1, 10'000, seconds(2), at(1));
  EXPECT_EQ(estimate.prefill(1, 16'000, at(1)), milliseconds(3'200));
  EXPECT_EQ(estimate.prefill(1, 1'000, at(1)), milliseconds(45));
  EXPECT_EQ(estimate.prefill(9, 10'000, at(1)), seconds(2)) << "at least";
}

TEST(ServiceEstimate, HoldsACrowdAgainstNobodyWhoComesWhenItIsGone) {
  ServiceEstimate estimate;
  estimate.decoded(8, 10, milliseconds(100), at(1));
  EXPECT_EQ(estimate.decode(9, 10, at(1)), milliseconds(100));
  EXPECT_EQ(estimate.decode(100, 10, at(1)), milliseconds(100)) << "at least";
  EXPECT_EQ(estimate.decode(7, 10, at(1)), Duration{});
  estimate.decoded(1, 10, milliseconds(20), at(1));
  EXPECT_EQ(estimate.decode(7, 10, at(1)), milliseconds(20)) << "at least";
  EXPECT_EQ(estimate.decode(15, 10, at(1)), milliseconds(100));
}

TEST(ServiceEstimate, TakesAnswersToUseAsMuchOfMaxTokensAsOthersDid) {
  ServiceEstimate estimate;
  estimate.ended(0, 4'000, at(1));
  EXPECT_EQ(estimate.length(4'000, at(1)), 1U);
  estimate.ended(200, 4'000, at(1));
  estimate.ended(16, 16, at(1));
  EXPECT_EQ(estimate.length(4'000, at(1)), 200U);
  EXPECT_EQ(estimate.length(2'000 + 1'000, at(1)), 150U);
  EXPECT_EQ(estimate.length(20, at(1)), 20U);
  EXPECT_EQ(estimate.length(100, at(1)), 1U) << "of such ones nothing is known";
}

TEST(ServiceEstimate, FollowsAChange) {
  ServiceEstimate estimate;
  for (int i = 0; i < 100; ++i) estimate.decoded(1, 10, milliseconds(100), at(i));
  for (int i = 0; i < 50; ++i) estimate.decoded(1, 10, milliseconds(20), at(100 + i));
  EXPECT_NEAR(to_seconds(estimate.decode(1, 10, at(150))), 0.02, 0.001);
}

TEST(ServiceEstimate, StaysWithinItsTypes) {
  ServiceEstimate estimate;
  estimate.prefilled(UINT64_MAX, UINT64_MAX, Duration{INT64_MAX}, at(1));
  estimate.decoded(UINT64_MAX, 1, Duration{INT64_MAX}, at(1));
  EXPECT_GT(estimate.prefill(UINT64_MAX, UINT64_MAX, at(1)), seconds(1));
  EXPECT_GT(estimate.decode(UINT64_MAX, UINT64_MAX, at(1)), seconds(1));
}

}  // namespace
}  // namespace troupe::scheduler
