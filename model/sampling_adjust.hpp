#pragma once

// The logits that a request's grammar, penalties, biases and bans leave and change. They depend on
// the token log alone, so that every worker that resumes a request changes the same ones. Sources
// of model/ only.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/row_sampling.hpp"
#include "model/sampling.hpp"

namespace troupe::model {

/// The logits that may be chosen, each with its token, by rising id. The model's own are not
/// copied.
class AdjustedLogits {
 public:
  /// Cost: O(biased, counted and banned tokens), and a copy of what is left if anything changes.
  /// @param logits outlive it
  AdjustedLogits(std::span<const float> logits, const SamplingParams& params,
                 const TokenHistory& history, std::span<const uint64_t> mask);

  /// Whether the logits are the model's own, each at its token's id.
  [[nodiscard]] bool unchanged() const { return own_.empty() && !is_subset_; }
  /// Banned tokens have minus infinity or are left out.
  [[nodiscard]] std::span<const float> logits() const {
    return unchanged() ? of_model_ : std::span<const float>(own_);
  }
  [[nodiscard]] TokenId token(size_t index) const {
    return is_subset_ ? tokens_[index] : static_cast<TokenId>(index);
  }
  /// Drops all others. @param indices of logits(), rising
  void keep(std::span<const uint32_t> indices);

 private:
  std::span<const float> of_model_;
  std::vector<float> own_;       ///< unless unchanged()
  bool is_subset_ = false;       ///< whether tokens_ tells which
  std::vector<TokenId> tokens_;  ///< of own_
};

Penalties penalties_of(const SamplingParams& params);

/// What AdjustedLogits changes, by rising token. Cost: O(biased, counted and banned tokens), and a
/// sort of all but the counted.
std::vector<LogitEdit> logit_edits(size_t vocab_size, const SamplingParams& params,
                                   const TokenHistory& history);

/// The tokens that it keeps, as a mask; empty: all. Cost: a copy of `mask`, or O(allowed).
std::vector<uint64_t> allowed_mask(size_t vocab_size, std::span<const TokenId> allowed,
                                   std::span<const uint64_t> mask);

}  // namespace troupe::model
