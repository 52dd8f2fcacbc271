#pragma once

// What the tests of grammars share: compiling, following texts byte by byte and token by token, and
// random walks through what a mask allows.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.hpp"
#include "model/grammar.hpp"
#include "model/grammar_mask.hpp"
#include "model/grammar_state.hpp"
#include "model/grammar_vocabulary.hpp"

namespace troupe::model {

/// Random choices of one case of a test.
class Draws {
 public:
  explicit Draws(uint64_t seed) : seed_(seed) {}
  size_t below(size_t bound) { return random_bits(seed_, position_++) % bound; }
  bool one_in(size_t n) { return below(n) == 0; }

 private:
  uint64_t seed_;
  uint64_t position_ = 0;
};

/// Compiles; fails the test and ends it if that is an Error.
std::shared_ptr<const Grammar> compiled(const GrammarSpec& spec, const GrammarLimits& limits = {});
std::shared_ptr<const Grammar> compiled_regex(std::string_view pattern);
std::shared_ptr<const Grammar> compiled_schema(std::string_view schema);

bool accepts(const std::shared_ptr<const Grammar>& grammar, std::string_view text);
/// Some text of the grammar may begin so.
bool continues(const std::shared_ptr<const Grammar>& grammar, std::string_view prefix);

/// The 256 bytes, these tokens from id 256 on, and an end token.
std::shared_ptr<const Vocabulary> small_vocabulary(const std::vector<std::string>& tokens);
/// One with pieces of JSON, of words, and of characters cut in the middle.
std::shared_ptr<const Vocabulary> json_vocabulary();

bool allowed(const std::vector<uint64_t>& bits, TokenId token);
std::vector<uint64_t> mask_of(TokenMasker& masker, const GrammarState& state);

/// Chooses allowed tokens until the end token; after `num_free` tokens prefers those that close
/// what is open. Fails the test where nothing is allowed or the text does not end within 5,000
/// tokens.
std::string random_text(TokenMasker& masker, const std::shared_ptr<const Vocabulary>& vocabulary,
                        const std::shared_ptr<const Grammar>& grammar, Draws& draws,
                        size_t num_free);

/// Cuts the text into random tokens and follows them: each has to be allowed, and the end token
/// behind them. Returns "" or what went wrong.
std::string follow(TokenMasker& masker, const std::shared_ptr<const Vocabulary>& vocabulary,
                   const std::shared_ptr<const Grammar>& grammar, std::string_view text,
                   Draws& draws);

}  // namespace troupe::model
