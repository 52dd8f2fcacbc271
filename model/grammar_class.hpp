#pragma once

// Single characters of regexes and EBNF: escapes and [classes].

#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "model/pre_tokenizer_alphabet.hpp"

namespace troupe::model {

/// A position in the text of a regex or an EBNF; knows how to name itself in errors.
struct SpecCursor {
  std::string_view text;  ///< valid UTF-8
  size_t at = 0;

  [[nodiscard]] bool done() const { return at == text.size(); }
  [[nodiscard]] char peek() const { return done() ? '\0' : text[at]; }
  [[nodiscard]] bool sees(std::string_view what) const { return text.substr(at).starts_with(what); }
  bool take(std::string_view what) {
    if (!sees(what)) return false;
    at += what.size();
    return true;
  }
  /// The character here, which is passed. REQUIRES: !done().
  char32_t take_character();
  [[nodiscard]] Error error(std::string_view what) const { return error_at(at, what); }
  [[nodiscard]] static Error error_at(size_t at, std::string_view what);
};

/// Digits as a number, at most 10^9. nullopt if there are none.
std::optional<uint32_t> take_number(SpecCursor& cursor);

/// An escape outside or inside a class. REQUIRES: the cursor is at a backslash.
/// \d \D \w \W \s \S (of ASCII); \t \n \r \f \0; \xHH \x{H...} \uHHHH \u{H...}; any other character
/// that is no letter and no digit stands for itself.
/// @errors kInvalidArgument naming the byte
Result<CodePointSet> take_escape(SpecCursor& cursor);

/// [abc], [^a-z\d]. REQUIRES: the cursor is at '['.
/// @errors kInvalidArgument naming the byte: not closed, empty, a range backwards or of a class,
///         [[:posix:]]
Result<CodePointSet> take_class(SpecCursor& cursor);

}  // namespace troupe::model
