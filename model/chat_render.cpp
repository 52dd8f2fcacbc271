#include "model/chat_render.hpp"

#include <utility>

#include "model/chat_tokens.hpp"

namespace troupe::model {
namespace {

/// Collects segments, joining neighbours of one kind.
class Prompt {
 public:
  void add(std::string_view text) { append(text, false); }
  void add_content(std::string_view text) { append(text, true); }
  std::vector<TextSegment> take() { return std::move(segments_); }

 private:
  void append(std::string_view text, bool is_user_content) {
    if (text.empty()) return;
    if (segments_.empty() || segments_.back().is_user_content != is_user_content) {
      segments_.push_back({"", is_user_content});
    }
    segments_.back().text += text;
  }
  std::vector<TextSegment> segments_;
};

/// An earlier answer as its format repeats it: R1's splits at every "</think>" and keeps the last
/// part, V3.1's keeps all behind the first.
std::string_view without_reasoning(std::string_view answer, ChatFormatKind kind) {
  size_t at = std::string_view::npos;
  if (kind == ChatFormatKind::kDeepseekR1) at = answer.rfind(kEndThink);
  if (kind == ChatFormatKind::kDeepseekV31) at = answer.find(kEndThink);
  return at == std::string_view::npos ? answer : answer.substr(at + kEndThink.size());
}

/// DeepSeek-V3.1's own words (its model card, "ToolCall"), which it was trained on.
void describe_tools_v31(std::span<const ToolDefinition> tools, Prompt& prompt) {
  prompt.add("\n\n## Tools\nYou have access to the following tools:\n");
  for (const ToolDefinition& tool : tools) {
    prompt.add("\n### ");
    prompt.add_content(tool.name);
    prompt.add("\nDescription: ");
    prompt.add_content(tool.description);
    prompt.add("\n\nParameters: ");
    prompt.add_content(tool.parameters);
    prompt.add("\n");
  }
  prompt.add("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n");
  for (const std::string_view part :
       {kToolCallsBegin, kToolCallBegin, std::string_view("tool_call_name"), kToolSeparator,
        std::string_view("tool_call_arguments"), kToolCallEnd,
        std::string_view("{{additional_tool_calls}}"), kToolCallsEnd}) {
    prompt.add(part);
  }
  prompt.add(
      "\n\nWhere:\n\n"
      "- `tool_call_name` must be an exact match to one of the available tools\n"
      "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters "
      "Schema\n"
      "- For multiple tool calls, chain them directly without separators or spaces\n");
}

void describe_tools_v3(std::span<const ToolDefinition> tools, Prompt& prompt) {
  prompt.add("\n\n## Tools\n\nThese functions can be called:\n");
  for (const ToolDefinition& tool : tools) {
    prompt.add("\n### ");
    prompt.add_content(tool.name);
    prompt.add("\n");
    prompt.add_content(tool.description);
    prompt.add("\nParameters (JSON schema): ");
    prompt.add_content(tool.parameters);
    prompt.add("\n");
  }
  prompt.add("\nTo call one, end the answer with exactly this, NAME and ARGUMENTS filled in:\n");
  prompt.add(kToolCallsBegin);
  prompt.add(kToolCallBegin);
  prompt.add("function");
  prompt.add(kToolSeparator);
  prompt.add("NAME\n```json\nARGUMENTS\n```");
  prompt.add(kToolCallEnd);
  prompt.add(kToolCallsEnd);
  prompt.add(
      "\nARGUMENTS is one JSON object that fits the function's schema. Several calls follow each "
      "other, each from ");
  prompt.add(kToolCallBegin);
  prompt.add(" to ");
  prompt.add(kToolCallEnd);
  prompt.add(".\n");
}

void render_calls(std::span<const ToolCall> calls, bool is_v31, Prompt& prompt) {
  prompt.add(kToolCallsBegin);
  for (const ToolCall& call : calls) {
    if (!is_v31 && &call != calls.data()) prompt.add("\n");
    prompt.add(kToolCallBegin);
    if (is_v31) {
      prompt.add_content(call.name);
      prompt.add(kToolSeparator);
      prompt.add_content(call.arguments);
    } else {
      prompt.add("function");
      prompt.add(kToolSeparator);
      prompt.add_content(call.name);
      prompt.add("\n```json\n");
      prompt.add_content(call.arguments);
      prompt.add("\n```");
    }
    prompt.add(kToolCallEnd);
  }
  prompt.add(kToolCallsEnd);
}

/// V3, R1 and V3.1, turn by turn.
class TurnRenderer {
 public:
  TurnRenderer(ChatFormatKind kind, Prompt& prompt)
      : kind_(kind), is_v31_(kind == ChatFormatKind::kDeepseekV31), prompt_(prompt) {}

  void user(const ChatMessage& message) {
    prompt_.add(kUser);
    prompt_.add_content(message.content);
    last_ = ChatRole::kUser;
  }

  void assistant(const ChatMessage& message) {
    const bool answers_tool = last_ == ChatRole::kTool;
    if (is_v31_) {
      // V3.1 opens a turn only behind the user's.
      if (last_ == ChatRole::kUser) {
        prompt_.add(kAssistant);
        prompt_.add(kEndThink);
      }
    } else {
      prompt_.add(answers_tool ? kToolOutputsEnd : kAssistant);
    }
    const bool is_plain = message.tool_calls.empty() && !answers_tool;
    prompt_.add_content(is_plain ? without_reasoning(message.content, kind_) : message.content);
    if (!message.tool_calls.empty()) render_calls(message.tool_calls, is_v31_, prompt_);
    prompt_.add(kEndOfSentence);
    last_ = ChatRole::kAssistant;
  }

  void tool(const ChatMessage& message) {
    if (!is_v31_) prompt_.add(last_ == ChatRole::kTool ? "\n" : kToolOutputsBegin);
    prompt_.add(kToolOutputBegin);
    prompt_.add_content(message.content);
    prompt_.add(kToolOutputEnd);
    last_ = ChatRole::kTool;
  }

  void end(const ChatOptions& options) {
    if (last_ == ChatRole::kTool) {
      if (!is_v31_) prompt_.add(kToolOutputsEnd);
      return;  // the model goes on in its own turn
    }
    if (!options.add_generation_prompt || (is_v31_ && last_ != ChatRole::kUser)) return;
    prompt_.add(kAssistant);
    if (kind_ == ChatFormatKind::kDeepseekR1) {
      prompt_.add(kThink);
      prompt_.add("\n");
    }
    if (is_v31_) prompt_.add(options.thinking ? kThink : kEndThink);
  }

 private:
  ChatFormatKind kind_;
  bool is_v31_;
  Prompt& prompt_;
  ChatRole last_ = ChatRole::kSystem;  ///< kSystem: nobody spoke
};

}  // namespace

std::vector<TextSegment> render_v2(std::span<const ChatMessage> messages,
                                   const ChatOptions& options, std::string_view bos,
                                   std::string_view eos) {
  Prompt prompt;
  prompt.add(bos);
  for (const ChatMessage& message : messages) {
    if (message.role == ChatRole::kUser) prompt.add("User: ");
    if (message.role == ChatRole::kAssistant) prompt.add("Assistant: ");
    prompt.add_content(message.content);
    prompt.add(message.role == ChatRole::kAssistant ? eos : "\n\n");
  }
  if (options.add_generation_prompt) prompt.add("Assistant:");
  return prompt.take();
}

std::vector<TextSegment> render_v3(std::span<const ChatMessage> messages,
                                   const ChatOptions& options, ChatFormatKind kind,
                                   std::string_view bos) {
  Prompt prompt;
  prompt.add(bos);
  bool is_first_system = true;
  for (const ChatMessage& message : messages) {
    if (message.role != ChatRole::kSystem) continue;
    if (!std::exchange(is_first_system, false)) prompt.add("\n\n");
    prompt.add_content(message.content);
  }
  if (!options.tools.empty()) {
    if (kind == ChatFormatKind::kDeepseekV31) {
      describe_tools_v31(options.tools, prompt);
    } else {
      describe_tools_v3(options.tools, prompt);
    }
  }
  TurnRenderer turns(kind, prompt);
  for (const ChatMessage& message : messages) {
    switch (message.role) {
      case ChatRole::kSystem: break;
      case ChatRole::kUser: turns.user(message); break;
      case ChatRole::kAssistant: turns.assistant(message); break;
      case ChatRole::kTool: turns.tool(message); break;
    }
  }
  turns.end(options);
  return prompt.take();
}

}  // namespace troupe::model
