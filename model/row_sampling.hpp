#pragma once

// sample() and score() of a row of logits that lies elsewhere, on a device: the question says what
// has to be found out about all of the row, and the token follows from the answer, with the bits
// that they would give it.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/row_sampling.hpp"
#include "model/sampling.hpp"

namespace troupe::model {

/// What choosing the token that follows `position` tokens asks, as sample() has its arguments.
/// @returns nullopt if the row itself is needed: for a top-k above kMaxLikely
/// Cost: O(biased, counted and banned tokens), and a copy of the mask or O(allowed tokens).
std::optional<RowQuestion> question_of(size_t vocab_size, const SamplingParams& params,
                                       uint64_t position, const TokenHistory& history,
                                       std::span<const uint64_t> mask);

/// What sample() returns. @param question of these params
/// @returns nullopt if the row itself is needed: top-p without top-k keeps more than the 64 most
///          likely
/// Cost: O(likely tokens).
std::optional<SampledToken> conclude(const SamplingParams& params, const RowQuestion& question,
                                     const AnsweredRow& answer);

/// The same for score(). REQUIRES: 0 <= token < vocab_size
RowQuestion question_about(TokenId token, uint32_t num_top_logprobs);
SampledToken conclude_score(const RowQuestion& question, const AnsweredRow& answer);

}  // namespace troupe::model
