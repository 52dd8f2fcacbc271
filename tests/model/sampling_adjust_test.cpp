// Penalties, biases and bans against a dumb twin: a copy of the logits changed by the definitions,
// then sampled without any of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "base/random.hpp"
#include "model/sampling.hpp"

namespace troupe::model {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr size_t kVocab = 70;  // two words of a mask

/// Draws keyed by a seed and a running number.
class Draws {
 public:
  explicit Draws(uint64_t seed) : seed_(seed) {}
  uint64_t below(uint64_t limit) { return random_bits(seed_, next_++) % limit; }
  float between(double low, double high) {
    return static_cast<float>(low + random_uniform(seed_, next_++) * (high - low));
  }
  std::vector<TokenId> tokens(size_t count) {
    std::vector<TokenId> out;
    for (size_t i = 0; i < count; ++i) out.push_back(static_cast<TokenId>(below(kVocab)));
    return out;
  }

 private:
  uint64_t seed_;
  uint64_t next_ = 0;
};

struct Case {
  std::vector<float> logits;
  SamplingParams params;
  std::vector<TokenId> prompt, emitted, stops;
  std::vector<uint64_t> mask = {};

  /// Of a request that was resumed when it had emitted so many tokens.
  [[nodiscard]] TokenHistory history(size_t num_resumed) const {
    TokenHistory history(params, {.prompt = prompt,
                                  .emitted = std::span(emitted).first(num_resumed),
                                  .stop_token_ids = stops});
    for (const TokenId token : std::span(emitted).subspan(num_resumed)) history.append(token);
    return history;
  }
  [[nodiscard]] uint64_t position() const { return prompt.size() + emitted.size(); }
  [[nodiscard]] SampledToken sampled() const {
    return sample(logits, params, position(), history(params.seed % (emitted.size() + 1)), mask);
  }
};

Case random_case(uint64_t seed) {
  Draws draws(seed);
  Case c;
  for (size_t i = 0; i < kVocab; ++i) c.logits.push_back(draws.between(-4, 4));
  c.logits[draws.below(kVocab)] = -kInf;
  c.prompt = draws.tokens(draws.below(30));
  c.emitted = draws.tokens(draws.below(30));
  c.stops = draws.tokens(draws.below(4));
  SamplingParams& p = c.params;
  p.seed = seed;
  p.temperature = draws.below(3) == 0 ? 0.0F : draws.between(0.3, 2);
  if (draws.below(3) == 0) p.top_k = static_cast<int32_t>(1 + draws.below(10));
  if (draws.below(2) == 0) p.presence_penalty = draws.between(-2, 2);
  if (draws.below(2) == 0) p.frequency_penalty = draws.between(-2, 2);
  if (draws.below(2) == 0) p.repetition_penalty = draws.between(0.5, 2);
  if (draws.below(2) == 0) p.min_tokens = static_cast<uint32_t>(draws.below(40));
  std::map<TokenId, float> biases;
  for (uint64_t i = draws.below(6); i > 0; --i) {
    biases[static_cast<TokenId>(draws.below(kVocab))] = draws.between(-100, 100);
  }
  p.logit_bias.assign(biases.begin(), biases.end());
  if (draws.below(3) == 0) {
    p.allowed_token_ids = draws.tokens(1 + draws.below(20));
    std::sort(p.allowed_token_ids.begin(), p.allowed_token_ids.end());
    const auto end = std::unique(p.allowed_token_ids.begin(), p.allowed_token_ids.end());
    p.allowed_token_ids.erase(end, p.allowed_token_ids.end());
  }
  for (uint64_t i = draws.below(4); i > 0; --i) {
    std::vector<TokenId> word = draws.tokens(1 + draws.below(3));
    if (word.size() <= c.emitted.size() &&
        draws.below(2) == 0) {  // one that is about to be complete
      std::copy_n(c.emitted.end() - static_cast<ptrdiff_t>(word.size() - 1), word.size() - 1,
                  word.begin());
    }
    p.bad_words.push_back(word);
  }
  if (draws.below(3) == 0) {
    c.mask.resize(2);
    for (const TokenId token : draws.tokens(draws.below(60))) {
      c.mask[token / 64] |= uint64_t{1} << token % 64;
    }
  }
  return c;
}

/// The definitions, one after the other, each over the whole vocabulary.
std::vector<float> changed_by_definition(const Case& c) {
  const SamplingParams& p = c.params;
  std::vector<float> logits = c.logits;
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto token = static_cast<TokenId>(i);
    float& logit = logits[i];
    for (const auto& [id, bias] : p.logit_bias) {
      if (id == token) logit += bias;
    }
    const auto times = std::count(c.emitted.begin(), c.emitted.end(), token);
    const auto in_prompt = std::count(c.prompt.begin(), c.prompt.end(), token);
    if (times + in_prompt > 0) {
      logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
    }
    logit -= p.frequency_penalty * static_cast<float>(times);
    if (times > 0) logit -= p.presence_penalty;
    const bool is_stop = std::count(c.stops.begin(), c.stops.end(), token) > 0;
    if (is_stop && c.emitted.size() < p.min_tokens) logit = -kInf;
    const auto& allowed = p.allowed_token_ids;
    if (!allowed.empty() && std::count(allowed.begin(), allowed.end(), token) == 0) logit = -kInf;
    if (!c.mask.empty() && (c.mask[i / 64] >> i % 64 & 1) == 0) logit = -kInf;
    for (const auto& word : p.bad_words) {
      std::vector<TokenId> answer = c.emitted;
      answer.push_back(token);
      if (word.size() <= answer.size() && std::equal(word.rbegin(), word.rend(), answer.rbegin())) {
        logit = -kInf;
      }
    }
  }
  return logits;
}

TEST(SamplingAdjust, EqualsTheDefinitionsAppliedOneAfterTheOther) {
  int num_changed = 0;
  int num_without_token = 0;
  for (uint64_t seed = 0; seed < 5000; ++seed) {
    const Case c = random_case(seed);
    ASSERT_TRUE(validate(c.params).ok()) << validate(c.params).error().message;
    SamplingParams plain;
    plain.seed = c.params.seed;
    plain.temperature = c.params.temperature;
    plain.top_k = c.params.top_k;
    const TokenId expected = sample(changed_by_definition(c), plain, c.position()).token;
    const TokenId got = c.sampled().token;
    ASSERT_EQ(got, expected == kNoToken ? kNothingAllowed : expected) << "seed " << seed;
    num_changed += got != sample(c.logits, plain, c.position()).token ? 1 : 0;
    num_without_token += got == kNothingAllowed ? 1 : 0;
  }
  EXPECT_GT(num_changed, 1000) << "else the cases test nothing";
  EXPECT_GT(num_without_token, 3);
}

TEST(SamplingAdjust, LogprobsStayThoseOfTheModel) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Case c = random_case(seed);
    c.params.want_logprobs = true;
    c.params.num_top_logprobs = 20;
    const SampledToken got = c.sampled();
    if (got.token == kNothingAllowed) continue;
    SamplingParams plain;
    plain.want_logprobs = true;
    plain.num_top_logprobs = 20;
    plain.temperature = 0;
    EXPECT_EQ(got.top_logprobs, sample(c.logits, plain, 0).top_logprobs);
    double total = 0;
    for (const float logit : c.logits) total += std::exp(static_cast<double>(logit));
    EXPECT_NEAR(got.logprob, c.logits[static_cast<size_t>(got.token)] - std::log(total), 1e-5);
  }
}

TEST(SamplingAdjust, ParametersThatAskForNothingLeaveEveryDrawAsItIs) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Case c = random_case(seed);
    SamplingParams plain;
    plain.seed = c.params.seed;
    plain.temperature = c.params.temperature;
    const TokenId expected = sample(c.logits, plain, c.position()).token;
    c.params = plain;
    c.mask.assign(2, ~uint64_t{0});
    EXPECT_EQ(c.sampled().token, expected);
    c.mask.clear();
    EXPECT_EQ(c.sampled().token, expected);
  }
}

TEST(SamplingAdjust, CountsArePlainCountsWhereverARequestWasResumed) {
  size_t num_counted = 0;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    const Case c = random_case(seed);
    std::map<TokenId, uint32_t> plain;
    const bool repetition = c.params.repetition_penalty != 1;
    if (repetition || c.params.presence_penalty != 0 || c.params.frequency_penalty != 0) {
      for (const TokenId token : c.emitted) ++plain[token];
    }
    for (const TokenId token : c.prompt) {
      if (repetition) plain.try_emplace(token, 0);
    }
    for (size_t num_resumed = 0; num_resumed <= c.emitted.size(); ++num_resumed) {
      const TokenHistory history = c.history(num_resumed);
      std::vector<std::pair<TokenId, uint32_t>> counts;
      for (const TokenCount& count : history.counts()) {
        counts.emplace_back(count.token, count.num_emitted);
      }
      ASSERT_THAT(counts, ElementsAreArray(plain.begin(), plain.end())) << "seed " << seed;
      ASSERT_THAT(history.emitted(), ElementsAreArray(c.emitted));
      num_counted += counts.size();
    }
  }
  EXPECT_GT(num_counted, 10'000U);
}

TEST(SamplingAdjust, IdsOutsideTheVocabularyChangeNothing) {
  const std::vector<float> logits = {1, 3, 2};
  SamplingParams params;
  params.temperature = 0;
  params.logit_bias = {{-5, 100}, {3, 100}, {1 << 30, 100}};
  params.presence_penalty = 2;
  params.bad_words = {{7}, {-1}};
  params.min_tokens = 9;
  const std::vector<TokenId> wild = {-1, 3, 1 << 30};
  const TokenHistory history(params, {wild, wild, wild});
  EXPECT_EQ(sample(logits, params, 6, history).token, 1);
  params.allowed_token_ids = {-3, 2, 99};
  EXPECT_EQ(sample(logits, params, 6, history).token, 2);
}

TEST(SamplingAdjust, TellsBansFromABrokenModel) {
  SamplingParams params;
  params.allowed_token_ids = {1};
  params.bad_words = {{1}};
  EXPECT_EQ(sample(std::vector<float>{1, 2}, params, 0).token, kNothingAllowed);
  EXPECT_EQ(sample(std::vector<float>{-kInf, -kInf}, params, 0).token, kNoToken);
  EXPECT_EQ(no_token_error(kNothingAllowed).code, Code::kInvalidArgument);
  EXPECT_EQ(no_token_error(kNoToken).code, Code::kInternal);
}

TEST(SamplingAdjust, ParametersOutsideTheirLimitsAreErrorsNamingTheField) {
  const auto message = [](auto change) {
    SamplingParams params;
    change(params);
    const auto result = validate(params);
    return result.ok() ? std::string("accepted") : result.error().message;
  };
  for (const float bad : {-2.1F, 2.1F, kInf, -kInf, std::nanf("")}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.presence_penalty = bad; }),
                HasSubstr("presence_penalty"));
    EXPECT_THAT(message([&](SamplingParams& p) { p.frequency_penalty = bad; }),
                HasSubstr("frequency_penalty"));
  }
  for (const float bad : {0.0F, -1.0F, 101.0F, kInf, std::nanf("")}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.repetition_penalty = bad; }),
                HasSubstr("repetition_penalty"));
  }
  using Biases = std::vector<std::pair<TokenId, float>>;
  for (const Biases& bad : {Biases{{1, 100.5F}}, Biases{{1, std::nanf("")}}, Biases{{-1, 0}},
                            Biases{{2, 0}, {1, 0}}, Biases{{1, 0}, {1, 0}}}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.logit_bias = bad; }), HasSubstr("logit_bias"));
  }
  using Tokens = std::vector<TokenId>;
  for (const Tokens& bad : {Tokens{-1}, Tokens{2, 1}, Tokens{1, 1}, Tokens(20'000, 1)}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.allowed_token_ids = bad; }),
                HasSubstr("allowed_token_ids"));
  }
  for (const Tokens& bad : {Tokens{}, Tokens(257, 1)}) {
    EXPECT_THAT(message([&](SamplingParams& p) { p.bad_words = {bad}; }), HasSubstr("bad_words"));
  }
}

}  // namespace
}  // namespace troupe::model
