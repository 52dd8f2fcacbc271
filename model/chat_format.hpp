#pragma once

// The chat formats of DeepSeek's models, natively: what their Jinja templates render for system,
// user, assistant and tool messages. Native because a message's text can then be kept apart from
// the format's own tokens (TextSegment::is_user_content), which a rendered string no longer allows.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/answer_parser.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {

enum class ChatFormatKind : uint8_t {
  kDeepseekV2,   ///< "User: ...\n\nAssistant: ..."
  kDeepseekV3,   ///< "<｜User｜>...<｜Assistant｜>..."
  kDeepseekR1,   ///< V3's, the answer opens with "<think>\n"
  kDeepseekV31,  ///< V3's, the answer opens with "<think>" or "</think>" as asked
};

/// The names of the formats in configuration and messages: deepseek_v2, _v3, _r1, _v31.
std::string_view to_string(ChatFormatKind kind);
/// @errors kInvalidArgument listing the names
Result<ChatFormatKind> parse_chat_format_kind(std::string_view name);

enum class ChatRole : uint8_t { kSystem, kUser, kAssistant, kTool };

/// @errors kInvalidArgument listing the roles
Result<ChatRole> parse_chat_role(std::string_view name);

/// A call that the assistant made earlier.
struct ToolCall {
  std::string name;
  std::string arguments;  ///< as the model wrote them: a JSON object
};

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;                    ///< of a tool: what the call returned
  std::vector<ToolCall> tool_calls = {};  ///< of the assistant
};

/// A tool that the model may call.
struct ToolDefinition {
  std::string name;
  std::string description;
  std::string parameters;  ///< a JSON schema
};

struct ChatOptions {
  bool add_generation_prompt = true;  ///< open the assistant's turn
  bool thinking = false;              ///< V3.1 only: let the answer begin with reasoning
  std::span<const ToolDefinition> tools = {};
};

/// What the model gets, and how to read what it answers.
struct ChatPrompt {
  std::vector<TokenId> tokens;
  AnswerSyntax syntax;
};

class ChatFormat {
 public:
  /// Chooses by what the checkpoint says:
  ///   its chat template opens the answer with "<｜Assistant｜><think>" -> R1;
  ///   it has a variable `thinking` and "</think>"                      -> V3.1;
  ///   it has "<｜Assistant｜>" and no "</think>"                        -> V3;
  ///   it has "User: " and "Assistant:"                                 -> V2.
  /// Without a template: V3 if the tokenizer has "<｜User｜>" and "<｜Assistant｜>" but no
  /// "<think>".
  /// @errors kUnsupported for anything else; the operator may choose explicitly.
  static Result<ChatFormat> detect(const Tokenizer& tokenizer);

  /// @errors kInvalidArgument if the tokenizer lacks a token that the format is made of
  static Result<ChatFormat> create(ChatFormatKind kind, const Tokenizer& tokenizer);

  [[nodiscard]] ChatFormatKind kind() const { return kind_; }

  /// Whether conversations may have tools: not in V2, nor where the tokenizer lacks their marks.
  [[nodiscard]] bool knows_tools() const { return knows_tools_; }

  /// The prompt of a conversation, BOS included. REQUIRES: knows_tools(), if there are any.
  /// System messages come first whatever their place (V2: in place), as in the templates. Earlier
  /// answers lose their reasoning (all up to "</think>") in R1 and V3.1.
  ///
  /// Tools are described behind the system messages: for V3.1 as DeepSeek's model card says; V3 and
  /// R1, whose templates leave that to the caller, get a text of ours about their own call format.
  /// Rounds of calls after the first are written like the first, where the templates of V3 and R1
  /// forget the marks that open them.
  [[nodiscard]] std::vector<TextSegment> render(std::span<const ChatMessage> messages,
                                                const ChatOptions& options = {}) const;

  /// The tokens of render(). `tokenizer` is the one given at creation.
  /// @errors as Tokenizer::encode
  [[nodiscard]] Result<std::vector<TokenId>> encode(const Tokenizer& tokenizer,
                                                    std::span<const ChatMessage> messages,
                                                    const ChatOptions& options = {}) const;

  /// encode(), and how to read the answer.
  /// @errors as encode(); kInvalidArgument if there are tools that the format does not know
  [[nodiscard]] Result<ChatPrompt> prepare(const Tokenizer& tokenizer,
                                           std::span<const ChatMessage> messages,
                                           const ChatOptions& options = {}) const;

  /// The tokens whose text an AnswerParser looks for; they matter even where special tokens are
  /// not shown.
  [[nodiscard]] const std::vector<TokenId>& answer_marks() const { return answer_marks_; }

 private:
  ChatFormat(ChatFormatKind kind, const Tokenizer& tokenizer);

  ChatFormatKind kind_;
  std::string bos_, eos_;
  bool knows_tools_ = false;
  std::vector<TokenId> answer_marks_;
};

}  // namespace troupe::model
