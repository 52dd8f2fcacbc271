#include "model/chat_format.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace troupe::model {
namespace {

// "｜" is U+FF5C, "▁" U+2581.
constexpr std::string_view kEndOfSentence = "<｜end▁of▁sentence｜>";
constexpr std::string_view kUser = "<｜User｜>";
constexpr std::string_view kAssistant = "<｜Assistant｜>";
constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";

constexpr std::array<std::pair<std::string_view, ChatFormatKind>, 4> kKinds = {{
    {"deepseek_v2", ChatFormatKind::kDeepseekV2},
    {"deepseek_v3", ChatFormatKind::kDeepseekV3},
    {"deepseek_r1", ChatFormatKind::kDeepseekR1},
    {"deepseek_v31", ChatFormatKind::kDeepseekV31},
}};

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

void render_v2(std::span<const ChatMessage> messages, const ChatOptions& options,
               std::string_view eos, Prompt& prompt) {
  for (const ChatMessage& message : messages) {
    if (message.role == ChatRole::kUser) prompt.add("User: ");
    if (message.role == ChatRole::kAssistant) prompt.add("Assistant: ");
    prompt.add_content(message.content);
    prompt.add(message.role == ChatRole::kAssistant ? eos : "\n\n");
  }
  if (options.add_generation_prompt) prompt.add("Assistant:");
}

void render_v3(std::span<const ChatMessage> messages, const ChatOptions& options,
               ChatFormatKind kind, Prompt& prompt) {
  const bool is_v31 = kind == ChatFormatKind::kDeepseekV31;
  bool is_first_system = true;
  for (const ChatMessage& message : messages) {
    if (message.role != ChatRole::kSystem) continue;
    if (!std::exchange(is_first_system, false)) prompt.add("\n\n");
    prompt.add_content(message.content);
  }
  bool user_spoke_last = false;
  for (const ChatMessage& message : messages) {
    if (message.role == ChatRole::kUser) {
      prompt.add(kUser);
      prompt.add_content(message.content);
      user_spoke_last = true;
    } else if (message.role == ChatRole::kAssistant) {
      // V3.1 opens a turn only behind the user's.
      if (!is_v31 || user_spoke_last) prompt.add(kAssistant);
      if (is_v31 && user_spoke_last) prompt.add(kEndThink);
      prompt.add_content(without_reasoning(message.content, kind));
      prompt.add(kEndOfSentence);
      user_spoke_last = false;
    }
  }
  if (!options.add_generation_prompt || (is_v31 && !user_spoke_last)) return;
  prompt.add(kAssistant);
  if (kind == ChatFormatKind::kDeepseekR1) {
    prompt.add(kThink);
    prompt.add("\n");
  }
  if (is_v31) prompt.add(options.thinking ? kThink : kEndThink);
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
  return Error{Code::kInvalidArgument, "role \"" + std::string(name.substr(0, 100)) +
                                           "\" is unknown; use system, user or assistant"};
}

ChatFormat::ChatFormat(ChatFormatKind kind, std::string bos, std::string eos)
    : kind_(kind), bos_(std::move(bos)), eos_(std::move(eos)) {}

Result<ChatFormat> ChatFormat::create(ChatFormatKind kind, const Tokenizer& tokenizer) {
  const auto require = [&](std::string_view token) -> Result<void> {
    const auto& added = tokenizer.added_tokens();
    if (std::any_of(added.begin(), added.end(),
                    [&](const AddedToken& known) { return known.content == token; })) {
      return {};
    }
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
  const auto spelling = [&](TokenId id) {
    for (const AddedToken& token : tokenizer.added_tokens()) {
      if (token.id == id) return token.content;
    }
    return std::string(tokenizer.token_bytes(id));
  };
  return ChatFormat(kind, spelling(*tokenizer.bos()), spelling(*tokenizer.eos()));
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
  Prompt prompt;
  prompt.add(bos_);
  if (kind_ == ChatFormatKind::kDeepseekV2) {
    render_v2(messages, options, eos_, prompt);
  } else {
    render_v3(messages, options, kind_, prompt);
  }
  return prompt.take();
}

Result<std::vector<TokenId>> ChatFormat::encode(const Tokenizer& tokenizer,
                                                std::span<const ChatMessage> messages,
                                                const ChatOptions& options) const {
  return tokenizer.encode(render(messages, options));
}

}  // namespace troupe::model
