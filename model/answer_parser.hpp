#pragma once

// Takes the text of a growing answer apart: reasoning, content, tool calls. Pure; the text comes in
// pieces cut anywhere, and what comes out does not depend on where.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

/// How a model writes a tool call between "<｜tool▁call▁begin｜>" and "<｜tool▁call▁end｜>".
enum class ToolSyntax : uint8_t {
  kNone,    ///< calls are not looked for
  kFenced,  ///< DeepSeek V3, R1: "function<｜tool▁sep｜>NAME\n```json\nARGUMENTS\n```"
  kPlain,   ///< DeepSeek V3.1: "NAME<｜tool▁sep｜>ARGUMENTS"
};

/// What to look for in an answer.
struct AnswerSyntax {
  bool has_reasoning = false;       ///< "<think>" at the beginning opens reasoning
  bool opens_in_reasoning = false;  ///< the prompt has opened it already
  ToolSyntax tools = ToolSyntax::kNone;
  bool guided_calls = false;  ///< a grammar sees to it that calls are well formed
};

/// A piece of an answer, in order.
struct AnswerPart {
  enum class Kind : uint8_t {
    kReasoning,
    kContent,
    kToolCall,
    kArguments,  ///< more of the last call's
  };
  Kind kind = Kind::kContent;
  /// Of a call its arguments, a JSON object, or nothing if they follow; else not empty.
  std::string text;
  std::string name;  ///< of a call
  friend bool operator==(const AnswerPart&, const AnswerPart&) = default;
};

/// Reasoning ends at the first "</think>"; tool calls are looked for behind it. A call comes as a
/// whole, once its end is there and its arguments are a JSON object. Whatever is not well formed
/// comes out as content, unchanged: apart from the tags, no text is lost.
///
/// A guided call comes once its name and the first brace of its arguments are there, and then its
/// arguments as they come, up to the brace that closes them; the end of the answer may cut them.
class AnswerParser {
 public:
  explicit AnswerParser(AnswerSyntax syntax);

  /// What `text` settles; text that may begin a tag is held back.
  std::vector<AnswerPart> push(std::string_view text);

  /// The end of the answer: what was held back. A last call without its end mark counts if it is
  /// well formed otherwise. Nothing may be pushed afterwards.
  std::vector<AnswerPart> finish();

  /// Whether text that comes now is reasoning, as far as is known.
  [[nodiscard]] bool in_reasoning() const {
    return state_ == State::kReasoning || (state_ == State::kStart && syntax_.opens_in_reasoning);
  }

 private:
  enum class State : uint8_t {
    kStart,      ///< before any text but blanks: "<think>" may come
    kReasoning,  ///< until "</think>"
    kContent,    ///< until "<｜tool▁calls▁begin｜>"
    kCalls,      ///< between calls
    kCall,       ///< within a call
    kArguments,  ///< within the arguments of a guided one
    kCallTail,   ///< behind them
  };

  void advance(std::vector<AnswerPart>& out);
  bool step(std::vector<AnswerPart>& out);
  bool leave_start();
  bool text_until(std::string_view tag, AnswerPart::Kind kind, State next,
                  std::vector<AnswerPart>& out);
  bool between_calls(std::vector<AnswerPart>& out);
  bool within_call(std::vector<AnswerPart>& out);
  bool open_guided_call(std::vector<AnswerPart>& out);
  bool within_arguments(std::vector<AnswerPart>& out);
  bool behind_arguments();
  void end_call(std::string_view body, std::string_view end, std::vector<AnswerPart>& out);
  void emit(AnswerPart::Kind kind, std::string_view text, std::vector<AnswerPart>& out) const;

  AnswerSyntax syntax_;
  State state_;
  std::string pending_;         ///< not yet understood
  size_t num_searched_ = 0;     ///< of it, in vain, for the end of a call
  std::string unclaimed_;       ///< tags and blanks since the last call that came out
  bool any_call_here_ = false;  ///< in this group of calls
  // Of the arguments of a guided call:
  uint64_t depth_ = 0;  ///< objects and lists that are open
  bool in_string_ = false;
  bool escapes_ = false;  ///< the next character of the string stands for itself
};

}  // namespace troupe::model
