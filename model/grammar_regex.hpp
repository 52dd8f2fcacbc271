#pragma once

// Regular expressions, the part of their syntax on which PCRE2, ECMAScript and Python agree. Own,
// because a grammar needs the automaton and not a matcher.
//
//   characters   literal; . (any but \n); [abc] [^a-z]; escapes of grammar_class.hpp
//   groups       (...) (?:...) (?<name>...) (?P<name>...), none of which capture
//   alternation  a|b
//   repetition   * + ? {n} {n,} {n,m}; a lazy mark behind them (*?) changes nothing, since the
//                whole text has to match
//   anchors      ^ at the begin and $ at the end of the pattern or of one of its outermost branches
//
// Everything else is an error that names the byte: look-around, back-references, \b, possessive and
// atomic groups, flags, \p{...}, POSIX classes. Classes like \d and \s are of ASCII.

#include <string_view>

#include "base/result.hpp"
#include "model/grammar.hpp"
#include "model/grammar_builder.hpp"
#include "model/grammar_text.hpp"

namespace troupe::model {

struct RegexOptions {
  Spelling spelling = Spelling::kPlain;  ///< of the characters in the text
  /// The pattern may match anywhere in the text, as `pattern` of a schema; anchors tie it.
  bool searches = false;
};

/// @errors kInvalidArgument naming the byte; not UTF-8
Result<GrammarBuilder::Expr> parse_regex(GrammarBuilder& builder, std::string_view pattern,
                                         const GrammarLimits& limits, RegexOptions options = {});

/// Proves that the regex is cheap to run.
/// @param size as in check_automaton
/// @errors as parse_regex and check_automaton
Result<void> check_regex(std::string_view pattern, const GrammarLimits& limits,
                         RegexOptions options, size_t& size);

}  // namespace troupe::model
