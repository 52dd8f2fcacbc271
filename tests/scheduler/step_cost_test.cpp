#include "scheduler/step_cost.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace troupe::scheduler {
namespace {

constexpr double kDecodeMs = 6;

/// As a mixture of experts costs: the first rows make it read most experts.
double prefill_ms(double rows) { return 5 * (1 - std::exp(-rows / 32)) + 0.04 * rows; }

Duration ms(double value) { return Duration{static_cast<int64_t>(value * 1e6)}; }

void decode(StepCost& cost) { cost.learn({.decodes = true}, ms(kDecodeMs)); }
void prefill(StepCost& cost, uint32_t rows) {
  cost.learn({.prefill_tokens = rows}, ms(prefill_ms(rows)));
}
/// Fills a step to 12 ms. @returns what it took
double mix(StepCost& cost) {
  const auto rows = static_cast<uint32_t>(*cost.prefill_tokens_within(100, ms(12)));
  const double took = kDecodeMs + prefill_ms(rows);
  cost.learn({.decodes = true, .prefill_tokens = rows}, ms(took));
  return took;
}

TEST(StepCost, KnowsNothingBeforeItHasSeenBothKinds) {
  StepCost cost;
  EXPECT_EQ(cost.prefill_tokens_within(200, {}), std::nullopt);
  decode(cost);
  EXPECT_EQ(cost.prefill_tokens_within(200, {}), std::nullopt);
  prefill(cost, 256);
  EXPECT_EQ(cost.prefill_tokens_within(200, {}),
            static_cast<uint64_t>(kDecodeMs / (prefill_ms(256) / 256)));
}

TEST(StepCost, ComesToTheTargetThoughTheFirstRowsCostMost) {
  StepCost cost;
  decode(cost);
  prefill(cost, 256);
  for (int i = 0; i < 30; ++i) (void)mix(cost);
  for (int i = 0; i < 30; ++i) EXPECT_NEAR(mix(cost), 12, 0.6);
}

TEST(StepCost, RemembersSmallChunksWhileOnlyLargeOnesAreComputed) {
  StepCost cost;
  decode(cost);
  prefill(cost, 256);
  for (int i = 0; i < 30; ++i) (void)mix(cost);
  for (int i = 0; i < 500; ++i) prefill(cost, 256);
  EXPECT_NEAR(mix(cost), 12, 0.6) << "the first of them already";
}

TEST(StepCost, FollowsACostThatGrowsOrFalls) {
  StepCost cost;
  decode(cost);
  prefill(cost, 256);
  for (const double factor : {1.0, 3.0, 0.5}) {
    double took = 0;
    for (int i = 0; i < 100; ++i) {
      const auto rows = static_cast<uint32_t>(*cost.prefill_tokens_within(100, ms(12)));
      took = kDecodeMs + factor * prefill_ms(rows);
      if (rows > 0) cost.learn({.decodes = true, .prefill_tokens = rows}, ms(took));
      if (i % 10 == 0) cost.learn({.prefill_tokens = 256}, ms(factor * prefill_ms(256)));
    }
    EXPECT_NEAR(took, 12, 1) << factor;
  }
}

TEST(StepCost, LearnsNothingFromAStepThatTookNoLongerThanDecoding) {
  StepCost cost;
  decode(cost);
  cost.learn({.decodes = true, .prefill_tokens = 16}, ms(kDecodeMs));
  EXPECT_EQ(cost.prefill_tokens_within(200, {}), std::nullopt);
  cost.learn({.decodes = true, .prefill_tokens = 200}, ms(kDecodeMs + 10));
  EXPECT_EQ(cost.prefill_tokens_within(200, {}), 120U) << "a twentieth of a millisecond each";
}

TEST(StepCost, RecoversFromOneStepThatHung) {
  StepCost cost;
  decode(cost);
  prefill(cost, 256);
  for (int i = 0; i < 30; ++i) (void)mix(cost);
  cost.learn({.decodes = true, .prefill_tokens = 60}, ms(500));
  for (int i = 0; i < 100; ++i) {
    // The batcher gives prefill a few rows in any case.
    const auto rows =
        static_cast<uint32_t>(std::max<uint64_t>(16, *cost.prefill_tokens_within(100, ms(12))));
    cost.learn({.decodes = true, .prefill_tokens = rows}, ms(kDecodeMs + prefill_ms(rows)));
  }
  EXPECT_NEAR(mix(cost), 12, 0.6);
}

}  // namespace
}  // namespace troupe::scheduler
