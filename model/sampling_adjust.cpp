#include "model/sampling_adjust.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "base/check.hpp"

namespace troupe::model {
namespace {

/// Calls `change` with the logit of a token, if it is one of the vocabulary.
template <class Change>
void at(TokenId token, std::vector<float>& logits, Change change) {
  const auto id = static_cast<size_t>(token);
  if (token >= 0 && id < logits.size()) change(logits[id]);
}

void ban(TokenId token, std::vector<float>& logits) {
  at(token, logits, [](float& logit) { logit = -std::numeric_limits<float>::infinity(); });
}

float penalised(float logit, uint32_t num_emitted, const SamplingParams& params) {
  logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  if (num_emitted > 0) {
    logit -= params.frequency_penalty * static_cast<float>(num_emitted);
    logit -= params.presence_penalty;
  }
  return logit;
}

bool bans_stops(const SamplingParams& params, const TokenHistory& history) {
  return history.emitted().size() < params.min_tokens;
}

/// A word is banned at its last token: the one that would complete it.
void ban_words(const SamplingParams& params, const TokenHistory& history,
               std::vector<float>& logits) {
  const std::span<const TokenId> emitted = history.emitted();
  for (const std::vector<TokenId>& word : params.bad_words) {
    if (word.empty() || word.size() - 1 > emitted.size()) continue;
    if (std::equal(word.begin(), word.end() - 1, emitted.end() - (word.end() - 1 - word.begin()))) {
      ban(word.back(), logits);
    }
  }
}

bool changes(const SamplingParams& params, const TokenHistory& history) {
  return !params.logit_bias.empty() || !history.counts().empty() || bans_stops(params, history) ||
         !params.bad_words.empty();
}

/// What the rules change of `logits`.
void change(std::vector<float>& logits, const SamplingParams& params, const TokenHistory& history) {
  for (const auto& biased : params.logit_bias) {
    at(biased.first, logits, [&](float& logit) { logit += biased.second; });
  }
  for (const TokenCount& count : history.counts()) {
    at(count.token, logits,
       [&](float& logit) { logit = penalised(logit, count.num_emitted, params); });
  }
  if (bans_stops(params, history)) {
    for (const TokenId token : history.stop_token_ids()) ban(token, logits);
  }
  ban_words(params, history, logits);
}

/// Those of `allowed` that the mask has, by rising id; each if one of the two is empty.
std::vector<uint32_t> allowed_indices(size_t vocab_size, std::span<const TokenId> allowed,
                                      std::span<const uint64_t> mask) {
  std::vector<uint32_t> indices;
  if (allowed.empty()) {
    for (size_t word = 0; word < mask.size(); ++word) {
      for (uint64_t left = mask[word]; left != 0; left &= left - 1) {
        const size_t id = word * 64 + static_cast<size_t>(std::countr_zero(left));
        if (id < vocab_size) indices.push_back(static_cast<uint32_t>(id));
      }
    }
    return indices;
  }
  for (const TokenId token : allowed) {
    const auto id = static_cast<size_t>(token);
    if (token < 0 || id >= vocab_size) continue;
    if (mask.empty() || (mask[id / 64] >> id % 64 & 1) != 0) {
      indices.push_back(static_cast<uint32_t>(id));
    }
  }
  return indices;
}

}  // namespace

AdjustedLogits::AdjustedLogits(std::span<const float> logits, const SamplingParams& params,
                               const TokenHistory& history, std::span<const uint64_t> mask)
    : of_model_(logits) {
  CHECK(mask.empty() || mask.size() >= (logits.size() + 63) / 64);
  if (changes(params, history)) {
    own_.assign(logits.begin(), logits.end());
    change(own_, params, history);
  }
  if (!params.allowed_token_ids.empty() || !mask.empty()) {
    keep(allowed_indices(logits.size(), params.allowed_token_ids, mask));
  }
}

void AdjustedLogits::keep(std::span<const uint32_t> indices) {
  std::vector<float> kept;
  std::vector<TokenId> tokens;
  kept.reserve(indices.size());
  tokens.reserve(indices.size());
  for (const uint32_t index : indices) {
    kept.push_back(logits()[index]);
    tokens.push_back(token(index));
  }
  own_ = std::move(kept);
  tokens_ = std::move(tokens);
  is_subset_ = true;
}

}  // namespace troupe::model
