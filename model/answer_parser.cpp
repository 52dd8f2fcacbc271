#include "model/answer_parser.hpp"

#include <algorithm>
#include <utility>

#include "model/chat_tokens.hpp"

namespace troupe::model {
namespace {

using Parts = std::vector<AnswerPart>;

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kFence = "```";
constexpr std::string_view kFenceLanguage = "json";
constexpr std::string_view kOpenArguments = "{";
constexpr size_t kMaxNameBytes = 256;

/// Length of the longest end of `text` that begins `tag` without being all of it.
size_t length_held(std::string_view text, std::string_view tag) {
  for (size_t length = std::min(text.size(), tag.size() - 1); length > 0; --length) {
    if (tag.starts_with(text.substr(text.size() - length))) return length;
  }
  return 0;
}

/// Whether more text could make `text` begin with `tag`.
bool may_become(std::string_view text, std::string_view tag) {
  return text.size() < tag.size() && tag.starts_with(text);
}

/// Reads what a call begins with; blanks may stand before every part of it.
class HeadReader {
 public:
  explicit HeadReader(std::string_view text) : text_(text), rest_(text) {}

  bool take(std::string_view literal) {
    skip_blanks();
    if (rest_.starts_with(literal)) {
      rest_.remove_prefix(literal.size());
      return true;
    }
    ran_out_ = may_become(rest_, literal);
    return false;
  }

  /// Anything without blanks and '<', which begins the next mark.
  bool take_name(std::string_view& name) {
    skip_blanks();
    const auto end = std::find_if(rest_.begin(), rest_.end(), [](char c) {
      return static_cast<unsigned char>(c) <= ' ' || c == '<';
    });
    name = rest_.substr(0, static_cast<size_t>(end - rest_.begin()));
    rest_.remove_prefix(name.size());
    ran_out_ = rest_.empty() && name.size() <= kMaxNameBytes;
    return !rest_.empty() && !name.empty() && name.size() <= kMaxNameBytes;
  }

  /// Whether the last part was not there because the text ended within it.
  [[nodiscard]] bool ran_out() const { return ran_out_; }
  [[nodiscard]] size_t num_read() const { return text_.size() - rest_.size(); }

 private:
  void skip_blanks() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(kBlanks), rest_.size()));
  }

  std::string_view text_;
  std::string_view rest_;
  bool ran_out_ = false;
};

/// Reads up to the brace that opens the arguments, it included.
bool read_head(HeadReader& reader, ToolSyntax syntax, std::string_view& name) {
  if (syntax == ToolSyntax::kPlain) {
    return reader.take_name(name) && reader.take(kToolSeparator) && reader.take(kOpenArguments);
  }
  return reader.take("function") && reader.take(kToolSeparator) && reader.take_name(name) &&
         reader.take(kFence) && (reader.take(kFenceLanguage) || !reader.ran_out()) &&
         reader.take(kOpenArguments);
}

}  // namespace

AnswerParser::AnswerParser(AnswerSyntax syntax)
    : syntax_(syntax), state_(syntax.has_reasoning ? State::kStart : State::kContent) {}

Parts AnswerParser::push(std::string_view text) {
  Parts out;
  pending_ += text;
  advance(out);
  return out;
}

Parts AnswerParser::finish() {
  Parts out;
  const bool is_blank = pending_.find_first_not_of(kBlanks) == std::string::npos;
  switch (state_) {
    case State::kStart:
    case State::kReasoning:
      emit(in_reasoning() ? AnswerPart::Kind::kReasoning : AnswerPart::Kind::kContent, pending_,
           out);
      break;
    case State::kCalls:
      // Marks alone are no text, unless they led to no call.
      if (any_call_here_ && is_blank) break;
      [[fallthrough]];
    case State::kCallHead: emit(AnswerPart::Kind::kContent, unclaimed_ + pending_, out); break;
    case State::kArguments: emit(AnswerPart::Kind::kArguments, pending_, out); break;
    case State::kCallTail: break;  // the beginning of a mark
    case State::kContent:
    case State::kBehindCall:
    case State::kNoCall: emit(AnswerPart::Kind::kContent, pending_, out); break;
  }
  pending_.clear();
  unclaimed_.clear();
  return out;
}

void AnswerParser::advance(Parts& out) {
  while (!pending_.empty() && step(out)) {
  }
}

/// One step; false when more text has to come first.
bool AnswerParser::step(Parts& out) {
  switch (state_) {
    case State::kStart: return leave_start();
    case State::kReasoning:
      return text_until(kEndThink, AnswerPart::Kind::kReasoning, State::kContent, out);
    case State::kContent: return before_calls(out);
    case State::kCalls: return between_calls(out);
    case State::kCallHead: return within_head(out);
    case State::kArguments: return within_arguments(out);
    case State::kCallTail: return behind_arguments();
    case State::kBehindCall:
      return text_until(kToolCallEnd, AnswerPart::Kind::kContent, State::kCalls, out);
    case State::kNoCall: return within_no_call(out);
  }
  return false;
}

/// A model may write "<think>" itself, even where the prompt has opened the reasoning.
bool AnswerParser::leave_start() {
  const size_t begin = pending_.find_first_not_of(kBlanks);
  if (begin == std::string::npos) return false;
  const std::string_view text = std::string_view(pending_).substr(begin);
  if (may_become(text, kThink)) return false;
  if (text.starts_with(kThink)) {
    pending_.erase(0, begin + kThink.size());
    state_ = State::kReasoning;
  } else {
    state_ = syntax_.opens_in_reasoning ? State::kReasoning : State::kContent;
  }
  return true;
}

bool AnswerParser::text_until(std::string_view tag, AnswerPart::Kind kind, State next, Parts& out) {
  const size_t at = pending_.find(tag);
  if (at == std::string::npos) {
    const size_t settled = pending_.size() - length_held(pending_, tag);
    emit(kind, std::string_view(pending_).substr(0, settled), out);
    pending_.erase(0, settled);
    return false;
  }
  emit(kind, std::string_view(pending_).substr(0, at), out);
  pending_.erase(0, at + tag.size());
  state_ = next;
  return true;
}

bool AnswerParser::before_calls(Parts& out) {
  if (syntax_.tools == ToolSyntax::kNone) {
    emit(AnswerPart::Kind::kContent, std::exchange(pending_, {}), out);
    return false;
  }
  if (!text_until(kToolCallsBegin, AnswerPart::Kind::kContent, State::kCalls, out)) return false;
  unclaimed_ = kToolCallsBegin;
  any_call_here_ = false;
  return true;
}

bool AnswerParser::between_calls(Parts& out) {
  const size_t begin = std::min(pending_.find_first_not_of(kBlanks), pending_.size());
  unclaimed_ += pending_.substr(0, begin);
  pending_.erase(0, begin);
  if (pending_.empty() || may_become(pending_, kToolCallBegin) ||
      may_become(pending_, kToolCallsEnd)) {
    return false;
  }
  if (pending_.starts_with(kToolCallBegin)) {
    unclaimed_ += kToolCallBegin;
    pending_.erase(0, kToolCallBegin.size());
    state_ = State::kCallHead;
    return true;
  }
  if (pending_.starts_with(kToolCallsEnd)) {
    if (!any_call_here_)
      emit(AnswerPart::Kind::kContent, unclaimed_ + std::string(kToolCallsEnd), out);
    pending_.erase(0, kToolCallsEnd.size());
  } else {
    emit(AnswerPart::Kind::kContent, unclaimed_, out);
  }
  unclaimed_.clear();
  state_ = State::kContent;
  return true;
}

bool AnswerParser::within_head(Parts& out) {
  HeadReader reader(std::string_view(pending_).substr(0, kMaxCallHeadBytes));
  std::string_view name;
  if (read_head(reader, syntax_.tools, name)) {
    out.push_back({AnswerPart::Kind::kToolCall, "", std::string(name)});
    pending_.erase(0, reader.num_read() - kOpenArguments.size());
    any_call_here_ = true;
    state_ = State::kArguments;
  } else {
    if (reader.ran_out() && pending_.size() < kMaxCallHeadBytes) return false;
    emit(AnswerPart::Kind::kContent, unclaimed_, out);
    state_ = State::kNoCall;
  }
  unclaimed_.clear();
  return true;
}

bool AnswerParser::within_arguments(Parts& out) {
  size_t size = 0;
  bool is_over = false;
  while (!is_over && size < pending_.size()) {
    const char c = pending_[size];
    if (!nesting_.in_string) {
      is_over = c == '<' || c == '`';
    } else if (c == '<' && !syntax_.guided_calls) {
      const std::string_view rest = std::string_view(pending_).substr(size);
      if (may_become(rest, kToolCallEnd)) break;
      is_over = rest.starts_with(kToolCallEnd);
    }
    if (is_over) break;
    is_over = nesting_.closes(c);
    ++size;
  }
  emit(AnswerPart::Kind::kArguments, std::string_view(pending_).substr(0, size), out);
  pending_.erase(0, size);
  if (!is_over) return false;
  nesting_ = {};
  ++num_ended_calls_;
  state_ = State::kCallTail;
  return true;
}

bool AnswerParser::Nesting::closes(char next) {
  if (in_string) {
    if (escapes) {
      escapes = false;
    } else if (next == '\\') {
      escapes = true;
    } else if (next == '"') {
      in_string = false;
    }
    return false;
  }
  if (next == '"') in_string = true;
  if (next == '{' || next == '[') ++depth;
  return (next == '}' || next == ']') && --depth == 0;
}

bool AnswerParser::behind_arguments() {
  pending_.erase(0, pending_.find_first_not_of(kBlanks));
  const bool has_fence = syntax_.tools == ToolSyntax::kFenced;
  if (has_fence && pending_.starts_with(kFence)) {
    pending_.erase(0, kFence.size());
    return true;
  }
  if (pending_.starts_with(kToolCallEnd)) {
    pending_.erase(0, kToolCallEnd.size());
    state_ = State::kCalls;
    return true;
  }
  if (pending_.starts_with(kToolCallBegin) || pending_.starts_with(kToolCallsEnd)) {
    state_ = State::kCalls;  // the end mark was forgotten
    return true;
  }
  if (has_fence && may_become(pending_, kFence)) return false;
  for (const std::string_view mark : {kToolCallEnd, kToolCallBegin, kToolCallsEnd}) {
    if (may_become(pending_, mark)) return false;
  }
  state_ = State::kBehindCall;
  return true;
}

bool AnswerParser::within_no_call(Parts& out) {
  if (!text_until(kToolCallEnd, AnswerPart::Kind::kContent, State::kCalls, out)) return false;
  emit(AnswerPart::Kind::kContent, kToolCallEnd, out);
  return true;
}

/// Appends text, to the last part if that is of the same kind.
void AnswerParser::emit(AnswerPart::Kind kind, std::string_view text, Parts& out) const {
  if (text.empty()) return;
  if (out.empty() || out.back().kind != kind) out.push_back({kind, "", ""});
  out.back().text += text;
}

}  // namespace troupe::model
