#include "loadgen/source.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace troupe::loadgen {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Instant at(int64_t ms) { return Instant{} + milliseconds(ms); }

std::vector<double> gaps(double rate, double burstiness, int count) {
  const Arrivals arrivals(rate, burstiness, 5);
  std::vector<double> all;
  for (int i = 0; i < count; ++i) all.push_back(to_seconds(arrivals.gap(static_cast<uint64_t>(i))));
  return all;
}

struct Moments {
  double mean = 0;
  double deviation = 0;  ///< divided by the mean
};
Moments moments(const std::vector<double>& values) {
  Moments m;
  for (const double v : values) m.mean += v / static_cast<double>(values.size());
  double squares = 0;
  for (const double v : values) squares += (v - m.mean) * (v - m.mean);
  m.deviation = std::sqrt(squares / static_cast<double>(values.size())) / m.mean;
  return m;
}

TEST(Arrivals, HaveTheMeanAndSpreadOfTheirProcess) {
  // A gamma distribution of shape k has a relative deviation of 1 / sqrt(k).
  for (const double burstiness : {0.25, 0.5, 1.0, 4.0}) {
    const Moments m = moments(gaps(20, burstiness, 40'000));
    const double deviation = 1 / std::sqrt(burstiness);
    EXPECT_NEAR(m.mean, 0.05, 4 * 0.05 * deviation / 200) << burstiness;
    EXPECT_NEAR(m.deviation, deviation, 0.05 * deviation) << burstiness;
  }
}

TEST(Arrivals, OfAPoissonProcessHaveExponentialGaps) {
  int longer = 0;
  for (const double gap : gaps(10, 1, 20'000)) longer += gap > 0.1 ? 1 : 0;
  EXPECT_NEAR(longer / 20'000.0, std::exp(-1.0), 0.015);
}

TEST(Arrivals, AreSteadyOrImmediateAtTheExtremes) {
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_THAT(gaps(4, infinity, 2), ElementsAre(0.25, 0.25));
  EXPECT_THAT(gaps(infinity, 1, 2), ElementsAre(0, 0));
}

TEST(ClosedLoop, SendsTheNextRequestWhenOneHasEnded) {
  Source source({.num_clients = 2, .num_requests = 3}, at(0));
  EXPECT_THAT(source.poll(at(0)), ElementsAre(Due{0, 0, at(0)}, Due{1, 0, at(0)}));
  EXPECT_THAT(source.poll(at(5)), IsEmpty());
  source.ended({1, 0, at(0)}, true, at(7));
  EXPECT_THAT(source.poll(at(7)), ElementsAre(Due{2, 0, at(7)}));
  source.ended({0, 0, at(0)}, true, at(8));
  EXPECT_THAT(source.poll(at(8)), IsEmpty());
  EXPECT_FALSE(source.done());
  source.ended({2, 0, at(7)}, true, at(9));
  EXPECT_TRUE(source.done());
}

TEST(ClosedLoop, PausesAfterAFailure) {
  Source source({.num_clients = 1, .num_requests = 2}, at(0));
  source.poll(at(0));
  source.ended({0, 0, at(0)}, false, at(1));
  EXPECT_THAT(source.poll(at(1)), IsEmpty());
  EXPECT_EQ(source.next_wake(), at(101));
  EXPECT_THAT(source.poll(at(101)), ElementsAre(Due{1, 0, at(101)}));
}

TEST(ClosedLoop, SendsNothingAfterItsTime) {
  Source source({.num_clients = 1, .duration = milliseconds(10)}, at(0));
  source.poll(at(0));
  EXPECT_EQ(source.next_wake(), at(10));
  source.ended({0, 0, at(0)}, true, at(9));
  EXPECT_EQ(source.poll(at(9)).size(), 1U);
  source.ended({1, 0, at(9)}, true, at(12));
  EXPECT_THAT(source.poll(at(12)), IsEmpty());
  EXPECT_TRUE(source.done());
  EXPECT_THAT(source.unsent(), IsEmpty());
}

TEST(ClosedLoop, HoldsAClientThroughItsConversation) {
  Source source({.num_clients = 1, .num_requests = 5, .num_turns = 2, .think_time = seconds(1)},
                at(0));
  source.poll(at(0));
  source.ended({0, 0, at(0)}, true, at(50));
  EXPECT_THAT(source.poll(at(50)), IsEmpty());
  EXPECT_EQ(source.next_wake(), at(1050));
  EXPECT_THAT(source.poll(at(1050)), ElementsAre(Due{0, 1, at(1050)}));
  source.ended({0, 1, at(1050)}, true, at(1100));
  EXPECT_THAT(source.poll(at(1100)), ElementsAre(Due{1, 0, at(1100)}));
  source.ended({1, 0, at(1100)}, false, at(1200));  // its second turn makes no sense any more
  EXPECT_THAT(source.poll(at(1300)), ElementsAre(Due{2, 0, at(1300)}));
}

TEST(OpenLoop, SendsAtItsTimesWhetherOrNotAnswersCome) {
  Source source(
      {.is_open = true, .arrivals = {milliseconds(0), milliseconds(30), milliseconds(40)}},
      at(100));
  EXPECT_THAT(source.poll(at(100)), ElementsAre(Due{0, 0, at(100)}));
  EXPECT_EQ(source.next_wake(), at(130));
  EXPECT_THAT(source.poll(at(145)), ElementsAre(Due{1, 0, at(130)}, Due{2, 0, at(140)}));
  for (uint64_t i = 0; i < 3; ++i) source.ended({i, 0, at(0)}, true, at(150));
  EXPECT_TRUE(source.done());
}

TEST(OpenLoop, KeepsTheArrivalOfWhatHasToWait) {
  Source source({.is_open = true,
                 .rate = 100,
                 .burstiness = std::numeric_limits<double>::infinity(),
                 .max_in_flight = 1,
                 .num_requests = 3},
                at(0));
  EXPECT_THAT(source.poll(at(0)), ElementsAre(Due{0, 0, at(0)}));
  EXPECT_THAT(source.poll(at(25)), IsEmpty());
  source.ended({0, 0, at(0)}, true, at(60));
  EXPECT_THAT(source.poll(at(60)), ElementsAre(Due{1, 0, at(10)}));
  source.ended({1, 0, at(10)}, true, at(70));
  EXPECT_THAT(source.poll(at(70)), ElementsAre(Due{2, 0, at(20)}));
}

TEST(OpenLoop, CountsWhatItsEndFindsWaiting) {
  Source source({.is_open = true,
                 .rate = 100,
                 .burstiness = std::numeric_limits<double>::infinity(),
                 .max_in_flight = 1,
                 .duration = milliseconds(50)},
                at(0));
  source.poll(at(0));
  source.poll(at(50));  // arrivals at 10, 20, 30, 40; not at 50
  EXPECT_THAT(source.unsent(), ElementsAre(1, 2, 3, 4));
  EXPECT_FALSE(source.done());
  source.ended({0, 0, at(0)}, true, at(90));
  EXPECT_TRUE(source.done());
}

TEST(OpenLoop, IsDoneWithItsLastAnswerHoweverFarTheNextArrivalWouldBe) {
  Source source({.is_open = true,
                 .rate = 1e-3,
                 .burstiness = std::numeric_limits<double>::infinity(),
                 .num_conversations = 2},
                at(0));
  source.poll(at(0));
  EXPECT_EQ(source.next_wake(), at(1'000'000));
  source.ended({0, 0, at(0)}, true, at(1));
  EXPECT_FALSE(source.done());
  source.poll(at(1'000'000));
  EXPECT_EQ(source.next_wake(), std::nullopt);
  source.ended({1, 0, at(1'000'000)}, true, at(1'000'001));
  EXPECT_TRUE(source.done());
}

TEST(Source, EndsWhenStopped) {
  Source source({.is_open = true, .rate = 1, .num_requests = 9}, at(0));
  source.poll(at(0));
  source.stop();
  EXPECT_EQ(source.next_wake(), std::nullopt);
  EXPECT_THAT(source.poll(at(100'000)), IsEmpty());
  source.ended({0, 0, at(0)}, true, at(1));
  EXPECT_TRUE(source.done());
}

}  // namespace
}  // namespace troupe::loadgen
