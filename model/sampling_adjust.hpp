#pragma once

// The logits that a request's grammar, penalties, biases and bans leave and change. They depend on
// the token log alone, so that every worker that resumes a request changes the same ones. Sources
// of model/ only.

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "model/sampling.hpp"

namespace troupe::model {

/// The model's logits with the changed ones laid over them: nothing is copied but those.
class AdjustedLogits {
 public:
  /// The spans of `logits`, `params`, `log` and `mask` must outlive it.
  /// Cost: O(changed tokens * log), and O(log) to count tokens where a penalty asks for it.
  AdjustedLogits(std::span<const float> logits, const SamplingParams& params, const TokenLog& log,
                 std::span<const uint64_t> mask);

  /// Whether the logits are the model's own.
  [[nodiscard]] bool unchanged() const {
    return changes_.empty() && allowed_.empty() && mask_.empty();
  }

  /// visit(token, logit) of every token that may be chosen, by rising id; banned ones come with
  /// minus infinity.
  template <class Visit>
  void for_each(Visit visit) const {
    if (!allowed_.empty()) return for_each_allowed(visit);
    if (!mask_.empty()) return for_each_in_mask(visit);
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
    Reader reader(*this);
    for (const TokenId token : allowed_) {
      const auto id = static_cast<size_t>(token);
      if (token < 0 || id >= logits_.size()) continue;
      if (!mask_.empty() && (mask_[id / 64] >> id % 64 & 1) == 0) continue;
      visit(token, reader.logit(token));
    }
  }

  template <class Visit>
  void for_each_in_mask(Visit visit) const {
    Reader reader(*this);
    for (size_t word = 0; word < mask_.size(); ++word) {
      for (uint64_t left = mask_[word]; left != 0; left &= left - 1) {
        const size_t id = word * 64 + static_cast<size_t>(std::countr_zero(left));
        if (id >= logits_.size()) return;
        visit(static_cast<TokenId>(id), reader.logit(static_cast<TokenId>(id)));
      }
    }
  }

  /// The logits of tokens within the vocabulary, asked for by rising id.
  class Reader {
   public:
    explicit Reader(const AdjustedLogits& of)
        : of_(of), change_(of.changes_.begin()), end_(of.changes_.end()) {}
    float logit(TokenId token) {
      while (change_ != end_ && change_->token < token) ++change_;
      const bool changed = change_ != end_ && change_->token == token;
      return changed ? change_->logit : of_.logits_[static_cast<size_t>(token)];
    }

   private:
    const AdjustedLogits& of_;
    std::vector<Change>::const_iterator change_, end_;
  };

  std::span<const float> logits_;
  std::span<const TokenId> allowed_;  ///< empty: all
  std::span<const uint64_t> mask_;    ///< empty: all
  std::vector<Change> changes_;       ///< by rising id, each within the vocabulary
};

}  // namespace troupe::model
