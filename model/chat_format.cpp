#include "model/chat_format.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "model/chat_render.hpp"
#include "model/chat_tokens.hpp"

namespace troupe::model {
namespace {

constexpr std::array<std::pair<std::string_view, ChatFormatKind>, 4> kKinds = {{
    {"deepseek_v2", ChatFormatKind::kDeepseekV2},
    {"deepseek_v3", ChatFormatKind::kDeepseekV3},
    {"deepseek_r1", ChatFormatKind::kDeepseekR1},
    {"deepseek_v31", ChatFormatKind::kDeepseekV31},
}};

bool has_added(const Tokenizer& tokenizer, std::string_view token) {
  const auto& added = tokenizer.added_tokens();
  return std::any_of(added.begin(), added.end(),
                     [&](const AddedToken& known) { return known.content == token; });
}

bool has_tool_marks(ChatFormatKind kind, const Tokenizer& tokenizer) {
  if (kind == ChatFormatKind::kDeepseekV2) return false;
  std::vector<std::string_view> marks = {kToolCallsBegin, kToolCallsEnd,  kToolCallBegin,
                                         kToolCallEnd,    kToolSeparator, kToolOutputBegin,
                                         kToolOutputEnd};
  if (kind != ChatFormatKind::kDeepseekV31) {
    marks.insert(marks.end(), {kToolOutputsBegin, kToolOutputsEnd});
  }
  return std::all_of(marks.begin(), marks.end(),
                     [&](std::string_view mark) { return has_added(tokenizer, mark); });
}

bool uses_tools(std::span<const ChatMessage> messages, const ChatOptions& options) {
  return !options.tools.empty() ||
         std::any_of(messages.begin(), messages.end(), [](const ChatMessage& message) {
           return message.role == ChatRole::kTool || !message.tool_calls.empty();
         });
}

AnswerSyntax syntax_of(ChatFormatKind kind, std::span<const TextSegment> prompt, bool tools) {
  AnswerSyntax syntax;
  const bool is_v31 = kind == ChatFormatKind::kDeepseekV31;
  syntax.has_reasoning = is_v31 || kind == ChatFormatKind::kDeepseekR1;
  if (syntax.has_reasoning && !prompt.empty() && !prompt.back().is_user_content) {
    std::string_view end = prompt.back().text;
    if (end.ends_with('\n')) end.remove_suffix(1);
    syntax.opens_in_reasoning = end.ends_with(kThink);
  }
  if (tools) syntax.tools = is_v31 ? ToolSyntax::kPlain : ToolSyntax::kFenced;
  return syntax;
}

}  // namespace

std::string_view to_string(ChatFormatKind kind) {
  for (const auto& [name, value] : kKinds) {
    if (value == kind) return name;
  }
  return "unknown";
}

Result<ChatFormatKind> parse_chat_format_kind(std::string_view name) {
  for (const auto& [known, kind] : kKinds) {
    if (known == name) return kind;
  }
  return Error{Code::kInvalidArgument,
               "chat format \"" + std::string(name.substr(0, 100)) +
                   "\" is unknown; choose deepseek_v2, deepseek_v3, deepseek_r1 or deepseek_v31"};
}

Result<ChatRole> parse_chat_role(std::string_view name) {
  if (name == "system") return ChatRole::kSystem;
  if (name == "user") return ChatRole::kUser;
  if (name == "assistant") return ChatRole::kAssistant;
  if (name == "tool") return ChatRole::kTool;
  return Error{Code::kInvalidArgument, "role \"" + std::string(name.substr(0, 100)) +
                                           "\" is unknown; use system, user, assistant or tool"};
}

ChatFormat::ChatFormat(ChatFormatKind kind, const Tokenizer& tokenizer)
    : kind_(kind), knows_tools_(has_tool_marks(kind, tokenizer)) {
  const auto spelling = [&](TokenId id) {
    for (const AddedToken& token : tokenizer.added_tokens()) {
      if (token.id == id) return token.content;
    }
    return std::string(tokenizer.token_bytes(id));
  };
  bos_ = spelling(*tokenizer.bos());
  eos_ = spelling(*tokenizer.eos());
  for (const std::string_view mark : {kThink, kEndThink, kToolCallsBegin, kToolCallsEnd,
                                      kToolCallBegin, kToolCallEnd, kToolSeparator}) {
    if (has_added(tokenizer, mark)) answer_marks_.push_back(*tokenizer.id_of(mark));
  }
}

Result<ChatFormat> ChatFormat::create(ChatFormatKind kind, const Tokenizer& tokenizer) {
  const auto require = [&](std::string_view token) -> Result<void> {
    if (has_added(tokenizer, token)) return {};
    return Error{Code::kInvalidArgument, "the tokenizer lacks the added token " +
                                             std::string(token) + " of chat format " +
                                             std::string(to_string(kind))};
  };
  if (!tokenizer.bos() || !tokenizer.eos()) {
    return Error{Code::kInvalidArgument,
                 "tokenizer_config.json has to name bos_token and eos_token "
                 "for a chat format"};
  }
  if (kind != ChatFormatKind::kDeepseekV2) {
    for (const std::string_view token : {kUser, kAssistant, kEndOfSentence}) TRY(require(token));
  }
  if (kind == ChatFormatKind::kDeepseekR1 || kind == ChatFormatKind::kDeepseekV31) {
    for (const std::string_view token : {kThink, kEndThink}) TRY(require(token));
  }
  return ChatFormat(kind, tokenizer);
}

Result<ChatFormat> ChatFormat::detect(const Tokenizer& tokenizer) {
  const std::string_view jinja = tokenizer.chat_template();
  const auto has = [&](std::string_view text) {
    return jinja.find(text) != std::string_view::npos;
  };
  if (jinja.empty()) {
    const bool turns = tokenizer.id_of(kUser) && tokenizer.id_of(kAssistant);
    if (turns && !tokenizer.id_of(kThink)) return create(ChatFormatKind::kDeepseekV3, tokenizer);
    return Error{
        Code::kUnsupported,
        "the checkpoint has no chat template and its tokens do not settle the chat format; "
        "choose one explicitly: deepseek_v2, deepseek_v3, deepseek_r1 or deepseek_v31"};
  }
  if (has("<｜Assistant｜><think>")) return create(ChatFormatKind::kDeepseekR1, tokenizer);
  if (has(kAssistant) && has(kEndThink) && has("thinking")) {
    return create(ChatFormatKind::kDeepseekV31, tokenizer);
  }
  if (has(kAssistant) && !has(kEndThink)) return create(ChatFormatKind::kDeepseekV3, tokenizer);
  if (has("User: ") && has("Assistant:")) return create(ChatFormatKind::kDeepseekV2, tokenizer);
  return Error{Code::kUnsupported,
               "the checkpoint's chat template is none of those that Troupe renders; choose the "
               "format explicitly: deepseek_v2, deepseek_v3, deepseek_r1 or deepseek_v31"};
}

std::vector<TextSegment> ChatFormat::render(std::span<const ChatMessage> messages,
                                            const ChatOptions& options) const {
  if (kind_ == ChatFormatKind::kDeepseekV2) return render_v2(messages, options, bos_, eos_);
  return render_v3(messages, options, kind_, bos_);
}

Result<std::vector<TokenId>> ChatFormat::encode(const Tokenizer& tokenizer,
                                                std::span<const ChatMessage> messages,
                                                const ChatOptions& options) const {
  return TRY(prepare(tokenizer, messages, options)).tokens;
}

Result<ChatPrompt> ChatFormat::prepare(const Tokenizer& tokenizer,
                                       std::span<const ChatMessage> messages,
                                       const ChatOptions& options) const {
  if (!knows_tools_ && uses_tools(messages, options)) {
    return Error{Code::kInvalidArgument, "the model has no tools: chat format " +
                                             std::string(to_string(kind_)) +
                                             " or its tokenizer has no marks for them"};
  }
  const std::vector<TextSegment> prompt = render(messages, options);
  ChatPrompt out;
  out.tokens = TRY(tokenizer.encode(prompt));
  out.syntax = syntax_of(kind_, prompt, !options.tools.empty());
  return out;
}

}  // namespace troupe::model
