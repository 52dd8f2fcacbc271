#pragma once

// What prompts are made of. A prompt is a list of segments, and a segment is the beginning of an
// endless stream of words, which only (seed, stream) decide. Prompts that share segments share
// their words exactly, so prefixes are shared as a trace or an option says, and nothing is stored.

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/tokenizer.hpp"

namespace troupe::loadgen {

/// The first `num_words` words of a stream.
struct Segment {
  uint64_t stream = 0;
  uint32_t num_words = 0;
};

/// What words are drawn from. Word i is `texts[i]` in a text and `ids[i]` in a list of token ids.
struct WordPool {
  std::vector<std::string> texts;  ///< each begins with a blank
  std::vector<TokenId> ids;
};

/// Frequent English words, one token each in most vocabularies of 100,000 tokens, so lengths of
/// texts are approximate; ids from `first_id` to `last_id`, which must lie in the model's
/// vocabulary and name no special tokens.
WordPool common_words(TokenId first_id, TokenId last_id);

/// Words that this tokenizer encodes as one token wherever they stand, so lengths are exact.
/// @errors kUnsupported for a vocabulary with fewer than 64 such words
Result<WordPool> words_of(const model::Tokenizer& tokenizer);

std::string text_of(const WordPool& pool, uint64_t seed, const std::vector<Segment>& segments);
std::vector<TokenId> tokens_of(const WordPool& pool, uint64_t seed,
                               const std::vector<Segment>& segments);

}  // namespace troupe::loadgen
