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

bool bans_stops(const SamplingParams& params, const TokenHistory& history) {
  return history.emitted().size() < params.min_tokens;
}

/// Calls `ban` with each token that may not come next. A word is banned at its last token: the one
/// that would complete it.
template <class Ban>
void for_each_banned(const SamplingParams& params, const TokenHistory& history, const Ban& ban) {
  if (bans_stops(params, history)) {
    for (const TokenId token : history.stop_token_ids()) ban(token);
  }
  const std::span<const TokenId> emitted = history.emitted();
  for (const std::vector<TokenId>& word : params.bad_words) {
    if (word.empty() || word.size() - 1 > emitted.size()) continue;
    if (std::equal(word.begin(), word.end() - 1, emitted.end() - (word.end() - 1 - word.begin()))) {
      ban(word.back());
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
  const Penalties penalties = penalties_of(params);
  for (const TokenCount& count : history.counts()) {
    at(count.token, logits,
       [&](float& logit) { logit = penalised(logit, count.num_emitted, penalties); });
  }
  for_each_banned(params, history, [&](TokenId token) { ban(token, logits); });
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

Penalties penalties_of(const SamplingParams& params) {
  return {.repetition = params.repetition_penalty,
          .frequency = params.frequency_penalty,
          .presence = params.presence_penalty};
}

std::vector<LogitEdit> logit_edits(size_t vocab_size, const SamplingParams& params,
                                   const TokenHistory& history) {
  std::vector<LogitEdit> few;
  for (const auto& [token, bias] : params.logit_bias) {
    few.push_back({.token = token, .bias = bias, .is_biased = true});
  }
  for_each_banned(params, history,
                  [&](TokenId token) { few.push_back({.token = token, .is_banned = true}); });
  std::ranges::stable_sort(few, {}, &LogitEdit::token);
  std::vector<LogitEdit> edits;
  const auto add = [&](const LogitEdit& edit) {
    if (edit.token < 0 || static_cast<size_t>(edit.token) >= vocab_size) return;
    if (edits.empty() || edits.back().token != edit.token) edits.push_back({.token = edit.token});
    LogitEdit& both = edits.back();
    if (edit.is_biased) both.bias = edit.bias;
    if (edit.is_counted) both.num_emitted = edit.num_emitted;
    both.is_biased |= edit.is_biased;
    both.is_counted |= edit.is_counted;
    both.is_banned |= edit.is_banned;
  };
  edits.reserve(few.size() + history.counts().size());
  auto next = few.begin();
  for (const TokenCount& count : history.counts()) {
    for (; next != few.end() && next->token <= count.token; ++next) add(*next);
    add({.token = count.token, .num_emitted = count.num_emitted, .is_counted = true});
  }
  for (; next != few.end(); ++next) add(*next);
  return edits;
}

std::vector<uint64_t> allowed_mask(size_t vocab_size, std::span<const TokenId> allowed,
                                   std::span<const uint64_t> mask) {
  if (allowed.empty()) return {mask.begin(), mask.end()};
  std::vector<uint64_t> both((vocab_size + 63) / 64);
  for (const uint32_t index : allowed_indices(vocab_size, allowed, mask)) {
    both[index / 64] |= uint64_t{1} << index % 64;
  }
  return both;
}

}  // namespace troupe::model
