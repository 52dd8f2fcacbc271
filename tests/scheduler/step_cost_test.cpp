#include "scheduler/step_cost.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace troupe::scheduler {
namespace {

constexpr double kDecodeMs = 6;

/// As a mixture of experts costs: the first rows make it read most experts.
double prefill_ms(double rows) { return 5 * (1 - std::exp(-rows / 32)) + 0.04 * rows; }

Duration ms(double value) { return Duration{static_cast<int64_t>(value * 1e6)}; }

constexpr StepGoal kDouble{.percent = 200};
constexpr StepGoal kTarget{.percent = 100, .target = milliseconds(12)};

void decode(StepCost& cost) { cost.learn({.num_decoding = 1}, ms(kDecodeMs)); }
void prefill(StepCost& cost, uint32_t rows) {
  cost.learn({.prefill_tokens = rows}, ms(prefill_ms(rows)));
}
/// Fills a step to 12 ms. @returns what it took
double mix(StepCost& cost) {
  const auto rows = static_cast<uint32_t>(*cost.rows_beside(1, 1));
  const double took = kDecodeMs + prefill_ms(rows);
  cost.learn({.num_decoding = 1, .prefill_tokens = rows}, ms(took));
  return took;
}

TEST(StepCost, KnowsNothingBeforeItHasSeenBothKinds) {
  StepCost cost(kDouble);
  EXPECT_EQ(cost.rows_beside(1, 1), std::nullopt);
  decode(cost);
  EXPECT_EQ(cost.rows_beside(1, 1), std::nullopt);
  prefill(cost, 256);
  EXPECT_EQ(cost.rows_beside(1, 1), static_cast<uint64_t>(kDecodeMs / (prefill_ms(256) / 256)));
}

TEST(StepCost, BoundsAStepThatIsToTakeLongerThanAgreed) {
  StepCost cost({.percent = 100});  // no step with prefill keeps to that
  decode(cost);
  EXPECT_EQ(cost.dear_rows(16, 1, 1), 16U) << "not known yet";
  double took = 0;
  uint32_t rows = 0;
  for (int i = 0; i < 100; ++i) {
    rows = cost.dear_rows(64, 1, 1);
    took = kDecodeMs + prefill_ms(rows);
    cost.learn({.num_decoding = 1, .prefill_tokens = rows, .dear = true}, ms(took));
  }
  EXPECT_NEAR(took, 1.5 * kDecodeMs, 0.2) << rows << " rows";
  EXPECT_EQ(cost.dear_rows(4, 1, 1), 4U) << "more do not pay";
  for (int i = 0; i < 100; ++i) {
    cost.learn({.num_decoding = 1, .prefill_tokens = 1, .dear = true}, ms(kDecodeMs + 100));
  }
  EXPECT_EQ(cost.dear_rows(64, 1, 1), 1U) << "a prompt gets on at any cost";
}

TEST(StepCost, TellsWhatScoringCostsFromWhatTheRowsCost) {
  StepCost cost(kDouble);
  EXPECT_EQ(cost.scored_row(), std::nullopt);
  decode(cost);
  prefill(cost, 256);
  const auto without = cost.rows_beside(1, 1);
  EXPECT_EQ(cost.scored_row(), std::nullopt);
  cost.learn({.prefill_tokens = 256, .num_scored = 100}, ms(prefill_ms(256) + 50), ms(50));
  ASSERT_NE(cost.scored_row(), std::nullopt);
  EXPECT_NEAR(*cost.scored_row(), 1 + 0.5 / (prefill_ms(256) / 256), 1e-6);
  EXPECT_EQ(cost.rows_beside(1, 1), without) << "other prompts are not slowed down";
}

TEST(StepCost, TellsWhatTheFirstRowOfAPromptCosts) {
  StepCost cost(kDouble, 1000);
  decode(cost);
  EXPECT_FALSE(cost.row_price().has_value());
  cost.learn({.num_decoding = 1, .prefill_tokens = 16, .prefill_depth = 16 * 250},
             ms(kDecodeMs + 8));
  EXPECT_EQ(cost.row_price(), microseconds(400)) << "a quarter more at 250";
  for (int i = 0; i < 100; ++i) {
    cost.learn({.prefill_tokens = 256, .num_scored = 10, .prefill_depth = 256 * 3000}, ms(106.8),
               ms(4.4));
  }
  EXPECT_EQ(cost.row_price(), microseconds(100)) << "of full steps, without the scoring";
}

TEST(StepCost, TellsHowManyRowsTakeSoLong) {
  StepCost cost(kDouble, 1000);
  EXPECT_EQ(cost.rows_alone(milliseconds(100)), std::nullopt);
  cost.learn({.prefill_tokens = 100, .prefill_depth = 100'000}, ms(20));
  EXPECT_EQ(cost.rows_alone(milliseconds(100)), 1000U) << "those here took twice as long";
}

TEST(StepCost, ComesToTheTargetThoughTheFirstRowsCostMost) {
  StepCost cost(kTarget);
  decode(cost);
  prefill(cost, 256);
  for (int i = 0; i < 30; ++i) (void)mix(cost);
  for (int i = 0; i < 30; ++i) EXPECT_NEAR(mix(cost), 12, 0.6);
}

TEST(StepCost, RemembersSmallChunksWhileOnlyLargeOnesAreComputed) {
  StepCost cost(kTarget);
  decode(cost);
  prefill(cost, 256);
  for (int i = 0; i < 30; ++i) (void)mix(cost);
  for (int i = 0; i < 500; ++i) prefill(cost, 256);
  EXPECT_NEAR(mix(cost), 12, 0.6) << "the first of them already";
}

TEST(StepCost, FollowsACostThatGrowsOrFalls) {
  StepCost cost(kTarget);
  decode(cost);
  prefill(cost, 256);
  for (const double factor : {1.0, 3.0, 0.5}) {
    double took = 0;
    for (int i = 0; i < 100; ++i) {
      const auto rows = static_cast<uint32_t>(*cost.rows_beside(1, 1));
      took = kDecodeMs + factor * prefill_ms(rows);
      if (rows > 0) cost.learn({.num_decoding = 1, .prefill_tokens = rows}, ms(took));
      if (i % 10 == 0) cost.learn({.prefill_tokens = 256}, ms(factor * prefill_ms(256)));
    }
    EXPECT_NEAR(took, 12, 1) << factor;
  }
}

TEST(StepCost, LearnsNothingFromAStepThatTookNoLongerThanDecoding) {
  StepCost cost(kDouble);
  decode(cost);
  cost.learn({.num_decoding = 1, .prefill_tokens = 16}, ms(kDecodeMs));
  EXPECT_EQ(cost.rows_beside(1, 1), std::nullopt);
  cost.learn({.num_decoding = 1, .prefill_tokens = 200}, ms(kDecodeMs + 10));
  decode(cost);
  EXPECT_EQ(cost.rows_beside(1, 1), 120U) << "a twentieth of a millisecond each";
}

TEST(StepCost, RecoversFromOneStepThatHung) {
  StepCost cost(kTarget);
  decode(cost);
  prefill(cost, 256);
  for (int i = 0; i < 30; ++i) (void)mix(cost);
  cost.learn({.num_decoding = 1, .prefill_tokens = 60}, ms(500));
  for (int i = 0; i < 100; ++i) {
    // The batcher gives prefill a few rows from time to time.
    const auto rows = static_cast<uint32_t>(std::max<uint64_t>(16, *cost.rows_beside(1, 1)));
    cost.learn({.num_decoding = 1, .prefill_tokens = rows}, ms(kDecodeMs + prefill_ms(rows)));
  }
  EXPECT_NEAR(mix(cost), 12, 0.6);
}

TEST(StepCost, HasShorterStepsAfterOneThatTookTooLong) {
  StepCost cost(kTarget);
  for (int i = 0; i < 30; ++i) {
    decode(cost);
    cost.learn({.num_decoding = 1, .prefill_tokens = 100}, ms(kDecodeMs + 5));
  }
  EXPECT_EQ(cost.rows_beside(1, 1), 120U) << "6 ms at a twentieth of a millisecond each";
  EXPECT_EQ(cost.rows_instead(1, 1), 480U) << "24 ms";
  cost.learn({.num_decoding = 1, .prefill_tokens = 100, .dear = true},
             ms(kTarget.target.ns / 1e6 + 4));
  EXPECT_TRUE(cost.overdrawn());
  EXPECT_NEAR(static_cast<double>(*cost.rows_beside(1, 1)), 2 / 0.0625, 12);
  decode(cost);
  EXPECT_FALSE(cost.overdrawn()) << "6 ms of 12: 4 are paid back, what is left over is lost";
  EXPECT_NEAR(static_cast<double>(*cost.rows_beside(1, 1)), 6 / 0.0625, 12);
}

TEST(StepCost, CountsAStepWithoutThoseWhoDecodeAgainstTheNext) {
  StepCost cost(kTarget);
  decode(cost);
  prefill(cost, 256);
  cost.learn({.num_passed = 1, .prefill_tokens = 100}, ms(9));
  EXPECT_TRUE(cost.overdrawn());
  EXPECT_EQ(cost.rows_beside(1, 1), 0U) << "12 - 9 ms are less than decoding takes";
  EXPECT_GT(*cost.rows_instead(1, 1), 0U);
  decode(cost);
  EXPECT_TRUE(cost.overdrawn()) << "3 ms";
  decode(cost);
  EXPECT_FALSE(cost.overdrawn());
}

TEST(StepCost, AgreesToLongerStepsWhenManyWaitForTheirFirstTokenAndFewForTheNext) {
  StepCost cost(kDouble);
  decode(cost);
  cost.learn({.num_decoding = 1, .prefill_tokens = 100}, ms(kDecodeMs + 5));
  EXPECT_EQ(cost.rows_beside(1, 1), 120U) << "6 ms at a twentieth of a millisecond each";
  EXPECT_EQ(cost.rows_beside(1, 6), 360U);
  EXPECT_EQ(cost.rows_instead(1, 6), 960U) << "twice the 24 ms that a token may take";
  cost.learn({.num_decoding = 1, .prefill_tokens = 360, .dear = true, .crowd = 6},
             ms(kDecodeMs + 18));
  EXPECT_FALSE(cost.overdrawn());
  cost.learn({.num_decoding = 1, .prefill_tokens = 360, .dear = true}, ms(kDecodeMs + 18));
  EXPECT_TRUE(cost.overdrawn());
}

TEST(StepCost, KnowsWhatDecodingCostsByHowManyDecode) {
  StepCost cost(kDouble);
  prefill(cost, 256);
  for (int i = 0; i < 20; ++i) {
    cost.learn({.num_decoding = 1}, ms(6));
    cost.learn({.num_decoding = 16}, ms(30));
  }
  const double price = prefill_ms(256) / 256;
  EXPECT_EQ(cost.rows_beside(1, 1), static_cast<uint64_t>(6 / price));
  EXPECT_EQ(cost.rows_beside(16, 1), static_cast<uint64_t>(30 / price));
  // What prefill added to a step with many does not count as prefill's if it is theirs.
  cost.learn({.num_decoding = 16, .prefill_tokens = 100}, ms(30 + 5));
  EXPECT_NEAR(static_cast<double>(*cost.rows_beside(16, 1)), 600, 1);
  EXPECT_NEAR(static_cast<double>(*cost.rows_beside(1, 1)), 120, 1);
}

TEST(StepCost, TakesDecodingToGrowWithTheRootOfThoseWhoDecodeUntilItKnowsBetter) {
  StepCost cost(kDouble);
  cost.learn({.num_decoding = 4}, ms(6));
  cost.learn({.num_decoding = 4, .prefill_tokens = 100}, ms(6 + 5));
  EXPECT_EQ(cost.rows_beside(1, 1), 60U);
  EXPECT_EQ(cost.rows_beside(16, 1), 240U);
  cost.learn({.num_decoding = 16}, ms(30));
  EXPECT_EQ(cost.rows_beside(64, 1), 1200U) << "from the nearest that is known";
  EXPECT_EQ(cost.rows_beside(1, 1), 60U);
  cost.learn({.num_decoding = 1U << 31}, ms(100));
  EXPECT_EQ(cost.rows_beside(1U << 31, 1), 2000U);
}

TEST(StepCost, CountsNoChanceAgainstTheNextSteps) {
  StepCost cost(kTarget);
  decode(cost);
  for (int i = 0; i < 100; ++i) {
    cost.learn({.num_decoding = 1, .prefill_tokens = 100}, ms(kDecodeMs + (i % 2 == 0 ? 3 : 9)));
    ASSERT_FALSE(cost.overdrawn());
    ASSERT_GT(cost.rows_beside(1, 1), 70U);
  }
}

TEST(StepCost, OwesNobodyAnythingWhenNobodyDecodes) {
  StepCost cost(kTarget);
  decode(cost);
  cost.learn({.num_decoding = 1, .prefill_tokens = 16, .dear = true}, ms(50));
  EXPECT_TRUE(cost.overdrawn());
  prefill(cost, 256);
  EXPECT_FALSE(cost.overdrawn());
}

TEST(StepCost, ForgetsMostOfAStepThatHung) {
  StepCost cost(kTarget);
  decode(cost);
  cost.learn({.num_decoding = 1, .prefill_tokens = 16, .dear = true}, ms(5000));
  int steps = 0;
  for (; cost.overdrawn(); ++steps) decode(cost);
  EXPECT_EQ(steps, 32) << "16 steps of 12 ms, 6 ms at a time";
}

}  // namespace
}  // namespace troupe::scheduler
