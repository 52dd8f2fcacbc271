// Tokens chosen on the device against model::sample() and model::score() on the host: the same
// tokens and the same bits of log-probabilities.

#include <array>
#include <cmath>
#include <limits>

#include "base/random.hpp"
#include "model/row_sampling.hpp"
#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

/// Draws below a limit, the same for each seed.
class Draws {
 public:
  explicit Draws(uint64_t seed) : seed_(seed) {}
  uint64_t below(uint64_t limit) { return random_bits(seed_, at_++) % limit; }

 private:
  uint64_t seed_;
  uint64_t at_ = 0;
};

/// Flat, peaked or full of equals, some of them not finite.
std::vector<float> random_logits(Draws& draws, size_t size) {
  const float spread = std::array{0.5F, 8.0F, 60.0F, 2000.0F}[draws.below(4)];
  const uint64_t distinct = std::array{3U, 1U << 20U}[draws.below(2)];
  const float bad = std::array{kInf, -kInf, std::nanf("")}[draws.below(3)];
  const uint64_t bad_of_five = draws.below(8) == 0 ? 5 : draws.below(2);
  std::vector<float> logits(size);
  for (float& logit : logits) {
    logit =
        spread * (static_cast<float>(draws.below(distinct)) / static_cast<float>(distinct) - 0.5F);
    if (draws.below(5) < bad_of_five) logit = bad;
  }
  for (uint64_t i = draws.below(2) * draws.below(40); i > 0; --i) {
    logits[draws.below(size)] += spread;
  }
  return logits;
}

struct Case {
  model::SamplingParams params;
  uint64_t position = 0;
  model::TokenHistory history;
  std::vector<uint64_t> mask;
  std::vector<float> logits;
};

std::vector<TokenId> random_tokens(Draws& draws, size_t count, size_t vocab) {
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(draws.below(vocab));
  return tokens;
}

Case random_case(uint64_t seed, size_t vocab) {
  Draws draws(seed);
  Case c{.position = draws.below(1000), .logits = random_logits(draws, vocab)};
  model::SamplingParams& params = c.params;
  params.seed = seed;
  params.temperature = std::array{0.0F, 1.0F, 0.3F, 2.0F, 1e-30F}[draws.below(5)];
  if (draws.below(3) == 0) {
    params.top_k = static_cast<int32_t>(draws.below(std::array{4U, 150U, 9000U}[draws.below(3)]));
  }
  if (draws.below(3) == 0) params.top_p = std::array{0.01F, 0.5F, 0.95F, 0.9999F}[draws.below(4)];
  if (draws.below(3) == 0) params.min_p = std::array{1e-4F, 0.1F, 1.0F}[draws.below(3)];
  params.want_logprobs = draws.below(2) == 0;
  params.num_top_logprobs = static_cast<uint32_t>(draws.below(21));
  if (draws.below(2) == 0) {
    if (draws.below(2) == 0) params.repetition_penalty = 1.3F;
    if (draws.below(2) == 0) params.frequency_penalty = 0.7F;
    if (draws.below(2) == 0) params.presence_penalty = -0.4F;
    if (draws.below(2) == 0) params.min_tokens = static_cast<uint32_t>(draws.below(40));
    for (TokenId token = 0; token < 30; ++token) {
      if (draws.below(6) != 0) continue;
      params.logit_bias.emplace_back(token, static_cast<float>(draws.below(200)) - 100);
    }
    for (uint64_t i = draws.below(4); i > 0; --i) {
      params.bad_words.push_back(
          random_tokens(draws, 1 + draws.below(2), std::min<size_t>(vocab, 20)));
    }
  }
  if (draws.below(5) == 0) {
    for (TokenId token = 0; token < static_cast<TokenId>(vocab) + 3; ++token) {
      if (draws.below(4) == 0) params.allowed_token_ids.push_back(token);
    }
  }
  if (draws.below(3) == 0) {
    c.mask.resize((vocab + 63) / 64 + 1);
    const uint64_t few = draws.below(3);
    for (uint64_t& word : c.mask) {
      word = draws.below(1ULL << 63U);
      if (few > 0) word &= draws.below(1ULL << 63U) & draws.below(1ULL << 63U);
      if (few > 1) word = draws.below(8) == 0 ? word : 0;
    }
  }
  const auto prompt = random_tokens(draws, draws.below(300), vocab);
  const auto emitted = random_tokens(draws, draws.below(50), std::min<size_t>(vocab, 20));
  const auto stops = random_tokens(draws, draws.below(3), vocab);
  c.history = {params, {.prompt = prompt, .emitted = emitted, .stop_token_ids = stops}};
  return c;
}

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

void expect_same(const model::SampledToken& got, const model::SampledToken& want,
                 const std::string& where) {
  EXPECT_EQ(got.token, want.token) << where;
  EXPECT_TRUE(same_bits(got.logprob, want.logprob)) << where << ": " << got.logprob;
  ASSERT_EQ(got.top_logprobs.size(), want.top_logprobs.size()) << where;
  for (size_t i = 0; i < got.top_logprobs.size(); ++i) {
    EXPECT_EQ(got.top_logprobs[i].first, want.top_logprobs[i].first) << where;
    EXPECT_TRUE(same_bits(got.top_logprobs[i].second, want.top_logprobs[i].second)) << where;
  }
}

class CudaRowSampling : public Cuda {
 protected:
  /// The rows of a call, each with a question of its own, as they lie on the device.
  struct Asked {
    std::vector<RowQuestion> questions;
    std::vector<float*> rows;
  };

  void ask(const Asked& asked, size_t vocab) {
    std::vector<AskedRow> rows;
    for (size_t i = 0; i < asked.rows.size(); ++i) {
      rows.push_back({.logits = asked.rows[i], .question = &asked.questions[i]});
    }
    backend().sampler->ask(rows, vocab);
    const Result<void> done = memory().finish();
    ASSERT_TRUE(done.ok()) << done.error().message;
  }
};

TEST_F(CudaRowSampling, ChoosesWhatTheHostChoosesWithTheSameLogprobs) {
  size_t num_chosen = 0, num_whole = 0, num_undecided = 0, num_none = 0;
  uint64_t seed = 0;
  for (int round = 0; round < 40; ++round) {
    const size_t vocab = std::array<size_t, 7>{1, 63, 64, 255, 1000, 1025, 9000}[seed % 7];
    std::vector<Case> cases;
    Asked asked;
    for (int i = 0; i < 12; ++i) {
      Case c = random_case(seed++, vocab);
      auto question = model::question_of(vocab, c.params, c.position, c.history, c.mask);
      if (!question) {
        EXPECT_GT(c.params.top_k, static_cast<int32_t>(kMaxLikely));
        ++num_whole;
        continue;
      }
      asked.questions.push_back(*std::move(question));
      asked.rows.push_back(put(c.logits));
      cases.push_back(std::move(c));
    }
    ASSERT_NO_FATAL_FAILURE(ask(asked, vocab));
    for (size_t i = 0; i < cases.size(); ++i) {
      const Case& c = cases[i];
      const std::string where = "seed " + std::to_string(c.params.seed);
      const model::SampledToken want =
          model::sample(c.logits, c.params, c.position, c.history, c.mask);
      const auto got = model::conclude(c.params, asked.questions[i], backend().sampler->answer(i));
      if (!got) {
        EXPECT_LT(c.params.top_p, 1.0F) << where;
        ++num_undecided;
      } else {
        ASSERT_NO_FATAL_FAILURE(expect_same(*got, want, where));
        got->token < 0 ? ++num_none : ++num_chosen;
      }
      EXPECT_EQ(bit_difference(c.logits, get(asked.rows[i], vocab)), "") << where;
    }
  }
  EXPECT_GT(num_chosen, 300U);
  EXPECT_GT(num_none, 5U);
  EXPECT_GT(num_whole, 5U);
  EXPECT_GT(num_undecided, 5U);
}

TEST_F(CudaRowSampling, ScoresWhatTheHostScores) {
  constexpr size_t kVocab = 1500;
  std::vector<std::vector<float>> logits;
  Asked asked;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Draws draws(seed);
    logits.push_back(random_logits(draws, kVocab));
    asked.questions.push_back(model::question_about(static_cast<TokenId>(draws.below(kVocab)),
                                                    static_cast<uint32_t>(draws.below(21))));
    asked.rows.push_back(put(logits.back()));
  }
  ASSERT_NO_FATAL_FAILURE(ask(asked, kVocab));
  for (size_t i = 0; i < logits.size(); ++i) {
    const RowQuestion& question = asked.questions[i];
    expect_same(model::conclude_score(question, backend().sampler->answer(i)),
                model::score(logits[i], question.scored, question.num_top),
                "seed " + std::to_string(i));
  }
}

TEST_F(CudaRowSampling, CutsWhatItUploadsToFitTheStagingMemory) {
  constexpr size_t kVocab = 5000;
  ASSERT_NO_FATAL_FAILURE(start({.staging_bytes = 40'000}));
  Asked asked;
  std::vector<TokenId> best;
  for (uint64_t row = 0; row < 20; ++row) {
    std::vector<float> logits(kVocab);
    RowQuestion question;
    for (TokenId token = 0; token < 300; ++token) {
      question.edits.push_back({.token = token, .is_banned = true});
      logits[static_cast<size_t>(token)] = 2;
    }
    best.push_back(static_cast<TokenId>(1000 + 100 * row));
    logits[static_cast<size_t>(best.back())] = 1;
    asked.questions.push_back(std::move(question));
    asked.rows.push_back(put(logits));
  }
  ASSERT_NO_FATAL_FAILURE(ask(asked, kVocab));
  for (size_t i = 0; i < best.size(); ++i) {
    EXPECT_EQ(backend().sampler->answer(i).row.best, best[i]) << "row " << i;
  }
}

}  // namespace
}  // namespace troupe::kernels
