#pragma once

// Structured output: which texts a request allows, compiled once, so that sampling can be kept to
// tokens that continue one of them (grammar_mask.hpp).
//
// Every kind becomes a program of one small nondeterministic pushdown machine over bytes
// (grammar_program.hpp). A regex library cannot be used: it says whether a text matches, and we
// have to know which of 129,280 tokens may come next. All text is UTF-8; a token may end inside a
// character, never in a place from which no valid character can be completed.
//
// json_object   Any JSON object.
// json_schema   JSON that a schema accepts; the keywords are listed in grammar_schema.hpp.
// regex         The whole text matches (grammar_regex.hpp lists the syntax).
// choice        The text is one of the choices.
// ebnf          The text is derived from the rule `root` (grammar_ebnf.hpp has the notation).
// tool_calls    Calls of given tools in a chat format of DeepSeek (grammar_tools.hpp).
//
// How JSON is spelled (json_object, json_schema). Compact: one space may follow each ':' and ',',
// and there is no other whitespace, so that a model cannot loop in it. Numbers have at most 19
// digits before the point, 20 behind it, and 2 in the exponent; no "-0" as an integer. Free strings
// use any of JSON's escapes, surrogates in pairs only; keys and values that a schema names
// (properties, enum, const) and strings with a pattern or format have one spelling: characters as
// they are, the short escapes \" \\ \b \f \n \r \t, and \u00xx for other control characters.
// Objects and arrays nest at most GrammarLimits::max_depth deep.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::model {

struct Grammar;

/// What a request may ask for. It is part of the token log: not the compiled grammar travels, but
/// this.
struct GrammarSpec {
  enum class Kind : uint8_t { kNone, kJsonObject, kJsonSchema, kRegex, kChoice, kEbnf, kToolCalls };
  Kind kind = Kind::kNone;
  std::string text = {};                  ///< schema, regex or EBNF; of calls as grammar_tools.hpp
  std::vector<std::string> choices = {};  ///< of kChoice
  /// The grammar governs what follows the first such token of the answer, "</think>" say; -1: the
  /// whole answer.
  TokenId begins_after = -1;
  bool may_end_before = false;  ///< that token need not come
  friend bool operator==(const GrammarSpec&, const GrammarSpec&) = default;
};

/// Bounds of a compilation and of what it makes. With the defaults the slowest that we know takes
/// about 60 ms, most well below 1 ms (2-core AMD EPYC, AVX2, loaded: bench/results/grammar.md).
struct GrammarLimits {
  size_t max_text_bytes = size_t{256} << 10;  ///< of `text`, or of all choices together
  size_t max_choices = 4096;                  ///< choices, enum values, anyOf branches, tools
  size_t max_properties = 1024;               ///< of one object of a schema; also prefixItems
  size_t max_rules = 512;                     ///< of an EBNF
  uint32_t max_repeat = 100'000;              ///< {n,m}, maxLength, maxItems
  uint32_t max_instructions = 131'072;        ///< of the program
  /// Nesting of JSON objects and arrays in the text, and of recursive rules in an EBNF.
  uint32_t max_depth = 32;
  /// Groups in groups of a regex or an EBNF; a schema may nest four times as deep.
  uint32_t max_spec_depth = 64;
  /// Size of the automata of all regexes together (grammar_check.hpp): one that explodes is refused
  /// here and not while a request runs. (An EBNF has none that could be measured: it may nest.)
  /// 0: they are not looked at, which is most of the time that a regex takes; for a spec that has
  /// been compiled before.
  uint32_t max_automaton = 49'152;
  /// Work of GrammarMachine that following one answer may take beyond `work_per_byte`, so that
  /// coming back to a place from a token log takes a bounded time. JSON takes 20 to 30 for a byte,
  /// ambiguous grammars thousands.
  uint64_t max_answer_work = uint64_t{1} << 20;
  uint64_t work_per_byte = 64;  ///< of an answer: what a long one may take in any case
};

/// @errors kInvalidArgument: the spec is wrong, uses what Troupe lacks or exceeds a limit; the
///         message names the place (byte of the text, or path in the schema) and the limit
Result<std::shared_ptr<const Grammar>> compile_grammar(const GrammarSpec& spec,
                                                       const GrammarLimits& limits = {});

}  // namespace troupe::model
