#include "experts/combine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::experts {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Verdict = Combine::Verdict;

constexpr NodeId kA{10}, kB{20}, kC{30};
constexpr Instant kStart{1'000};
constexpr CombineOptions kOptions{.resend_after = milliseconds(100), .timeout = seconds(1)};

/// Two results from A, three from B, one from C.
DispatchPlan plan_for_three() {
  const auto to = [](NodeId shard, uint32_t num_results, uint32_t first_result) {
    return ShardDispatch{.shard = shard,
                         .rows = {0},
                         .assignments = std::vector<PlannedAssignment>(num_results),
                         .first_result = first_result};
  };
  return {.shards = {to(kA, 2, 0), to(kB, 3, 2), to(kC, 1, 5)}, .num_results = 6};
}

transport::CreditLedger ledger_of(transport::Credit credit) {
  transport::CreditLedger ledger;
  for (const NodeId shard : {kA, kB, kC}) ledger.grant(shard, credit);
  return ledger;
}

TEST(Combine, TakesEachShardsRowsOnceAndIsCompleteWithTheLast) {
  auto credits = ledger_of({.bytes = 100, .frames = 1});
  Combine combine(plan_for_three(), {10, 10, 10}, kOptions);
  EXPECT_THAT(combine.due(credits, kStart).send, ElementsAre(0, 1, 2));
  EXPECT_FALSE(combine.complete());
  EXPECT_EQ(combine.answered(kB, 2, credits).verdict, Verdict::kWrongSize);
  const auto taken = combine.answered(kB, 3, credits);
  EXPECT_EQ(taken.verdict, Verdict::kTake);
  EXPECT_EQ(taken.first_result, 2U);
  EXPECT_EQ(combine.answered(kB, 3, credits).verdict, Verdict::kDuplicate);
  EXPECT_EQ(combine.answered(NodeId{15}, 1, credits).verdict, Verdict::kUnknownShard);
  EXPECT_EQ(combine.answered(NodeId{99}, 1, credits).verdict, Verdict::kUnknownShard);
  EXPECT_EQ(combine.answered(kA, 2, credits).verdict, Verdict::kTake);
  EXPECT_THAT(combine.awaited(), ElementsAre(kC));
  EXPECT_FALSE(combine.complete());
  EXPECT_EQ(combine.answered(kC, 1, credits).verdict, Verdict::kTake);
  EXPECT_TRUE(combine.complete());
  for (const NodeId shard : {kA, kB, kC}) {
    EXPECT_EQ(credits.outstanding(shard), (transport::Credit{}));
  }
  EXPECT_TRUE(Combine().complete());
}

TEST(Combine, SendsAFrameOnlyWhenItsShardHasCreditForIt) {
  auto credits = ledger_of({.bytes = 15, .frames = 4});
  Combine first(plan_for_three(), {10, 10, 10}, kOptions);
  Combine second(plan_for_three(), {10, 5, 10}, kOptions);
  EXPECT_THAT(first.due(credits, kStart).send, ElementsAre(0, 1, 2));
  EXPECT_THAT(second.due(credits, kStart).send, ElementsAre(1)) << "5 bytes were left to B only";
  EXPECT_EQ(second.answered(kA, 2, credits).verdict, Verdict::kUnknownShard)
      << "nobody answers what was not sent";
  ASSERT_EQ(first.answered(kA, 2, credits).verdict, Verdict::kTake);
  EXPECT_THAT(second.due(credits, kStart).send, ElementsAre(0));
}

TEST(Combine, RepeatsWhatIsNotAnsweredLessAndLessOftenAndOnTheSameCredit) {
  auto credits = ledger_of({.bytes = 10, .frames = 1});
  Combine combine(plan_for_three(), {10, 10, 10}, kOptions);
  ASSERT_THAT(combine.due(credits, kStart).send, ElementsAre(0, 1, 2));
  ASSERT_EQ(combine.answered(kA, 2, credits).verdict, Verdict::kTake);
  EXPECT_THAT(combine.due(credits, kStart + milliseconds(99)).send, IsEmpty());
  EXPECT_THAT(combine.due(credits, kStart + milliseconds(100)).send, ElementsAre(1, 2));
  EXPECT_THAT(combine.due(credits, kStart + milliseconds(299)).send, IsEmpty());
  EXPECT_THAT(combine.due(credits, kStart + milliseconds(300)).send, ElementsAre(1, 2));
  EXPECT_EQ(credits.outstanding(kB), (transport::Credit{.bytes = 10, .frames = 1}));
}

TEST(Combine, NamesAShardThatStaysSilent) {
  auto credits = ledger_of({.bytes = 10, .frames = 1});
  Combine combine(plan_for_three(), {10, 10, 10}, kOptions);
  (void)combine.due(credits, kStart);
  ASSERT_EQ(combine.answered(kA, 2, credits).verdict, Verdict::kTake);
  EXPECT_EQ(combine.due(credits, kStart + milliseconds(999)).silent, std::nullopt);
  const CombineEffects late = combine.due(credits, kStart + seconds(1));
  EXPECT_EQ(late.silent, kB);
  EXPECT_THAT(late.send, IsEmpty());
}

TEST(CombineDeathTest, AFrameThatNeverFitsTheCreditIsOurMistake) {
  auto credits = ledger_of({.bytes = 9, .frames = 1});
  Combine combine(plan_for_three(), {10, 10, 10}, kOptions);
  EXPECT_DEATH((void)combine.due(credits, kStart), "kResourceExhausted");
}

}  // namespace
}  // namespace troupe::experts
