#pragma once

// The chat formats of DeepSeek's models, natively: what their Jinja templates render for system,
// user and assistant messages. Native because a message's text can then be kept apart from the
// format's own tokens (TextSegment::is_user_content), which a rendered string no longer allows.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
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

enum class ChatRole : uint8_t { kSystem, kUser, kAssistant };

/// @errors kInvalidArgument listing the roles
Result<ChatRole> parse_chat_role(std::string_view name);

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;
};

struct ChatOptions {
  bool add_generation_prompt = true;  ///< open the assistant's turn
  bool thinking = false;              ///< V3.1 only: let the answer begin with reasoning
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

  /// The prompt of a conversation, BOS included.
  /// System messages come first whatever their place (V2: in place), as in the templates. Earlier
  /// answers lose their reasoning (all up to "</think>") in R1 and V3.1.
  [[nodiscard]] std::vector<TextSegment> render(std::span<const ChatMessage> messages,
                                                const ChatOptions& options = {}) const;

  /// The tokens of render(). `tokenizer` is the one given at creation.
  /// @errors as Tokenizer::encode
  [[nodiscard]] Result<std::vector<TokenId>> encode(const Tokenizer& tokenizer,
                                                    std::span<const ChatMessage> messages,
                                                    const ChatOptions& options = {}) const;

 private:
  ChatFormat(ChatFormatKind kind, std::string bos, std::string eos);

  ChatFormatKind kind_;
  std::string bos_, eos_;
};

}  // namespace troupe::model
