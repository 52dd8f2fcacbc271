#include "model/divergence.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace troupe::model {
namespace {

constexpr double kLog2 = 0.693147180559945;

TEST(Divergence, OfTheSameLogitsIsNothing) {
  Divergence d;
  const std::vector<float> logits = {1, 2.5F, -3};
  d.add(logits, logits);
  EXPECT_EQ(d.positions(), 1U);
  EXPECT_EQ(d.top1_agreement(), 1);
  EXPECT_NEAR(d.mean_kl(), 0, 1e-15);
  EXPECT_EQ(d.relative_error(), 0);
}

TEST(Divergence, IsThatOfTheProbabilities) {
  Divergence d;
  // 1/2, 1/2 against 1/4, 3/4: log(2) / 2 + log(2/3) / 2.
  d.add(std::vector<float>{0, 0}, std::vector<float>{0, std::log(3.0F)});
  EXPECT_NEAR(d.mean_kl(), 0.5 * kLog2 + 0.5 * std::log(2.0 / 3), 1e-7);
  EXPECT_EQ(d.top1_agreement(), 0);  // the first of equals is the reference's choice
}

TEST(Divergence, DoesNotSeeAConstantNorOverflow) {
  Divergence d;
  d.add(std::vector<float>{1, 2, 4}, std::vector<float>{1e4F + 1, 1e4F + 2, 1e4F + 4});
  EXPECT_NEAR(d.mean_kl(), 0, 1e-3);
  EXPECT_NEAR(d.relative_error(), 0, 1e-3);
}

TEST(Divergence, CountsPositions) {
  Divergence d;
  d.add(std::vector<float>{3, 0}, std::vector<float>{3, 0});
  d.add(std::vector<float>{3, 0}, std::vector<float>{0, 3});  // 3 * tanh(3 / 2)
  d.add(std::vector<float>{3, 0}, std::vector<float>{3, 0});
  d.add(std::vector<float>{3, 0}, std::vector<float>{3, 0});
  EXPECT_EQ(d.positions(), 4U);
  EXPECT_DOUBLE_EQ(d.top1_agreement(), 0.75);
  EXPECT_NEAR(d.mean_kl(), 3 * std::tanh(1.5) / 4, 1e-7);
  EXPECT_NEAR(d.kl_quantile(0.75), 0, 1e-12);
  EXPECT_NEAR(d.kl_quantile(0.76), 3 * std::tanh(1.5), 1e-7);
  EXPECT_NEAR(d.kl_quantile(1), 3 * std::tanh(1.5), 1e-7);
  EXPECT_NEAR(d.relative_error(), 1, 1e-7);  // one of four is off by twice its spread
}

}  // namespace
}  // namespace troupe::model
