#include "model/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/random.hpp"
#include "model/logit_ranking.hpp"
#include "model/sampling_adjust.hpp"
#include "model/softmax.hpp"
#include "model/top_p.hpp"

namespace troupe::model {
namespace {

/// Draws from what temperature, top-k, top-p and min-p leave. @param highest of the choices
TokenId choose(AdjustedLogits choices, float highest, const SamplingParams& params,
               uint64_t position) {
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < choices.logits().size()) {
    std::vector<uint32_t> kept =
        LogitRanking(choices.logits()).most_likely(static_cast<size_t>(params.top_k));
    std::ranges::sort(kept);
    choices.keep(kept);
  }
  Softmax softmax{
      .logits = choices.logits(), .highest = highest, .temperature = params.temperature};
  if (params.top_p < 1.0F) {
    choices.keep(most_likely_share(softmax, params.top_p));
    softmax.logits = choices.logits();
  }
  softmax.least = params.min_p;
  return choices.token(softmax.draw(random_uniform(params.seed, position)));
}

/// The log-probability of out.token, and of the `num_top` most likely. @param ranking of the logits
void add_logprobs(std::span<const float> logits, const LogitRanking& ranking, uint32_t num_top,
                  SampledToken& out) {
  out.logprob = -std::numeric_limits<float>::infinity();
  const auto best = ranking.best();
  if (!best) return;
  const float highest = logits[*best];
  const double log_total = log_of(Softmax{.logits = logits, .highest = highest}.total());
  const auto logprob = [&](size_t token) { return logprob_of(logits[token], highest, log_total); };
  for (const uint32_t token : ranking.most_likely(num_top)) {
    out.top_logprobs.emplace_back(static_cast<TokenId>(token), logprob(token));
  }
  const auto token = static_cast<size_t>(out.token);
  if (token < logits.size() && std::isfinite(logits[token])) out.logprob = logprob(token);
}

template <class T>
Error wrong(std::string_view field, std::string_view limits, T value) {
  return {Code::kInvalidArgument, std::string(field) + " has to be " + std::string(limits) +
                                      ", not " + std::to_string(value)};
}

Result<void> validate_token_lists(const SamplingParams& params) {
  if (params.logit_bias.size() > kMaxBiasedTokens) {
    return wrong("logit_bias", "of at most 1024 tokens", params.logit_bias.size());
  }
  TokenId last = -1;
  for (const auto& [token, bias] : params.logit_bias) {
    if (token <= last) return wrong("logit_bias", "by rising token ids", token);
    if (!(std::abs(bias) <= kMaxLogitBias)) return wrong("logit_bias", "in -100 .. 100", bias);
    last = token;
  }
  if (params.allowed_token_ids.size() > kMaxAllowedTokens) {
    return wrong("allowed_token_ids", "of at most 16384 tokens", params.allowed_token_ids.size());
  }
  last = -1;
  for (const TokenId token : params.allowed_token_ids) {
    if (token <= last) return wrong("allowed_token_ids", "by rising token ids", token);
    last = token;
  }
  if (params.bad_words.size() > kMaxBadWords) {
    return wrong("bad_words", "of at most 256 token runs", params.bad_words.size());
  }
  for (const auto& word : params.bad_words) {
    if (word.empty() || word.size() > kMaxBadWordTokens) {
      return wrong("bad_words", "of 1 to 256 tokens each", word.size());
    }
  }
  return {};
}

}  // namespace

Result<void> validate(const SamplingParams& params) {
  // Written so that NaN fails each of them.
  if (!(params.temperature >= 0.0F && params.temperature <= kMaxTemperature)) {
    return wrong("temperature", "in 0 .. 2", params.temperature);
  }
  if (!(params.top_p > 0.0F && params.top_p <= 1.0F)) {
    return wrong("top_p", "above 0 and at most 1", params.top_p);
  }
  if (!(params.min_p >= 0.0F && params.min_p <= 1.0F)) {
    return wrong("min_p", "in 0 .. 1", params.min_p);
  }
  if (params.num_top_logprobs > kMaxTopLogprobs) {
    return wrong("top_logprobs", "in 0 .. 20", params.num_top_logprobs);
  }
  if (params.num_prompt_logprobs.value_or(0) > kMaxTopLogprobs) {
    return wrong("prompt_logprobs", "in 0 .. 20", *params.num_prompt_logprobs);
  }
  if (!(std::abs(params.presence_penalty) <= kMaxPenalty)) {
    return wrong("presence_penalty", "in -2 .. 2", params.presence_penalty);
  }
  if (!(std::abs(params.frequency_penalty) <= kMaxPenalty)) {
    return wrong("frequency_penalty", "in -2 .. 2", params.frequency_penalty);
  }
  if (!(params.repetition_penalty >= kMinRepetitionPenalty &&
        params.repetition_penalty <= kMaxRepetitionPenalty)) {
    return wrong("repetition_penalty", "in 0.01 .. 100", params.repetition_penalty);
  }
  return validate_token_lists(params);
}

SampledToken sample(std::span<const float> logits, const SamplingParams& params, uint64_t position,
                    const TokenHistory& history, std::span<const uint64_t> mask) {
  AdjustedLogits choices(logits, params, history, mask);
  const bool unchanged = choices.unchanged();
  const LogitRanking ranking(choices.logits());
  const auto best = ranking.best();
  SampledToken out;
  if (!best) {
    const bool banned = !unchanged && LogitRanking(logits).best();
    out.token = banned ? kNothingAllowed : kNoToken;
    return out;
  }
  const float highest = choices.logits()[*best];
  out.token = params.temperature == 0.0F ? choices.token(*best)
                                         : choose(std::move(choices), highest, params, position);
  if (params.want_logprobs) {
    add_logprobs(logits, unchanged ? ranking : LogitRanking(logits), params.num_top_logprobs, out);
  }
  return out;
}

SampledToken score(std::span<const float> logits, TokenId token, uint32_t num_top_logprobs) {
  SampledToken out{.token = token};
  add_logprobs(logits, LogitRanking(logits), num_top_logprobs, out);
  return out;
}

Error no_token_error(TokenId token) {
  if (token == kNothingAllowed) {
    return {Code::kInvalidArgument,
            "allowed_token_ids, bad_words, logit_bias, min_tokens and the grammar of structured "
            "output leave no token to choose"};
  }
  return {Code::kInternal, "the model gave no finite logit; are its weights damaged?"};
}

}  // namespace troupe::model
