#pragma once

// Grammars in the notation of W3C's EBNF, as other servers take them:
//
//   root  ::= "[" (item ("," item)*)? "]"     # a comment
//   item  ::= [0-9]+ | "null" | root
//
//   text         "..." or '...', with the escapes of grammar_class.hpp
//   characters   [abc] [^a-z], as in a regex; . (any)
//   repetition   * + ? {n} {n,} {n,m}
//   rules        letters, digits, _ and -; used before or after their definition
//
// The text is derived from `root`. A rule that can reach itself counts as a level of nesting at
// each use (GrammarLimits::max_depth), so lists are written with *, not with recursion; a rule that
// begins with itself is an error.

#include <string_view>

#include "base/result.hpp"
#include "model/grammar.hpp"
#include "model/grammar_builder.hpp"

namespace troupe::model {

/// @errors kInvalidArgument naming the byte or the rule
Result<GrammarBuilder::Expr> parse_ebnf(GrammarBuilder& builder, std::string_view text,
                                        const GrammarLimits& limits);

}  // namespace troupe::model
