#include "model/answer_parser.hpp"

#include <algorithm>
#include <boost/json/value.hpp>
#include <optional>
#include <utility>

#include "model/chat_tokens.hpp"
#include "model/json.hpp"

namespace troupe::model {
namespace {

using Parts = std::vector<AnswerPart>;

constexpr std::string_view kBlanks = " \t\r\n";
constexpr std::string_view kFence = "```";
constexpr std::string_view kFenceLanguage = "json";
constexpr std::string_view kOpenFence = "\n```json\n";
constexpr std::string_view kCloseFence = "\n```";
constexpr size_t kMaxNameBytes = 256;
constexpr size_t kMaxArgumentsDepth = 32;

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

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

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == '<'; });
}

/// What stands between "```json" and "```", without them.
std::optional<std::string_view> without_fence(std::string_view text) {
  text = trimmed(text);
  if (!text.starts_with(kFence) || text.size() < 2 * kFence.size()) return std::nullopt;
  text.remove_prefix(kFence.size());
  if (!text.ends_with(kFence)) return std::nullopt;
  text.remove_suffix(kFence.size());
  if (text.starts_with(kFenceLanguage)) text.remove_prefix(kFenceLanguage.size());
  return text;
}

std::optional<AnswerPart> parse_call(std::string_view body, ToolSyntax syntax) {
  const size_t separator = body.find(kToolSeparator);
  if (separator == std::string_view::npos) return std::nullopt;
  std::string_view name = trimmed(body.substr(0, separator));
  std::string_view arguments = body.substr(separator + kToolSeparator.size());
  if (syntax == ToolSyntax::kFenced) {
    const size_t line_end = arguments.find('\n');
    if (name != "function" || line_end == std::string_view::npos) return std::nullopt;
    name = trimmed(arguments.substr(0, line_end));
    const auto inner = without_fence(arguments.substr(line_end));
    if (!inner) return std::nullopt;
    arguments = *inner;
  }
  arguments = trimmed(arguments);
  if (!is_name(name)) return std::nullopt;
  // A key may come twice, as in any JSON that a grammar lets the model write: the client reads it.
  const auto parsed = parse_json(arguments, kMaxArgumentsDepth, RepeatedKey::kLastCounts);
  if (!parsed.ok() || !parsed->is_object()) return std::nullopt;
  return AnswerPart{AnswerPart::Kind::kToolCall, std::string(arguments), std::string(name)};
}

/// What a guided call begins with, before the brace that opens its arguments.
struct CallHead {
  std::string_view name;
  size_t size = 0;
};

/// Nothing if more text has to come or `body` does not begin as a grammar lets calls begin.
std::optional<CallHead> parse_call_head(std::string_view body, ToolSyntax syntax) {
  const size_t separator = body.find(kToolSeparator);
  if (separator == std::string_view::npos) return std::nullopt;
  CallHead head{body.substr(0, separator), separator + kToolSeparator.size()};
  if (syntax == ToolSyntax::kFenced) {
    if (head.name != "function") return std::nullopt;
    const size_t fence = body.find(kOpenFence, head.size);
    if (fence == std::string_view::npos) return std::nullopt;
    head = {body.substr(head.size, fence - head.size), fence + kOpenFence.size()};
  }
  if (!is_name(head.name) || !body.substr(head.size).starts_with('{')) return std::nullopt;
  return head;
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
  if (state_ == State::kCall) {
    end_call(std::exchange(pending_, {}), "", out);
    state_ = State::kCalls;
  }
  if (state_ == State::kCallTail) pending_.clear();  // the beginning of tags
  if (state_ == State::kCalls) {
    // Tags alone are no text, unless they led to no call.
    if (!any_call_here_ || !trimmed(pending_).empty()) {
      emit(AnswerPart::Kind::kContent, unclaimed_ + pending_, out);
    }
  } else {
    emit(in_reasoning() ? AnswerPart::Kind::kReasoning : AnswerPart::Kind::kContent, pending_, out);
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
    case State::kContent:
      if (syntax_.tools == ToolSyntax::kNone) {
        emit(AnswerPart::Kind::kContent, std::exchange(pending_, {}), out);
        return false;
      }
      return text_until(kToolCallsBegin, AnswerPart::Kind::kContent, State::kCalls, out);
    case State::kCalls: return between_calls(out);
    case State::kCall: return within_call(out);
    case State::kArguments: return within_arguments(out);
    case State::kCallTail: return behind_arguments();
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
  if (next == State::kCalls) {
    unclaimed_ = tag;
    any_call_here_ = false;
  }
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
    state_ = State::kCall;
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

bool AnswerParser::within_call(Parts& out) {
  if (syntax_.guided_calls && open_guided_call(out)) return true;
  const size_t at = pending_.find(kToolCallEnd, num_searched_);
  if (at == std::string::npos) {
    // Long arguments come in many pieces: each is searched once.
    num_searched_ = pending_.size() - std::min(pending_.size(), kToolCallEnd.size());
    return false;
  }
  const std::string body = pending_.substr(0, at);
  pending_.erase(0, at + kToolCallEnd.size());
  num_searched_ = 0;
  end_call(body, kToolCallEnd, out);
  state_ = State::kCalls;
  return true;
}

bool AnswerParser::open_guided_call(Parts& out) {
  const auto head = parse_call_head(pending_, syntax_.tools);
  if (!head) return false;
  out.push_back({AnswerPart::Kind::kToolCall, "", std::string(head->name)});
  pending_.erase(0, head->size);
  num_searched_ = 0;
  unclaimed_.clear();
  any_call_here_ = true;
  state_ = State::kArguments;
  return true;
}

bool AnswerParser::within_arguments(Parts& out) {
  size_t size = 0;
  while (size < pending_.size()) {
    const char c = pending_[size++];
    if (in_string_) {
      if (escapes_) {
        escapes_ = false;
      } else if (c == '\\') {
        escapes_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if ((c == '}' || c == ']') && --depth_ == 0) {
      state_ = State::kCallTail;
      break;
    }
  }
  emit(AnswerPart::Kind::kArguments, std::string_view(pending_).substr(0, size), out);
  pending_.erase(0, size);
  return state_ == State::kCallTail;
}

bool AnswerParser::behind_arguments() {
  std::string tail(syntax_.tools == ToolSyntax::kFenced ? kCloseFence : std::string_view());
  tail += kToolCallEnd;
  if (may_become(pending_, tail)) return false;
  if (pending_.starts_with(tail)) pending_.erase(0, tail.size());
  state_ = State::kCalls;  // where what is no tag is content
  return true;
}

void AnswerParser::end_call(std::string_view body, std::string_view end, Parts& out) {
  if (auto call = parse_call(body, syntax_.tools)) {
    out.push_back(*std::move(call));
    any_call_here_ = true;
  } else {
    emit(AnswerPart::Kind::kContent, unclaimed_ + std::string(body) + std::string(end), out);
  }
  unclaimed_.clear();
}

/// Appends text, to the last part if that is of the same kind.
void AnswerParser::emit(AnswerPart::Kind kind, std::string_view text, Parts& out) const {
  if (text.empty()) return;
  if (out.empty() || out.back().kind != kind) out.push_back({kind, "", ""});
  out.back().text += text;
}

}  // namespace troupe::model
