#pragma once

// Takes the text of a growing answer apart: reasoning, content, tool calls. Pure; the text comes in
// pieces cut anywhere, and what comes out does not depend on where.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

/// From a call's begin mark to its arguments; what takes longer is no call.
inline constexpr size_t kMaxCallHeadBytes = 1024;

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
  bool guided_calls = false;  ///< a grammar makes the calls: their strings may hold end marks
};

/// A piece of an answer, in order.
struct AnswerPart {
  enum class Kind : uint8_t {
    kReasoning,
    kContent,
    kToolCall,   ///< a call begins
    kArguments,  ///< the next of the last call's
  };
  Kind kind = Kind::kContent;
  std::string text;  ///< not empty; of kToolCall there is none
  std::string name;  ///< of kToolCall
  friend bool operator==(const AnswerPart&, const AnswerPart&) = default;
};

/// Reasoning ends at the first "</think>"; tool calls are looked for behind it.
///
/// A call comes once its name and the brace that opens its arguments are there, and then its
/// arguments as they are written, up to the brace that closes them. They are not checked, since
/// they are gone before they are whole: as with OpenAI's API they may be no JSON, and the client
/// reads them. They break off at the end of the answer; at the call's end mark, even within a
/// string, so that a forgotten quote does not swallow the calls behind it; and outside strings at
/// '<' and '`', which begin marks and fences and are not in JSON. Blanks and a fence's end behind
/// the arguments go with the marks; other text up to the end mark is content.
///
/// What does not begin as a call comes out as content, unchanged and with its marks: apart from
/// marks no text is lost. Held back are at most kMaxCallHeadBytes, and blanks between calls.
class AnswerParser {
 public:
  explicit AnswerParser(AnswerSyntax syntax);

  /// What `text` settles; text that may begin a tag is held back.
  std::vector<AnswerPart> push(std::string_view text);

  /// The end of the answer: what was held back. Nothing may be pushed afterwards.
  std::vector<AnswerPart> finish();

  /// Whether text that comes now is reasoning, as far as is known.
  [[nodiscard]] bool in_reasoning() const {
    return state_ == State::kReasoning || (state_ == State::kStart && syntax_.opens_in_reasoning);
  }

  /// Calls whose arguments are over.
  [[nodiscard]] uint64_t num_ended_calls() const { return num_ended_calls_; }

 private:
  enum class State : uint8_t {
    kStart,       ///< before any text but blanks: "<think>" may come
    kReasoning,   ///< until "</think>"
    kContent,     ///< until "<｜tool▁calls▁begin｜>"
    kCalls,       ///< between calls
    kCallHead,    ///< of a call, before its arguments
    kArguments,   ///< within them
    kCallTail,    ///< behind them
    kBehindCall,  ///< in text that is not the tail, until the call's end mark
    kNoCall,      ///< in what did not begin as a call, until its end mark
  };

  /// Where in a JSON object the text is.
  struct Nesting {
    uint64_t depth = 0;  ///< objects and lists that are open
    bool in_string = false;
    bool escapes = false;  ///< the next character of the string stands for itself

    bool closes(char next);  ///< goes on; whether that is the end of the object
  };

  void advance(std::vector<AnswerPart>& out);
  bool step(std::vector<AnswerPart>& out);
  bool leave_start();
  bool text_until(std::string_view tag, AnswerPart::Kind kind, State next,
                  std::vector<AnswerPart>& out);
  bool before_calls(std::vector<AnswerPart>& out);
  bool between_calls(std::vector<AnswerPart>& out);
  bool within_head(std::vector<AnswerPart>& out);
  bool within_arguments(std::vector<AnswerPart>& out);
  bool behind_arguments();
  bool within_no_call(std::vector<AnswerPart>& out);
  void emit(AnswerPart::Kind kind, std::string_view text, std::vector<AnswerPart>& out) const;

  AnswerSyntax syntax_;
  State state_;
  std::string pending_;         ///< not yet understood
  std::string unclaimed_;       ///< marks and blanks since the last call that came out
  bool any_call_here_ = false;  ///< in this group of calls
  Nesting nesting_;             ///< within arguments
  uint64_t num_ended_calls_ = 0;
};

}  // namespace troupe::model
