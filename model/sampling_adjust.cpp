#include "model/sampling_adjust.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <unordered_map>
#include <utility>

#include "base/check.hpp"

namespace troupe::model {
namespace {

/// Why one token's logit changes.
struct Reasons {
  TokenId token = 0;
  float bias = 0;
  uint32_t num_emitted = 0;
  bool is_known = false;  ///< in the prompt or emitted
  bool is_banned = false;
};

class Collector {
 public:
  explicit Collector(size_t vocab_size) : vocab_size_(vocab_size) {}

  /// The reasons of a token, or nullptr of one outside the vocabulary.
  Reasons* of(TokenId token) {
    if (token < 0 || static_cast<size_t>(token) >= vocab_size_) return nullptr;
    const auto [place, is_new] = index_.try_emplace(token, reasons_.size());
    if (is_new) reasons_.push_back({.token = token});
    return &reasons_[place->second];
  }

  void ban(TokenId token) {
    if (Reasons* reasons = of(token)) reasons->is_banned = true;
  }

  std::vector<Reasons> take() {
    std::sort(reasons_.begin(), reasons_.end(),
              [](const Reasons& a, const Reasons& b) { return a.token < b.token; });
    return std::move(reasons_);
  }

 private:
  size_t vocab_size_;
  std::unordered_map<TokenId, size_t> index_;  // looked up, never iterated
  std::vector<Reasons> reasons_;
};

void count_known(const SamplingParams& params, const TokenLog& log, Collector& collector) {
  const bool repetition = params.repetition_penalty != 1.0F;
  if (repetition || params.presence_penalty != 0.0F || params.frequency_penalty != 0.0F) {
    for (const TokenId token : log.emitted) {
      if (Reasons* reasons = collector.of(token)) {
        reasons->is_known = true;
        ++reasons->num_emitted;
      }
    }
  }
  if (!repetition) return;
  for (const TokenId token : log.prompt) {
    if (Reasons* reasons = collector.of(token)) reasons->is_known = true;
  }
}

/// A word is banned at its last token: the one that would complete it.
void ban_words(const SamplingParams& params, const TokenLog& log, Collector& collector) {
  for (const std::vector<TokenId>& word : params.bad_words) {
    if (word.empty() || word.size() - 1 > log.emitted.size()) continue;
    if (std::equal(word.begin(), word.end() - 1,
                   log.emitted.end() - (word.end() - 1 - word.begin()))) {
      collector.ban(word.back());
    }
  }
}

float changed_logit(float logit, const Reasons& reasons, const SamplingParams& params) {
  if (reasons.is_banned) return -std::numeric_limits<float>::infinity();
  logit += reasons.bias;
  if (reasons.is_known) {
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  }
  if (reasons.num_emitted > 0) {
    logit -= params.frequency_penalty * static_cast<float>(reasons.num_emitted);
    logit -= params.presence_penalty;
  }
  return logit;
}

/// Adds to `logits` what the rules change of them.
void change(std::vector<float>& logits, const SamplingParams& params, const TokenLog& log) {
  Collector collector(logits.size());
  count_known(params, log, collector);
  for (const auto& [token, bias] : params.logit_bias) {
    if (Reasons* reasons = collector.of(token)) reasons->bias = bias;
  }
  if (log.emitted.size() < params.min_tokens) {
    for (const TokenId token : log.stop_token_ids) collector.ban(token);
  }
  ban_words(params, log, collector);
  for (const Reasons& reasons : collector.take()) {
    float& logit = logits[static_cast<size_t>(reasons.token)];
    logit = changed_logit(logit, reasons, params);
  }
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
                               const TokenLog& log, std::span<const uint64_t> mask)
    : of_model_(logits) {
  CHECK(mask.empty() || mask.size() >= (logits.size() + 63) / 64);
  if (!params.logit_bias.empty() || reads_emitted(params)) {
    own_.assign(logits.begin(), logits.end());
    change(own_, params, log);
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
