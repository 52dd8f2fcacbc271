#include "model/sampling.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "base/random.hpp"

namespace troupe::model {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

SamplingParams seeded(uint64_t seed, float temperature = 1.0F) {
  SamplingParams params;
  params.temperature = temperature;
  params.seed = seed;
  return params;
}

/// Tokens that occur in many draws.
std::set<TokenId> support(const std::vector<float>& logits, const SamplingParams& params) {
  std::set<TokenId> out;
  for (uint64_t position = 0; position < 3000; ++position) {
    out.insert(sample(logits, params, position).token);
  }
  return out;
}

TEST(Sampling, GreedyTakesTheHighestAndTheLowerIdOfEquals) {
  const SamplingParams greedy = seeded(0, 0.0F);
  EXPECT_EQ(sample(std::vector<float>{1, 3, 2}, greedy, 0).token, 1);
  EXPECT_EQ(sample(std::vector<float>{1, 3, 2, 3}, greedy, 0).token, 1);
  EXPECT_EQ(sample(std::vector<float>{0.0F, -0.0F}, greedy, 0).token, 0);
  EXPECT_EQ(sample(std::vector<float>{-5}, greedy, 9).token, 0);
}

TEST(Sampling, WhatIsNotFiniteIsNeverChosen) {
  const std::vector<float> logits = {kNan, kInf, 1.0F, -kInf, 0.5F, kNan};
  EXPECT_EQ(sample(logits, seeded(0, 0.0F), 0).token, 2);
  EXPECT_EQ(support(logits, seeded(1)), (std::set<TokenId>{2, 4}));
  for (const float temperature : {0.0F, 1.0F}) {
    for (const std::vector<float>& hopeless :
         {std::vector<float>{}, {kNan}, {-kInf, -kInf}, {kInf, kNan}}) {
      EXPECT_EQ(sample(hopeless, seeded(1, temperature), 0).token, kNoToken);
    }
  }
}

TEST(Sampling, ExtremeLogitsAndTemperaturesStillChoose) {
  const float big = std::numeric_limits<float>::max();
  EXPECT_EQ(support({-big, big, 0}, seeded(3)), (std::set<TokenId>{1}));
  EXPECT_EQ(support({1.0F, 1.001F}, seeded(3, 1e-30F)), (std::set<TokenId>{1}));
  EXPECT_EQ(support({1.0F, 1.001F}, seeded(3, std::numeric_limits<float>::denorm_min())),
            (std::set<TokenId>{1}));
  EXPECT_EQ(support({big, big}, seeded(3)), (std::set<TokenId>{0, 1}));
}

TEST(Sampling, EachFilterKeepsWhatItsDefinitionSays) {
  // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
  const std::vector<float> logits = {std::log(4.0F), std::log(8.0F), std::log(1.0F), std::log(2.0F),
                                     std::log(1.0F)};
  struct Case {
    const char* name;
    int32_t top_k;
    float top_p, min_p;
    std::set<TokenId> kept;
  };
  const std::vector<Case> cases = {
      {"none", 0, 1.0F, 0.0F, {0, 1, 2, 3, 4}},
      {"negative top_k is off", -1, 1.0F, 0.0F, {0, 1, 2, 3, 4}},
      {"top_k 1", 1, 1.0F, 0.0F, {1}},
      {"top_k 3", 3, 1.0F, 0.0F, {1, 0, 3}},
      {"top_k 4 takes the lower of two equals", 4, 1.0F, 0.0F, {1, 0, 3, 2}},
      {"top_k beyond the vocabulary", 99, 1.0F, 0.0F, {0, 1, 2, 3, 4}},
      {"top_p below the first", 0, 0.01F, 0.0F, {1}},
      {"top_p just below two", 0, 0.749F, 0.0F, {1, 0}},
      {"top_p just above two", 0, 0.751F, 0.0F, {1, 0, 3}},
      {"top_p takes the lower of two equals", 0, 0.93F, 0.0F, {1, 0, 3, 2}},
      {"min_p just above a quarter", 0, 1.0F, 0.2501F, {1, 0}},
      {"min_p just below a quarter", 0, 1.0F, 0.2499F, {1, 0, 3}},
      {"min_p 1", 0, 1.0F, 1.0F, {1}},
      {"top_p counts what top_k left", 2, 0.67F, 0.0F, {1, 0}},  // 2/3, 1/3
      {"top_p of what top_k left", 2, 0.66F, 0.0F, {1}},
      {"all together", 4, 0.9F, 0.3F, {1, 0}},
  };
  for (const Case& test : cases) {
    SamplingParams params = seeded(11);
    params.top_k = test.top_k;
    params.top_p = test.top_p;
    params.min_p = test.min_p;
    EXPECT_EQ(support(logits, params), test.kept) << test.name;
  }
}

TEST(Sampling, TemperatureComesBeforeTheFilters) {
  const std::vector<float> logits = {std::log(8.0F), std::log(4.0F), std::log(2.0F)};
  SamplingParams params = seeded(5, 0.5F);  // squares: 64, 16, 4
  params.min_p = 0.2F;
  EXPECT_EQ(support(logits, params), (std::set<TokenId>{0, 1}));
  params.temperature = 2.0F;  // roots: 1, 0.71, 0.5
  EXPECT_EQ(support(logits, params), (std::set<TokenId>{0, 1, 2}));
}

TEST(Sampling, DrawsFollowTheDistribution) {
  // Chi-square with 9 degrees of freedom: 27.9 is passed once in 1000 seeds; the seeds are fixed.
  const size_t n = 20'000;
  for (const float temperature : {0.7F, 1.0F, 1.6F}) {
    std::vector<float> logits;
    std::vector<double> weights;
    double total = 0;
    for (int i = 0; i < 10; ++i) {
      logits.push_back(0.4F * static_cast<float>((i * 7) % 10));
      weights.push_back(std::exp(static_cast<double>(logits.back()) / temperature));
      total += weights.back();
    }
    std::vector<double> counts(10);
    for (uint64_t position = 0; position < n; ++position) {
      ++counts[static_cast<size_t>(sample(logits, seeded(42, temperature), position).token)];
    }
    double chi_square = 0;
    for (size_t i = 0; i < 10; ++i) {
      const double expected = static_cast<double>(n) * weights[i] / total;
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    EXPECT_LT(chi_square, 27.9) << temperature;
  }
}

TEST(Sampling, ADrawIsAFunctionOfSeedAndPositionAlone) {
  std::vector<float> logits(1000);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(random_uniform(9, i)) * 3;
  }
  std::map<uint64_t, TokenId> forward;
  for (uint64_t position = 0; position < 200; ++position) {
    forward[position] = sample(logits, seeded(17), position).token;
  }
  std::set<TokenId> distinct;
  for (uint64_t position = 200; position-- > 0;) {
    EXPECT_EQ(sample(logits, seeded(17), position).token, forward[position]);
    distinct.insert(forward[position]);
  }
  EXPECT_GT(distinct.size(), 100U);
  size_t num_equal = 0;
  for (uint64_t position = 0; position < 200; ++position) {
    num_equal += sample(logits, seeded(18), position).token == forward[position] ? 1 : 0;
  }
  EXPECT_LT(num_equal, 20U);
}

TEST(Sampling, DrawsAreTheSameOnEveryMachine) {
  // The expected tokens are those of the first machine that ran this; any other must agree.
  std::vector<float> logits(500);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(random_uniform(3, i)) * 4;
  }
  SamplingParams params = seeded(2026, 0.8F);
  params.top_p = 0.95F;
  params.want_logprobs = true;
  std::vector<TokenId> tokens;
  double sum = 0;
  for (uint64_t position = 0; position < 12; ++position) {
    const SampledToken sampled = sample(logits, params, position);
    tokens.push_back(sampled.token);
    sum += sampled.logprob;
  }
  EXPECT_THAT(tokens, testing::ElementsAre(250, 161, 356, 465, 72, 48, 482, 438, 121, 72, 149, 51));
  EXPECT_EQ(sum, -0x1.040cccap+6);
}

TEST(Sampling, LogprobsAreOfTheModelsDistribution) {
  std::vector<float> logits(300);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(random_uniform(4, i)) * 20 - 10;
  }
  logits[7] = logits[9];
  logits[11] = kNan;
  logits[12] = -kInf;
  double total = 0;
  for (const float logit : logits) {
    if (std::isfinite(logit)) total += std::exp(static_cast<double>(logit));
  }
  for (const float temperature : {0.0F, 0.5F, 1.5F}) {
    SamplingParams params = seeded(1, temperature);
    params.want_logprobs = true;
    params.num_top_logprobs = 20;
    params.top_k = temperature > 0 ? 3 : 0;
    const SampledToken sampled = sample(logits, params, 0);
    const auto expected = [&](TokenId token) {
      return static_cast<double>(logits[static_cast<size_t>(token)]) - std::log(total);
    };
    EXPECT_NEAR(sampled.logprob, expected(sampled.token), 1e-6);
    ASSERT_EQ(sampled.top_logprobs.size(), 20U);
    for (size_t i = 0; i < 20; ++i) {
      const auto& [token, logprob] = sampled.top_logprobs[i];
      EXPECT_NEAR(logprob, expected(token), 2e-6);
      if (i == 0) continue;
      const auto& before = sampled.top_logprobs[i - 1];
      EXPECT_TRUE(before.second > logprob || (before.second == logprob && before.first < token));
    }
  }
}

TEST(Sampling, ScoresAGivenTokenAsIfItHadBeenChosen) {
  std::vector<float> logits(50);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(random_uniform(5, i)) * 8 - 4;
  }
  logits[3] = kNan;
  SamplingParams params = seeded(1, 1.3F);
  params.want_logprobs = true;
  params.num_top_logprobs = 4;
  for (uint64_t position = 0; position < 40; ++position) {
    const SampledToken sampled = sample(logits, params, position);
    const SampledToken scored = score(logits, sampled.token, 4);
    EXPECT_EQ(scored.token, sampled.token);
    EXPECT_EQ(scored.logprob, sampled.logprob);
    EXPECT_EQ(scored.top_logprobs, sampled.top_logprobs);
  }
  EXPECT_EQ(score(logits, 3, 1).logprob, -kInf);
  EXPECT_EQ(score(std::vector<float>(2, kNan), 0, 3).logprob, -kInf);
}

TEST(Sampling, LogprobsAreThereOnlyWhenWanted) {
  SamplingParams params = seeded(1);
  params.num_top_logprobs = 2;
  EXPECT_TRUE(sample(std::vector<float>{1, 2}, params, 0).top_logprobs.empty());
  params.want_logprobs = true;
  EXPECT_EQ(sample(std::vector<float>{1}, params, 0).top_logprobs.size(), 1U);
  EXPECT_EQ(sample(std::vector<float>{1}, params, 0).logprob, 0.0F);
  params.num_top_logprobs = 0;
  EXPECT_NEAR(sample(std::vector<float>{1, 1}, params, 0).logprob, -0.6931472, 1e-7);
}

TEST(Sampling, ParametersOutsideTheirLimitsAreErrorsNamingTheField) {
  EXPECT_TRUE(validate({}).ok());
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    const auto result = validate(params);
    return result.ok() ? std::string("accepted") : result.error().message;
  };
  for (const float bad : {-0.1F, 2.1F, kInf, -kInf, kNan, 1e38F}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.temperature = bad; }),
                testing::HasSubstr("temperature"));
  }
  for (const float bad : {0.0F, -1.0F, 1.1F, kNan, kInf}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.top_p = bad; }), testing::HasSubstr("top_p"));
  }
  for (const float bad : {-0.1F, 1.1F, kNan}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.min_p = bad; }), testing::HasSubstr("min_p"));
  }
  EXPECT_THAT(message([](SamplingParams& p) { p.num_top_logprobs = 21; }),
              testing::HasSubstr("top_logprobs"));
  EXPECT_EQ(message([](SamplingParams& p) {
              p.temperature = 0;
              p.top_p = 1e-6F;
              p.min_p = 1;
              p.num_top_logprobs = 20;
              p.top_k = -5;
            }),
            "accepted");
}

}  // namespace
}  // namespace troupe::model
