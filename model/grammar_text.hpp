#pragma once

// Characters and strings as bytes: UTF-8, and the spelling of strings in JSON.

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/grammar_builder.hpp"
#include "model/pre_tokenizer_alphabet.hpp"

namespace troupe::model {

/// How the characters of a text are written.
enum class Spelling : uint8_t {
  kPlain,  ///< as they are
  kJson,   ///< between the quotes of a JSON string, in the one spelling that grammar.hpp describes
};

/// Every scalar value.
CodePointSet all_characters();
/// REQUIRES: sets of scalar values.
CodePointSet without(const CodePointSet& set, const CodePointSet& removed);

/// One character of the set; never() if it is empty. Surrogates are left out.
GrammarBuilder::Expr character_of(GrammarBuilder& builder, const CodePointSet& set,
                                  Spelling spelling);

/// Valid UTF-8 as its one spelling.
std::string spelled(std::string_view text, Spelling spelling);

/// "text" with its quotes, in JSON's one spelling.
std::string json_string(std::string_view text);

}  // namespace troupe::model
