#pragma once

// The logits that a request's penalties, biases and bans change. They depend on the token log
// alone, so that every worker that resumes a request changes the same ones. Sources of model/ only.

#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "model/sampling.hpp"

namespace troupe::model {

/// The model's logits with the changed ones laid over them: nothing is copied but those.
class AdjustedLogits {
 public:
  /// The spans of `logits`, `params` and `log` must outlive it.
  /// Cost: O(changed tokens * log), and O(log) to count tokens where a penalty asks for it.
  AdjustedLogits(std::span<const float> logits, const SamplingParams& params, const TokenLog& log);

  /// Whether the logits are the model's own.
  [[nodiscard]] bool unchanged() const { return changes_.empty() && allowed_.empty(); }

  /// visit(token, logit) of every token that may be chosen, by rising id; banned ones come with
  /// minus infinity.
  template <class Visit>
  void for_each(Visit visit) const {
    if (!allowed_.empty()) return for_each_allowed(visit);
    size_t at = 0;
    for (const Change& change : changes_) {
      for (; at < static_cast<size_t>(change.token); ++at) {
        visit(static_cast<TokenId>(at), logits_[at]);
      }
      visit(change.token, change.logit);
      ++at;
    }
    for (; at < logits_.size(); ++at) visit(static_cast<TokenId>(at), logits_[at]);
  }

 private:
  struct Change {
    TokenId token = 0;
    float logit = 0;
  };

  template <class Visit>
  void for_each_allowed(Visit visit) const {
    auto change = changes_.begin();
    for (const TokenId token : allowed_) {
      if (token < 0 || static_cast<size_t>(token) >= logits_.size()) continue;
      while (change != changes_.end() && change->token < token) ++change;
      const bool changed = change != changes_.end() && change->token == token;
      visit(token, changed ? change->logit : logits_[static_cast<size_t>(token)]);
    }
  }

  std::span<const float> logits_;
  std::span<const TokenId> allowed_;  ///< empty: all
  std::vector<Change> changes_;       ///< by rising id, each within the vocabulary
};

}  // namespace troupe::model
