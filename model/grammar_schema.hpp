#pragma once

// JSON Schema (the core of 2020-12 and its older spellings) as a grammar. What is generated is
// always valid; where a schema leaves more open than is useful to generate, or than a grammar can
// say, this generates less, and never more:
//
//   properties come in the order in which the schema lists them, optional ones or not
//   an object that lists properties has no others, unless additionalProperties asks for them
//   an array with prefixItems has no other items, unless `items` asks for them
//   where `type` is missing, it is of those types that the schema has keywords for
//
// keyword                            what is understood
// type                               one or several
// enum, const                        next to `type` only
// properties, required,              property names up to 256 bytes; other properties have names
//   additionalProperties             without escapes and different from those listed
// items, prefixItems,                `items` as one schema
//   minItems, maxItems
// minLength, maxLength               in characters
// pattern                            as in grammar_regex.hpp, anywhere in the text unless anchored;
//                                    not with a length
// format                             date, time, date-time, uuid, ipv4, email; not with a length or
//                                    a pattern
// minimum, maximum,                  of integers; of numbers if they are whole, and then without
//   exclusiveMinimum, -Maximum       exponents
// anyOf, oneOf                       any of them, alone; that of oneOf only one may hold is not
//                                    checked
// allOf                              of one schema, alone
// $ref, $defs, definitions           "#" or "#/...", recursion included; alone
// title, description, default, examples, deprecated, readOnly, writeOnly, $schema, $comment,
//   $id (at the root), content*, discriminator, x-*: say nothing about what is valid
//
// Every other keyword is an error that names it, and so are keywords next to one that has to be
// alone.

#include <string_view>

#include "base/result.hpp"
#include "model/grammar.hpp"
#include "model/grammar_builder.hpp"

namespace troupe::model {

class JsonGrammar;

/// @param json_grammar whose parts the schemas of one grammar share
/// @param automata_size of the patterns of this spec so far, to which the schema's are added
///        (GrammarLimits::max_automaton)
/// @errors kInvalidArgument naming the place in the schema
Result<GrammarBuilder::Expr> parse_schema(JsonGrammar& json_grammar, std::string_view text,
                                          const GrammarLimits& limits, size_t& automata_size);

}  // namespace troupe::model
