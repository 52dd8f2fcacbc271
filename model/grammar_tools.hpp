#pragma once

// Calls of tools in DeepSeek's chat formats as a grammar: what answer_parser.hpp takes apart, with
// arguments that the schema of each tool accepts.

#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "model/answer_parser.hpp"
#include "model/chat_format.hpp"
#include "model/grammar.hpp"
#include "model/grammar_builder.hpp"

namespace troupe::model {

inline constexpr uint32_t kMaxGuidedCalls = 16;  ///< of one answer

struct ToolCallOptions {
  ToolSyntax syntax = ToolSyntax::kFenced;  ///< not kNone
  bool several = true;                      ///< up to kMaxGuidedCalls calls; else one
  bool is_open = false;                     ///< the answer has written kToolCallsBegin already
};

/// A spec for which the answer is a call or several. The parameters of a tool are a schema of
/// objects as grammar_schema.hpp knows them, or "{}" for any object.
GrammarSpec tool_call_spec(std::span<const ToolDefinition> tools, const ToolCallOptions& options);

class JsonGrammar;

/// @param json_grammar whose parts the tools' schemas share
/// @param text of a tool_call_spec
/// @errors kInvalidArgument naming the tool and the place in its parameters
Result<GrammarBuilder::Expr> parse_tool_calls(JsonGrammar& json_grammar, std::string_view text,
                                              const GrammarLimits& limits);

}  // namespace troupe::model
