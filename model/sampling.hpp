#pragma once

// From logits to a token. Pure: the draw at (seed, position) is the same wherever it is made.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/token_history.hpp"

namespace troupe::model {

struct GrammarSpec;

/// What sample() returns when no logit is finite: the model's state is broken, the request has to
/// end with an error.
inline constexpr TokenId kNoToken = -1;
/// What it returns when the request's own bans and its grammar leave no token: the request is at
/// fault.
inline constexpr TokenId kNothingAllowed = -2;

inline constexpr float kMaxTemperature = 2.0F;  ///< OpenAI's limits
inline constexpr uint32_t kMaxTopLogprobs = 20;
inline constexpr float kMaxPenalty = 2.0F;  ///< of presence and frequency, both signs
inline constexpr float kMinRepetitionPenalty = 0.01F;
inline constexpr float kMaxRepetitionPenalty = 100.0F;
inline constexpr float kMaxLogitBias = 100.0F;  ///< both signs
inline constexpr size_t kMaxBiasedTokens = 1024;
inline constexpr size_t kMaxAllowedTokens = 16384;
inline constexpr size_t kMaxBadWords = 256;       ///< as token runs
inline constexpr size_t kMaxBadWordTokens = 256;  ///< of one run

/// What a request may say about sampling. Defaults are OpenAI's.
struct SamplingParams {
  float temperature = 1.0F;  ///< 0: greedy, ties to the lower token id
  float top_p = 1.0F;        ///< (0, 1]
  int32_t top_k = 0;         ///< <= 0: off
  float min_p = 0.0F;        ///< [0, 1]
  uint64_t seed = 0;
  bool want_logprobs = false;
  uint32_t num_top_logprobs = 0;  ///< 0 .. 20
  /// Log-probabilities of the prompt's tokens are wanted, too, with so many alternatives: 0 .. 20.
  std::optional<uint32_t> num_prompt_logprobs = {};
  float presence_penalty = 0.0F;   ///< -2 .. 2, taken off the logits of emitted tokens
  float frequency_penalty = 0.0F;  ///< -2 .. 2, taken off once for each time emitted
  /// Divides positive and multiplies negative logits of tokens in the prompt or the answer (Keskar
  /// et al. 2019, CTRL).
  float repetition_penalty = 1.0F;
  uint32_t min_tokens = 0;  ///< no stop token is chosen before so many are emitted
  std::vector<std::pair<TokenId, float>> logit_bias = {};  ///< by rising id; -100 .. 100
  std::vector<TokenId> allowed_token_ids = {};             ///< rising; empty: all
  std::vector<std::vector<TokenId>> bad_words = {};  ///< token runs that the answer may not contain
  /// What the answer has to be; null: anything. Shared, since it is large and every step has it.
  std::shared_ptr<const GrammarSpec> grammar = nullptr;
};

/// @errors kInvalidArgument naming the field and its limits.
Result<void> validate(const SamplingParams& params);

/// A chosen or scored token; log-probabilities are of the model's distribution (temperature 1, no
/// filters, no penalties or biases).
struct SampledToken {
  TokenId token = 0;
  float logprob = 0;                                    ///< only with want_logprobs
  std::vector<std::pair<TokenId, float>> top_logprobs;  ///< falling, ties to the lower id
};

/// Chooses the token that follows `position` tokens of context.
/// @param logits [vocab]; entries that are not finite are never chosen.
/// @param position number of tokens before the sampled one (prompt + emitted): the draw's counter.
/// @param history of the request's token log and `params`
/// @param mask of the tokens that the grammar allows (grammar_mask.hpp), [(vocab + 63) / 64];
///        empty: all. It is the caller's to make one of params.grammar and the log.
/// @returns token kNoToken if no entry is finite, kNothingAllowed if only banned ones are
/// Order: the mask, allowed tokens and bans, bias, repetition, frequency and presence penalty,
/// temperature, top-k, top-p, min-p; the draw runs over what is left by rising id. Bit-exact on
/// every IEEE 754 machine: only correctly rounded operations in a fixed order. Cost: O(vocab), plus
/// a sort of what top-k keeps; for 102,400 entries greedy 0.03 ms, seeded 0.2 ms, with top-p 0.2
/// ms, 0.9 ms if it keeps tens of thousands (top_p.hpp); 1 ns for each token that a penalty counts
/// (bench/results/cpu.md).
SampledToken sample(std::span<const float> logits, const SamplingParams& params, uint64_t position,
                    const TokenHistory& history = {}, std::span<const uint64_t> mask = {});

/// The log-probability of a given token, as sample() has it of the one that it chooses; -infinity
/// if its logit is not finite. Cost: O(vocab).
SampledToken score(std::span<const float> logits, TokenId token, uint32_t num_top_logprobs);

/// What a request ends with for which sample() found no token.
/// REQUIRES: kNoToken or kNothingAllowed.
Error no_token_error(TokenId token);

}  // namespace troupe::model
