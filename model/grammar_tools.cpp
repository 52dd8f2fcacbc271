#include "model/grammar_tools.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <vector>

#include "model/chat_tokens.hpp"
#include "model/grammar_json.hpp"
#include "model/grammar_schema.hpp"
#include "model/grammar_vocabulary.hpp"
#include "model/json.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;
using Expr = GrammarBuilder::Expr;

Error invalid(std::string what) { return {Code::kInvalidArgument, std::move(what)}; }

Expr mark(GrammarBuilder& builder, std::string_view token) {
  return builder.literal(Vocabulary::mark(token));
}

/// The arguments of a call have to be an object, or nobody could read them as such.
Result<Expr> arguments(JsonGrammar& json_grammar, const std::string& schema,
                       const GrammarLimits& limits, size_t& automata_size) {
  const auto parsed = parse_json(schema, size_t{4} * limits.max_spec_depth);
  if (!parsed.ok()) return invalid(parsed.error().message);
  if (!parsed->is_object()) return invalid("a schema is an object");
  const json::object& keywords = parsed->get_object();
  if (keywords.empty()) return json_grammar.any_object();
  const json::value* type = keywords.if_contains("type");
  const bool is_object = type ? *type == "object" : keywords.contains("properties");
  if (!is_object) return invalid("the schema has to say \"type\": \"object\"");
  return parse_schema(json_grammar, schema, limits, automata_size);
}

Result<Expr> parse(JsonGrammar& json_grammar, const json::object& spec,
                   const GrammarLimits& limits) {
  GrammarBuilder& b = json_grammar.builder();
  const json::value* syntax = spec.if_contains("syntax");
  const json::value* tools = spec.if_contains("tools");
  const auto flag = [&](const char* name) {
    const json::value* value = spec.if_contains(name);
    return value && value->is_bool() && value->get_bool();
  };
  const bool is_plain = syntax && *syntax == "plain", is_fenced = syntax && *syntax == "fenced";
  if (!is_plain && !is_fenced) return invalid("the syntax of calls is plain or fenced");
  if (!tools || !tools->is_array() || tools->get_array().empty()) return invalid("no tool");
  if (tools->get_array().size() > limits.max_choices) {
    return invalid("there are more than " + std::to_string(limits.max_choices) + " tools");
  }
  size_t automata_size = 0;
  std::vector<Expr> branches;
  for (const json::value& tool : tools->get_array()) {
    const json::array* pair = tool.if_array();
    if (!pair || pair->size() != 2 || !(*pair)[0].is_string() || !(*pair)[1].is_string()) {
      return invalid("a tool is its name and its parameters");
    }
    const std::string name((*pair)[0].get_string());
    auto object =
        arguments(json_grammar, std::string((*pair)[1].get_string()), limits, automata_size);
    if (!object.ok()) {
      return std::move(object).error().with_context("parameters of the tool " + quoted(name));
    }
    const Expr separator = mark(b, kToolSeparator);
    branches.push_back(
        is_plain ? b.sequence({b.literal(name), separator, *object})
                 : b.sequence({b.literal("function"), separator, b.literal(name + "\n```json\n"),
                               *object, b.literal("\n```")}));
  }
  const Expr call =
      b.sequence({mark(b, kToolCallBegin), b.either(branches), mark(b, kToolCallEnd)});
  const GrammarBuilder::Rule rule = b.declare("a tool call");
  b.define(rule, call);
  std::vector<Expr> parts{b.call(rule)};
  if (!flag("is_open")) parts.insert(parts.begin(), mark(b, kToolCallsBegin));
  if (flag("several")) {
    const Expr next = is_plain ? b.call(rule) : b.sequence({b.literal("\n"), b.call(rule)});
    parts.push_back(b.repeat(next, 0, kMaxGuidedCalls - 1));
  }
  parts.push_back(mark(b, kToolCallsEnd));
  return b.sequence(parts);
}

}  // namespace

GrammarSpec tool_call_spec(std::span<const ToolDefinition> tools, const ToolCallOptions& options) {
  json::array listed;
  for (const ToolDefinition& tool : tools) {
    listed.push_back(json::array{json::value(tool.name), json::value(tool.parameters)});
  }
  const json::object text{{"syntax", options.syntax == ToolSyntax::kPlain ? "plain" : "fenced"},
                          {"several", options.several},
                          {"is_open", options.is_open},
                          {"tools", std::move(listed)}};
  return {.kind = GrammarSpec::Kind::kToolCalls, .text = json::serialize(text)};
}

Result<Expr> parse_tool_calls(JsonGrammar& json_grammar, std::string_view text,
                              const GrammarLimits& limits) {
  const auto document = parse_json(text);
  if (!document.ok()) return invalid(document.error().message);
  if (!document->is_object()) return invalid("tools are given as an object");
  return parse(json_grammar, document->get_object(), limits);
}

}  // namespace troupe::model
