#include "model/sampling.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "base/random.hpp"
#include "model/sampling_adjust.hpp"

namespace troupe::model {
namespace {

// exp and log are our own: the C library's differ between CPUs in the last bit (some use fused
// multiply-adds), which could move a draw. These use only operations that IEEE 754 rounds exactly,
// in a fixed order, so every machine gets the same bits.

/// 1/k!, the coefficients of e^r.
constexpr std::array<double, 14> kInverseFactorials = [] {
  std::array<double, 14> out{1.0};
  double factorial = 1.0;
  for (size_t k = 1; k < out.size(); ++k) out[k] = 1.0 / (factorial *= static_cast<double>(k));
  return out;
}();

/// e^x for x <= 0 (or hardly above) within 2 units in the last place; 0 below -708.
double exp_of(double x) {
  if (!(x > -708.0)) return 0.0;
  constexpr double kLog2E = 1.4426950408889634;
  constexpr double kLn2High = 0x1.62e42feep-1;  // ends in zero bits: a product with n is exact
  constexpr double kLn2Low = 0x1.a39ef35793c76p-33;
  constexpr double kRounder = 0x1.8p52;  // adding it leaves no bits for a fraction
  const double n = (x * kLog2E + kRounder) - kRounder;
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| < 0.35: the next term is below 2^-57
  double sum = kInverseFactorials.back();
  for (size_t k = kInverseFactorials.size() - 1; k-- > 0;) sum = sum * r + kInverseFactorials[k];
  return sum * std::bit_cast<double>(static_cast<uint64_t>(1023 + static_cast<int64_t>(n)) << 52);
}

/// ln x for x >= 1: Halley's iteration on exp_of, the exponent as the first guess.
double log_of(double x) {
  constexpr double kLn2 = 0.6931471805599453;
  const auto exponent = static_cast<int64_t>(std::bit_cast<uint64_t>(x) >> 52) - 1023;
  double y = static_cast<double>(exponent) * kLn2;
  for (int i = 0; i < 4; ++i) {
    const double ratio = x * exp_of(-y);
    y += 2.0 * (ratio - 1.0) / (ratio + 1.0);
  }
  return y;
}

struct Candidate {
  TokenId token;
  float logit;
  double weight;  // in the tempered distribution; that of the most likely token is 1
};

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

bool less_likely(const Candidate& a, const Candidate& b) { return more_likely(b, a); }

void keep_top_k(std::vector<Candidate>& candidates, size_t k) {
  if (k >= candidates.size()) return;
  std::nth_element(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(k - 1),
                   candidates.end(), more_likely);
  candidates.resize(k);
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
}

double total_weight(const std::vector<Candidate>& candidates) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  return total;
}

/// Keeps the fewest, most likely first, whose share reaches `top_p`; at least one.
void keep_top_p(std::vector<Candidate>& candidates, double top_p) {
  const double wanted = top_p * total_weight(candidates);
  // A heap gives them in falling order without sorting the long tail.
  std::make_heap(candidates.begin(), candidates.end(), less_likely);
  double sum = 0;
  auto tail = candidates.end();
  do {
    std::pop_heap(candidates.begin(), tail, less_likely);
    --tail;
    sum += tail->weight;
  } while (tail != candidates.begin() && sum < wanted);
  candidates.erase(candidates.begin(), tail);
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
}

/// The candidate at which the running sum, in order of ids, passes `uniform` of the total.
TokenId draw(const std::vector<Candidate>& candidates, double uniform) {
  const double target = uniform * total_weight(candidates);
  double sum = 0;
  TokenId chosen = kNoToken;
  for (const Candidate& candidate : candidates) {
    if (candidate.weight == 0) continue;
    chosen = candidate.token;
    sum += candidate.weight;
    if (sum > target) break;
  }
  return chosen;
}

/// The highest finite logit's token, the lowest id of equals, or kNoToken.
Candidate most_likely(const AdjustedLogits& logits) {
  Candidate best{kNoToken, -std::numeric_limits<float>::infinity(), 0};
  logits.for_each([&](TokenId token, float logit) {
    if (logit > best.logit && logit <= std::numeric_limits<float>::max()) {
      best.logit = logit;
      best.token = token;
    }
  });
  return best;
}

std::vector<Candidate> finite_of(const AdjustedLogits& logits, size_t vocab_size) {
  std::vector<Candidate> candidates;
  candidates.reserve(vocab_size);
  logits.for_each([&](TokenId token, float logit) {
    if (std::isfinite(logit)) candidates.push_back({token, logit, 0});
  });
  return candidates;
}

TokenId choose(std::vector<Candidate> candidates, const SamplingParams& params, float highest,
               uint64_t position) {
  if (params.top_k > 0) keep_top_k(candidates, static_cast<size_t>(params.top_k));
  const double temperature = params.temperature;
  for (Candidate& candidate : candidates) {
    candidate.weight =
        exp_of((static_cast<double>(candidate.logit) - static_cast<double>(highest)) / temperature);
  }
  if (params.top_p < 1.0F) keep_top_p(candidates, params.top_p);
  std::erase_if(candidates, [&](const Candidate& candidate) {
    return candidate.weight < static_cast<double>(params.min_p);
  });
  return draw(candidates, random_uniform(params.seed, position));
}

void add_logprobs(const std::vector<Candidate>& candidates, uint32_t num_top, float highest,
                  SampledToken& out) {
  double total = 0;
  for (const Candidate& candidate : candidates) {
    total += exp_of(static_cast<double>(candidate.logit) - static_cast<double>(highest));
  }
  const double log_total = log_of(total);
  const auto logprob = [&](const Candidate& candidate) {
    return static_cast<float>(static_cast<double>(candidate.logit) - static_cast<double>(highest) -
                              log_total);
  };
  std::vector<Candidate> top(std::min<size_t>(num_top, candidates.size()));
  std::partial_sort_copy(candidates.begin(), candidates.end(), top.begin(), top.end(), more_likely);
  for (const Candidate& candidate : top) {
    out.top_logprobs.emplace_back(candidate.token, logprob(candidate));
  }
  const auto chosen =
      std::find_if(candidates.begin(), candidates.end(),
                   [&](const Candidate& candidate) { return candidate.token == out.token; });
  out.logprob =
      chosen == candidates.end() ? -std::numeric_limits<float>::infinity() : logprob(*chosen);
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

bool reads_emitted(const SamplingParams& params) {
  return reads_prompt(params) || params.presence_penalty != 0.0F ||
         params.frequency_penalty != 0.0F || params.min_tokens > 0 || !params.bad_words.empty();
}

bool reads_prompt(const SamplingParams& params) { return params.repetition_penalty != 1.0F; }

SampledToken sample(std::span<const float> logits, const SamplingParams& params, uint64_t position,
                    const TokenLog& log, std::span<const uint64_t> mask) {
  const SamplingParams no_rules;
  const AdjustedLogits of_model(logits, no_rules, {}, {});
  const AdjustedLogits adjusted(logits, params, log, mask);
  SampledToken out;
  const Candidate best = most_likely(adjusted);
  out.token = best.token;
  if (out.token == kNoToken) {
    const bool banned = !adjusted.unchanged() && most_likely(of_model).token != kNoToken;
    if (banned) out.token = kNothingAllowed;
    return out;
  }
  const bool is_greedy = params.temperature == 0.0F;
  if (is_greedy && !params.want_logprobs) return out;
  std::vector<Candidate> candidates = finite_of(adjusted, logits.size());
  if (!is_greedy) out.token = choose(candidates, params, best.logit, position);
  if (!params.want_logprobs) return out;
  if (!adjusted.unchanged()) candidates = finite_of(of_model, logits.size());
  add_logprobs(candidates, params.num_top_logprobs, most_likely(of_model).logit, out);
  return out;
}

SampledToken score(std::span<const float> logits, TokenId token, uint32_t num_top_logprobs) {
  const SamplingParams no_rules;
  const AdjustedLogits of_model(logits, no_rules, {}, {});
  SampledToken out{.token = token};
  add_logprobs(finite_of(of_model, logits.size()), num_top_logprobs, most_likely(of_model).logit,
               out);
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
