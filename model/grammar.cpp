#include "model/grammar.hpp"

#include <optional>
#include <utility>

#include "model/grammar_builder.hpp"
#include "model/grammar_check.hpp"
#include "model/grammar_ebnf.hpp"
#include "model/grammar_json.hpp"
#include "model/grammar_machine.hpp"
#include "model/grammar_regex.hpp"
#include "model/grammar_schema.hpp"
#include "model/grammar_tools.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace {

using Expr = GrammarBuilder::Expr;

Error invalid(std::string what) { return {Code::kInvalidArgument, std::move(what)}; }

Result<Expr> parse_choice(GrammarBuilder& builder, const GrammarSpec& spec,
                          const GrammarLimits& limits) {
  if (spec.choices.empty()) return invalid("there is no choice");
  if (spec.choices.size() > limits.max_choices) {
    return invalid("there are more than " + std::to_string(limits.max_choices) + " choices");
  }
  for (size_t i = 0; i < spec.choices.size(); ++i) {
    const std::string& choice = spec.choices[i];
    if (choice.empty()) return invalid("choice " + std::to_string(i) + " is empty");
    if (valid_utf8_prefix(choice) < choice.size()) {
      return invalid("choice " + std::to_string(i) + " is not UTF-8");
    }
  }
  return builder.choice(spec.choices);
}

Result<Expr> parse(GrammarBuilder& builder, const GrammarSpec& spec, const GrammarLimits& limits) {
  // The grammars without JSON do without its rules: its bytes would split their classes.
  std::optional<JsonGrammar> json_grammar;
  size_t automata_size = 0;
  switch (spec.kind) {
    case GrammarSpec::Kind::kNone: return invalid("there is no grammar");
    case GrammarSpec::Kind::kJsonObject: return json_grammar.emplace(builder).any_object();
    case GrammarSpec::Kind::kJsonSchema:
      return parse_schema(json_grammar.emplace(builder), spec.text, limits, automata_size);
    case GrammarSpec::Kind::kRegex:
      if (spec.text.empty()) return invalid("the regex is empty");
      return parse_regex(builder, spec.text, limits);
    case GrammarSpec::Kind::kChoice: return parse_choice(builder, spec, limits);
    case GrammarSpec::Kind::kEbnf: return parse_ebnf(builder, spec.text, limits);
    case GrammarSpec::Kind::kToolCalls:
      return parse_tool_calls(json_grammar.emplace(builder), spec.text, limits);
  }
  return builder.never();
}

}  // namespace

Result<std::shared_ptr<const Grammar>> compile_grammar(const GrammarSpec& spec,
                                                       const GrammarLimits& limits) {
  size_t num_bytes = spec.text.size();
  for (const std::string& choice : spec.choices) num_bytes += choice.size();
  if (num_bytes > limits.max_text_bytes) {
    return invalid("the text of the grammar is longer than " +
                   std::to_string(limits.max_text_bytes) + " bytes");
  }
  GrammarBuilder builder(limits);
  const Expr root = TRY(parse(builder, spec, limits));
  auto grammar = TRY(builder.build(root));
  size_t automaton_size = 0;
  if (spec.kind == GrammarSpec::Kind::kRegex) {
    TRY(check_automaton(*grammar, limits, automaton_size));
  }
  if (!GrammarMachine(*grammar).start().ok()) {
    return invalid("the grammar is too ambiguous at its begin");
  }
  return grammar;
}

}  // namespace troupe::model
