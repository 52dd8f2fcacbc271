#pragma once

// What choosing a token asks of a row of logits that lies elsewhere, and what is answered. Of a row
// on a device, model/row_sampling.hpp asks and concludes; a backend of kernels/ looks at all logits
// and answers (kernels/row_sampler.hpp). Both use the definitions of model/sampling.hpp, so that
// the token and its log-probability have the bits that sample() gives them.

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/ids.hpp"

namespace troupe {

/// As in model::SamplingParams.
struct Penalties {
  float repetition = 1.0F;
  float frequency = 0.0F;
  float presence = 0.0F;
};

/// The logit of a token that penalties count.
constexpr float penalised(float logit, uint32_t num_emitted, const Penalties& penalties) {
  logit = logit > 0 ? logit / penalties.repetition : logit * penalties.repetition;
  if (num_emitted > 0) {
    logit -= penalties.frequency * static_cast<float>(num_emitted);
    logit -= penalties.presence;
  }
  return logit;
}

/// How a token's logit is changed before one is chosen.
struct LogitEdit {
  TokenId token = 0;
  float bias = 0;            ///< added first, if is_biased
  uint32_t num_emitted = 0;  ///< penalised then, if is_counted
  bool is_biased = false;
  bool is_counted = false;
  bool is_banned = false;  ///< minus infinity in the end
};

constexpr float edited(float logit, const LogitEdit& edit, const Penalties& penalties) {
  if (edit.is_biased) logit += edit.bias;
  if (edit.is_counted) logit = penalised(logit, edit.num_emitted, penalties);
  return edit.is_banned ? -std::numeric_limits<float>::infinity() : logit;
}

/// Whether a mask allows a token: bit token % 64 of word token / 64.
constexpr bool has_token(const uint64_t* mask, uint64_t token) {
  return (mask[token / 64] >> token % 64 & 1U) != 0;
}

/// Of one list: each is found after the last, so a long one would take longer than all else.
inline constexpr uint32_t kMaxLikely = 128;

/// In answers: none.
inline constexpr TokenId kNoLogit = -1;

/// What is asked of one row, [vocab]. "Allowed" logits are those of the mask after the edits.
struct RowQuestion {
  std::vector<LogitEdit> edits;  ///< by rising token, each once, all of the vocabulary
  Penalties penalties;
  std::vector<uint64_t> mask;  ///< [(vocab + 63) / 64]; empty: all are allowed

  /// Which weight each allowed logit has (softmax_weight) and what of the weights is asked.
  double temperature = 1;
  double least = 0;
  double uniform = 0;        ///< in [0, 1), of a draw
  bool wants_total = false;  ///< their sum
  bool wants_draw = false;   ///< where the sum passes `uniform` of it
  uint32_t num_likely = 0;   ///< so many of the highest allowed, at most kMaxLikely

  /// Of the row itself, without edits and mask: its total at temperature 1 and the logit of the
  /// token that is drawn, or else best; or of this one, and then nothing else is asked.
  bool wants_logprob = false;
  TokenId scored = kNoLogit;
  uint32_t num_top = 0;  ///< so many of the highest, at most kMaxLikely

  [[nodiscard]] bool changes() const { return !edits.empty() || !mask.empty(); }
  /// Whether weights are summed, which takes a row most of its time.
  [[nodiscard]] bool sums() const { return wants_total || wants_draw || wants_logprob; }
};

/// A token and its logits: as allowed, and the row's own.
struct LikelyToken {
  TokenId token = 0;
  float logit = 0;
  float own_logit = 0;
};

/// What was asked, and zeros for the rest. The order of logits: falling, equals by rising token;
/// those that are not finite have no place in it. Sums add weight after weight by rising token, in
/// double, from 0.
struct RowAnswer {
  TokenId best = kNoLogit;  ///< the highest allowed
  TokenId drawn = kNoLogit;
  float highest = 0;        ///< allowed logit of `best`
  float own_highest = 0;    ///< of the row itself; minus infinity: none is finite
  float own_logit = 0;      ///< of the token that wants_logprob says
  uint32_t num_likely = 0;  ///< that there are of those asked
  uint32_t num_top = 0;     ///< likewise
  double total = 0;
  double own_total = 0;
};

/// An answer with its lists.
struct AnsweredRow {
  RowAnswer row;
  std::span<const LikelyToken> likely;  ///< [row.num_likely], falling
  std::span<const LikelyToken> top;     ///< [row.num_top], falling
};

}  // namespace troupe
