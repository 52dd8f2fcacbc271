#include "model/token_history.hpp"

#include <algorithm>

#include "model/sampling.hpp"

namespace troupe::model {

TokenHistory::TokenHistory(const SamplingParams& params, const TokenLog& log)
    : emitted_(log.emitted.begin(), log.emitted.end()),
      stop_token_ids_(log.stop_token_ids.begin(), log.stop_token_ids.end()) {
  const bool counts_prompt = params.repetition_penalty != 1.0F;
  is_counting_ =
      counts_prompt || params.presence_penalty != 0.0F || params.frequency_penalty != 0.0F;
  if (!is_counting_) return;
  std::vector<TokenId> known = emitted_;
  if (counts_prompt) known.insert(known.end(), log.prompt.begin(), log.prompt.end());
  std::ranges::sort(known);
  known.erase(std::unique(known.begin(), known.end()), known.end());
  counts_.reserve(known.size());
  for (const TokenId token : known) counts_.push_back({.token = token});
  for (const TokenId token : emitted_) count(token);
}

void TokenHistory::append(TokenId token) {
  emitted_.push_back(token);
  if (is_counting_) count(token);
}

void TokenHistory::count(TokenId token) {
  auto place = std::ranges::lower_bound(counts_, token, {}, &TokenCount::token);
  if (place == counts_.end() || place->token != token) {
    place = counts_.insert(place, {.token = token});
  }
  ++place->num_emitted;
}

}  // namespace troupe::model
