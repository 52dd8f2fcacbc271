// Sampling against a dumb twin: all tokens sorted, weighed one at a time and added in order.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "base/random.hpp"
#include "model/logit_ranking.hpp"
#include "model/sampling.hpp"
#include "model/softmax.hpp"
#include "model/top_p.hpp"

namespace troupe::model {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Candidate {
  TokenId token;
  float logit;
  double weight = 0;
};

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

bool lower_id(const Candidate& a, const Candidate& b) { return a.token < b.token; }

/// The finite ones, most likely first, with their weights.
std::vector<Candidate> sorted(const std::vector<float>& logits, double temperature) {
  std::vector<Candidate> all;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) all.push_back({static_cast<TokenId>(i), logits[i]});
  }
  std::ranges::sort(all, more_likely);
  for (Candidate& c : all) {
    const double below = static_cast<double>(c.logit) - static_cast<double>(all.front().logit);
    c.weight = exp_of(below / temperature);
  }
  return all;
}

double total_of(std::vector<Candidate> candidates) {
  std::ranges::sort(candidates, lower_id);
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  return total;
}

/// REQUIRES: a temperature, no rule of the request but filters.
SampledToken sample_slowly(const std::vector<float>& logits, const SamplingParams& params,
                           uint64_t position) {
  std::vector<Candidate> kept = sorted(logits, params.temperature);
  if (kept.empty()) return {.token = kNoToken};
  if (params.top_k > 0) kept.resize(std::min(kept.size(), static_cast<size_t>(params.top_k)));
  if (params.top_p < 1.0F) {
    const double wanted = static_cast<double>(params.top_p) * total_of(kept);
    double sum = 0;
    size_t count = 0;
    while (count < kept.size() && (count == 0 || sum < wanted)) sum += kept[count++].weight;
    kept.resize(count);
  }
  std::erase_if(kept, [&](const Candidate& c) { return c.weight < params.min_p; });
  std::ranges::sort(kept, lower_id);
  const double target = random_uniform(params.seed, position) * total_of(kept);
  double sum = 0;
  SampledToken out{.token = kNoToken};
  for (size_t i = 0; i < kept.size() && sum <= target; ++i) {
    sum += kept[i].weight;
    out.token = kept[i].token;
  }
  const std::vector<Candidate> of_model = sorted(logits, 1);
  const double log_total = log_of(total_of(of_model));
  const auto logprob = [&](const Candidate& c) {
    return static_cast<float>(static_cast<double>(c.logit) -
                              static_cast<double>(of_model[0].logit) - log_total);
  };
  for (const Candidate& c : of_model) {
    if (out.top_logprobs.size() < params.num_top_logprobs) {
      out.top_logprobs.emplace_back(c.token, logprob(c));
    }
    if (c.token == out.token) out.logprob = logprob(c);
  }
  return out;
}

/// Flat, peaked or full of equals, some of them not finite.
std::vector<float> random_logits(uint64_t seed, size_t size) {
  uint64_t at = 0;
  const auto below = [&](uint64_t limit) { return random_bits(seed, at++) % limit; };
  const float spread = std::array{0.5F, 8.0F, 60.0F, 2000.0F}[below(4)];
  const uint64_t distinct = std::array{3U, 1U << 20U}[below(2)];
  const float bad = std::array{kInf, -kInf, std::nanf("")}[below(3)];
  const bool has_bad = below(2) == 0;
  std::vector<float> logits(size);
  for (float& logit : logits) {
    logit = spread * (static_cast<float>(below(distinct)) / static_cast<float>(distinct) - 0.5F);
    if (has_bad && below(5) == 0) logit = bad;
  }
  for (uint64_t i = below(2) * below(40); size > 0 && i > 0; --i) logits[below(size)] += spread;
  return logits;
}

TEST(SamplingTwin, ChoosesWhatTheTwinChoosesWithTheSameLogprobs) {
  size_t num_tokens = 0;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    uint64_t at = 1000;
    const auto below = [&](uint64_t limit) { return random_bits(seed, at++) % limit; };
    const size_t size = std::array<size_t, 7>{1, 63, 64, 65, 128, 1000, 6000}[below(7)];
    const std::vector<float> logits = random_logits(seed, size);
    SamplingParams params;
    params.seed = seed;
    params.temperature = std::array{1.0F, 0.3F, 2.0F, 1e-30F}[below(4)];
    if (below(2) == 0) params.top_k = static_cast<int32_t>(below(std::array{4U, 200U}[below(2)]));
    if (below(2) == 0) params.top_p = std::array{0.01F, 0.5F, 0.95F, 0.9999F}[below(4)];
    if (below(3) == 0) params.min_p = std::array{1e-4F, 0.1F, 1.0F}[below(3)];
    params.want_logprobs = true;
    params.num_top_logprobs = static_cast<uint32_t>(below(21));
    for (uint64_t position = 0; position < 3; ++position) {
      const SampledToken expected = sample_slowly(logits, params, position);
      const SampledToken got = sample(logits, params, position);
      ASSERT_EQ(got.token, expected.token) << "seed " << seed;
      ASSERT_EQ(got.logprob, expected.logprob) << "seed " << seed;
      ASSERT_EQ(got.top_logprobs, expected.top_logprobs) << "seed " << seed;
      num_tokens += got.token >= 0 ? 1 : 0;
    }
  }
  EXPECT_GT(num_tokens, 8000U);
}

TEST(SamplingTwin, SumsHaveTheBitsOfOneAdditionAfterTheOther) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const std::vector<float> logits = random_logits(seed, 1 + seed * 7);
    const std::vector<Candidate> all = sorted(logits, 0.7);
    if (all.empty()) continue;
    const Softmax softmax{.logits = logits, .highest = all[0].logit, .temperature = 0.7};
    ASSERT_EQ(softmax.total(), total_of(all)) << "seed " << seed;
  }
}

TEST(SamplingTwin, TopPKeepsThoseWithWhichOneAdditionAfterTheOtherReachesTheShare) {
  size_t num_found = 0, num_left_to_rounding = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    uint64_t at = 2000;
    const auto below = [&](uint64_t limit) { return random_bits(seed, at++) % limit; };
    const size_t size = std::array<size_t, 5>{1, 70, 1000, 6000, 30'000}[below(5)];
    const std::vector<float> logits = random_logits(seed, size);
    const std::vector<Candidate> all = sorted(logits, 0.7);
    if (all.empty()) continue;
    const Softmax softmax{.logits = logits, .highest = all[0].logit, .temperature = 0.7};
    std::vector<double> sums;
    for (const Candidate& c : all) sums.push_back((sums.empty() ? 0 : sums.back()) + c.weight);
    for (int i = 0; i < 8; ++i) {
      // Every other one is at a sum or next to it, where a bit decides.
      double wanted = random_uniform(seed, at++) * softmax.total();
      if (i % 2 == 0) wanted = sums[below(sums.size())];
      const double top_p = wanted / softmax.total();
      if (!(top_p > 0 && top_p < 1)) continue;
      wanted = top_p * softmax.total();
      const auto reaching = std::ranges::lower_bound(sums, wanted) - sums.begin();
      const size_t count = std::min(all.size(), static_cast<size_t>(reaching) + 1);
      std::vector<uint32_t> expected;
      for (size_t k = 0; k < count; ++k) expected.push_back(static_cast<uint32_t>(all[k].token));
      std::ranges::sort(expected);
      ASSERT_EQ(most_likely_share(softmax, top_p), expected) << "seed " << seed;
      if (const auto end = top_p_end(softmax, wanted)) {
        ASSERT_EQ(end->num_kept, count) << "seed " << seed;
        ASSERT_EQ(end->logit, all[count - 1].logit) << "seed " << seed;
        ++num_found;
      } else {
        ++num_left_to_rounding;
      }
    }
  }
  EXPECT_GT(num_found, 800U);
  EXPECT_GT(num_left_to_rounding, 400U);
}

TEST(SamplingTwin, TopPOfFlatLogitsNeedsNoSort) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    std::vector<float> logits(20'000);
    for (size_t i = 0; i < logits.size(); ++i) {
      logits[i] = static_cast<float>(random_uniform(seed, i)) * 8 - 4;
    }
    const Softmax softmax{.logits = logits, .highest = *std::ranges::max_element(logits)};
    for (const double top_p : {0.1, 0.5, 0.9, 0.95, 0.99}) {
      EXPECT_TRUE(top_p_end(softmax, top_p * softmax.total())) << seed << " " << top_p;
    }
  }
}

TEST(SamplingTwin, ExponentialsAreRightToTwoUnitsInTheLastPlace) {
  for (uint64_t i = 0; i < 200'000; ++i) {
    const double x = -random_uniform(7, i) * (i % 2 == 0 ? 707 : 3);
    const double right = std::exp(x);
    ASSERT_LE(std::abs(exp_of(x) - right), right * 0x1p-51) << x;
  }
  EXPECT_EQ(exp_of(0), 1.0);
  EXPECT_EQ(exp_of(-708.0), 0.0);
  EXPECT_EQ(exp_of(-std::numeric_limits<double>::infinity()), 0.0);
  EXPECT_EQ(exp_of(std::nan("")), 0.0);
}

TEST(SamplingTwin, RanksAsASortOfAllDoes) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const std::vector<float> logits = random_logits(seed, seed * 11);
    const std::vector<Candidate> all = sorted(logits, 1);
    const LogitRanking ranking(logits);
    ASSERT_EQ(ranking.best().has_value(), !all.empty());
    if (all.empty()) continue;
    ASSERT_EQ(static_cast<TokenId>(*ranking.best()), all[0].token);
    for (const size_t count : {0, 1, 7, 40, 100, 5000}) {
      const std::vector<uint32_t> got = ranking.most_likely(count);
      ASSERT_EQ(got.size(), std::min(count, all.size()));
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(static_cast<TokenId>(got[i]), all[i].token) << "seed " << seed << " of " << count;
      }
    }
  }
}

}  // namespace
}  // namespace troupe::model
