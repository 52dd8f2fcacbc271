// The gate, by tables worked out by hand.

#include <limits>

#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

constexpr float kLow = -30.0F;

struct Chosen {
  std::vector<ExpertIdx> idx;
  std::vector<float> weight;
};

Chosen choose(const std::vector<float>& logits, TopkGateParams p,
              const std::vector<float>& bias = {}) {
  Chosen chosen{std::vector<ExpertIdx>(p.topk), std::vector<float>(p.topk)};
  p.logits = {logits.data(), 1, logits.size()};
  p.bias = bias.empty() ? nullptr : bias.data();
  p.topk_idx = chosen.idx.data();
  p.topk_weight = chosen.weight.data();
  scalar().topk_gate(p);
  return chosen;
}

/// A logit whose sigmoid is `p`.
float logit(double p) { return static_cast<float>(std::log(p / (1 - p))); }

TEST(TopkGate, GreedyTakesTheLargestSoftmaxScoresInFallingOrder) {
  // exp: 1, 2, 4, 1 of 8.
  const std::vector<float> logits = {0, std::log(2.0F), std::log(4.0F), 0};
  const Chosen c = choose(logits, {.method = GateMethod::kGreedy, .topk = 3});
  EXPECT_EQ(c.idx, (std::vector<ExpertIdx>{2, 1, 0}));
  EXPECT_NEAR(c.weight[0], 0.5, 1e-7);
  EXPECT_NEAR(c.weight[1], 0.25, 1e-7);
  EXPECT_NEAR(c.weight[2], 0.125, 1e-7);
}

TEST(TopkGate, TiesGoToTheLowerExpert) {
  const Chosen all = choose({1, 1, 1, 1}, {.method = GateMethod::kGreedy, .topk = 4});
  EXPECT_EQ(all.idx, (std::vector<ExpertIdx>{0, 1, 2, 3}));
  const Chosen some = choose({0, 2, 1, 2, 2}, {.method = GateMethod::kGreedy, .topk = 2});
  EXPECT_EQ(some.idx, (std::vector<ExpertIdx>{1, 3}));
}

TEST(TopkGate, NormalisingDividesByTheSumAndTheScaleComesLast) {
  const std::vector<float> logits = {0, std::log(2.0F), std::log(4.0F), 0};
  const Chosen c =
      choose(logits, {.method = GateMethod::kGreedy, .topk = 2, .normalize = true, .scale = 3});
  EXPECT_NEAR(c.weight[0], 2.0, 1e-6);
  EXPECT_NEAR(c.weight[1], 1.0, 1e-6);
  const Chosen plain = choose(logits, {.method = GateMethod::kGreedy, .topk = 2, .scale = 16});
  EXPECT_NEAR(plain.weight[0], 8.0, 1e-5);
}

TEST(TopkGate, GroupLimitedGreedyRanksGroupsByTheirBestExpert) {
  // Groups {5, kLow}, {4, 4}, {6, kLow}: the best two are 2 and 0 although group 1 has the larger
  // sum.
  const std::vector<float> logits = {5, kLow, 4, 4, 6, kLow};
  const Chosen c = choose(
      logits,
      {.method = GateMethod::kGroupLimitedGreedy, .num_groups = 3, .topk_groups = 2, .topk = 3});
  EXPECT_EQ(c.idx[0], 4U);
  EXPECT_EQ(c.idx[1], 0U);
  EXPECT_NE(c.idx[2] / 2, 1U);  // from a kept group, however small its score
}

TEST(TopkGate, GroupLimitedGreedyKeepsTheSoftmaxOverAllExperts) {
  const std::vector<float> logits = {std::log(5.0F), 0, std::log(3.0F), 0};
  const Chosen c = choose(
      logits,
      {.method = GateMethod::kGroupLimitedGreedy, .num_groups = 2, .topk_groups = 1, .topk = 1});
  EXPECT_EQ(c.idx[0], 0U);
  EXPECT_NEAR(c.weight[0], 0.5, 1e-7);
}

TEST(TopkGate, GroupTiesGoToTheLowerGroup) {
  const Chosen c = choose(
      {1, 0, 1, 0, 1, 0},
      {.method = GateMethod::kGroupLimitedGreedy, .num_groups = 3, .topk_groups = 2, .topk = 2});
  EXPECT_EQ(c.idx, (std::vector<ExpertIdx>{0, 2}));
}

TEST(TopkGate, NoauxTcRanksGroupsByTheSumOfTheirBestTwo) {
  // Group 0 has the best expert, group 1 the best pair.
  const std::vector<float> logits = {logit(0.9), logit(0.1), logit(0.1),
                                     logit(0.6), logit(0.5), logit(0.1)};
  const Chosen c = choose(
      logits, {.method = GateMethod::kNoauxTc, .num_groups = 2, .topk_groups = 1, .topk = 2});
  EXPECT_EQ(c.idx, (std::vector<ExpertIdx>{3, 4}));
  EXPECT_NEAR(c.weight[0], 0.6, 1e-6);
  EXPECT_NEAR(c.weight[1], 0.5, 1e-6);
}

TEST(TopkGate, NoauxTcChoosesByBiasedScoresButWeighsWithoutTheBias) {
  const std::vector<float> logits = {logit(0.8), logit(0.2), logit(0.5)};
  const std::vector<float> bias = {0, 1, 0};
  const Chosen c = choose(
      logits, {.method = GateMethod::kNoauxTc, .topk = 2, .normalize = true, .scale = 2.5F}, bias);
  EXPECT_EQ(c.idx, (std::vector<ExpertIdx>{1, 0}));
  EXPECT_NEAR(c.weight[0], 2.5 * 0.2, 1e-6);
  EXPECT_NEAR(c.weight[1], 2.5 * 0.8, 1e-6);
}

TEST(TopkGate, NoauxTcWeightsStayRightWhereTheBiasSwampsTinyScores) {
  // As in GLM-5.2: sigmoids near 1e-8 under biases near 12. A weight taken as (choice - bias) is 0.
  const std::vector<float> logits = {-18.0F, -19.0F, -18.5F};
  const std::vector<float> bias = {12, 12.5F, 11};
  const Chosen c =
      choose(logits, {.method = GateMethod::kNoauxTc, .topk = 2, .normalize = true}, bias);
  EXPECT_EQ(c.idx, (std::vector<ExpertIdx>{1, 0}));
  EXPECT_NEAR(c.weight[0], std::exp(-1.0) / (1 + std::exp(-1.0)), 1e-5);
}

TEST(TopkGate, NoauxTcNeverTakesFromADroppedGroupEvenUnderNegativeScores) {
  const std::vector<float> logits = {0, 0, 0, 0};
  const std::vector<float> bias = {-5, -6, -7, -8};
  const Chosen c = choose(
      logits, {.method = GateMethod::kNoauxTc, .num_groups = 2, .topk_groups = 1, .topk = 2}, bias);
  EXPECT_EQ(c.idx, (std::vector<ExpertIdx>{0, 1}));
}

TEST(TopkGate, NoauxTcWithOneGroupHasNoGroupStage) {
  const Chosen c = choose({logit(0.3), logit(0.7)}, {.method = GateMethod::kNoauxTc, .topk = 1});
  EXPECT_EQ(c.idx[0], 1U);
}

TEST(TopkGate, NanLogitsStillGiveDistinctValidExperts) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const GateMethod method :
       {GateMethod::kGreedy, GateMethod::kGroupLimitedGreedy, GateMethod::kNoauxTc}) {
    const Chosen c = choose({nan, nan, 1, nan},
                            {.method = method, .num_groups = 2, .topk_groups = 2, .topk = 4});
    std::vector<ExpertIdx> sorted = c.idx;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(sorted, (std::vector<ExpertIdx>{0, 1, 2, 3}));
  }
}

}  // namespace
}  // namespace troupe::kernels
