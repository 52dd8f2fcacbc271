#include "model/sampling_adjust.hpp"

#include <algorithm>
#include <unordered_map>

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

}  // namespace

AdjustedLogits::AdjustedLogits(std::span<const float> logits, const SamplingParams& params,
                               const TokenLog& log, std::span<const uint64_t> mask)
    : logits_(logits), allowed_(params.allowed_token_ids), mask_(mask) {
  CHECK(mask.empty() || mask.size() >= (logits.size() + 63) / 64);
  if (params.logit_bias.empty() && !reads_emitted(params)) return;
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
    const float logit = logits[static_cast<size_t>(reasons.token)];
    changes_.push_back({reasons.token, changed_logit(logit, reasons, params)});
  }
}

}  // namespace troupe::model
