#include "cluster/failure_detector.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::cluster {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr NodeId kA{1}, kB{2}, kStranger{9};

Instant at_ms(int64_t ms) { return Instant{} + milliseconds(ms); }

TEST(FailureDetector, TellsOnceOfANodeThatIsSilentForTheTimeout) {
  FailureDetector detector(milliseconds(1500));
  detector.watch(kA, at_ms(0));
  detector.watch(kB, at_ms(0));
  detector.heard(kB, at_ms(1000));
  EXPECT_THAT(detector.take_silent(at_ms(1499)), IsEmpty());
  EXPECT_THAT(detector.take_silent(at_ms(1500)), ElementsAre(kA));
  EXPECT_THAT(detector.take_silent(at_ms(2499)), IsEmpty());
  EXPECT_THAT(detector.take_silent(at_ms(2500)), ElementsAre(kB));
  EXPECT_THAT(detector.take_silent(at_ms(9000)), IsEmpty());
}

TEST(FailureDetector, KnowsWhenEveryNodeHasBeenHeard) {
  FailureDetector detector(milliseconds(1500));
  EXPECT_TRUE(detector.all_heard());
  detector.watch(kA, at_ms(0));
  detector.watch(kB, at_ms(0));
  detector.heard(kA, at_ms(1));
  detector.heard(kStranger, at_ms(1));
  EXPECT_FALSE(detector.all_heard());
  EXPECT_THAT(detector.take_silent(at_ms(1500)), ElementsAre(kB));
  EXPECT_FALSE(detector.all_heard()) << "to be told of a silent node is not to hear it";
  detector.heard(kB, at_ms(1600));
  EXPECT_TRUE(detector.all_heard());
  detector.watch(kB, at_ms(1700));
  EXPECT_FALSE(detector.all_heard()) << "watched anew";
}

TEST(FailureDetector, ForgetsAllWhenCleared) {
  FailureDetector detector(milliseconds(1500));
  detector.watch(kA, at_ms(0));
  detector.clear();
  detector.heard(kA, at_ms(1));
  EXPECT_TRUE(detector.all_heard());
  EXPECT_THAT(detector.take_silent(at_ms(9000)), IsEmpty());
}

}  // namespace
}  // namespace troupe::cluster
