#include "gateway/response_parser.hpp"

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/parse.hpp"

namespace troupe::gateway {
namespace {

constexpr size_t kMaxHeadBytes = 64U << 10;
constexpr size_t kMaxEventBytes = 16U << 20;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

/// What a chunk's first line begins with; extensions may stand behind it.
std::optional<uint64_t> chunk_size(std::string_view text) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

Error corrupt(const char* what) { return Error{Code::kCorrupt, what}; }

}  // namespace

std::string_view ClientResponse::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "";
}

Result<bool> SseParser::feed(std::string_view bytes, const EventHandler& on_event) {
  while (!bytes.empty()) {
    if (skip_lf_ && bytes.front() == '\n') bytes.remove_prefix(1);
    skip_lf_ = false;
    const size_t end = bytes.find_first_of("\r\n");
    const std::string_view piece = bytes.substr(0, end);
    if (line_.size() + data_.size() + piece.size() > kMaxEventBytes) {
      return corrupt("an event of the stream is too long");
    }
    if (end == std::string_view::npos) {
      line_ += piece;
      return true;
    }
    skip_lf_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    bool wants_more = false;
    if (line_.empty()) {
      wants_more = take_line(piece, on_event);  // the usual case: a whole line, not copied
    } else {
      line_ += piece;
      wants_more = take_line(line_, on_event);
      line_.clear();
    }
    if (!wants_more) return false;
  }
  return true;
}

bool SseParser::take_line(std::string_view line, const EventHandler& on_event) {
  if (line.empty()) {
    if (!has_data_) return true;
    has_data_ = false;
    const bool wants_more = on_event(data_);
    data_.clear();
    return wants_more;
  }
  if (!line.starts_with("data:")) return true;
  line.remove_prefix(5);
  if (line.starts_with(' ')) line.remove_prefix(1);
  if (has_data_) data_ += '\n';
  data_ += line;
  has_data_ = true;
  return true;
}

Result<size_t> ResponseParser::feed(std::string_view bytes) {
  const size_t offered = bytes.size();
  if (offered > 0) begun_ = true;
  while (!bytes.empty() && state_ != State::kDone) {
    if (state_ == State::kToTheEnd) {
      TRY(take_body(bytes));
      return offered;
    }
    if (state_ == State::kBytes || state_ == State::kChunkBytes) {
      const auto piece = bytes.substr(0, std::min<uint64_t>(left_, bytes.size()));
      bytes.remove_prefix(piece.size());
      left_ -= piece.size();
      TRY(take_body(piece));
      if (left_ == 0 && state_ == State::kBytes) state_ = State::kDone;
      if (left_ == 0 && state_ == State::kChunkBytes) state_ = State::kChunkEnd;
      continue;
    }
    const size_t end = bytes.find('\n');
    line_ += bytes.substr(0, end);
    head_bytes_ += std::min(end, bytes.size());
    if (head_bytes_ > kMaxHeadBytes) return corrupt("the answer's header is too long");
    bytes.remove_prefix(end == std::string_view::npos ? bytes.size() : end + 1);
    if (end == std::string_view::npos) break;
    if (line_.ends_with('\r')) line_.pop_back();
    TRY(take_line(line_));
    line_.clear();
  }
  return offered - bytes.size();
}

Result<void> ResponseParser::end() {
  keeps_alive_ = false;
  if (state_ == State::kToTheEnd) state_ = State::kDone;
  if (state_ == State::kDone) return {};
  return corrupt(begun_ ? "the answer ended in the middle" : "the connection ended unanswered");
}

Result<void> ResponseParser::take_line(std::string_view line) {
  switch (state_) {
    case State::kStatusLine: return take_status(line);
    case State::kHeaders: return line.empty() ? begin_body() : take_header(line);
    case State::kChunkSize: {
      const auto size = chunk_size(line);
      if (!size) return corrupt("the answer has a broken chunk");
      left_ = *size;
      head_bytes_ = 0;
      state_ = left_ == 0 ? State::kTrailer : State::kChunkBytes;
      return {};
    }
    case State::kChunkEnd:
      if (!line.empty()) return corrupt("the answer has a broken chunk");
      state_ = State::kChunkSize;
      return {};
    case State::kTrailer:
      if (line.empty()) state_ = State::kDone;
      return {};
    default: return {};
  }
}

Result<void> ResponseParser::take_status(std::string_view line) {
  const auto code = line.size() >= 12 && line.starts_with("HTTP/1.")
                        ? parse_number<uint32_t>(line.substr(9, 3))
                        : std::nullopt;
  if (!code || *code < 100) return corrupt("the answer is no HTTP");
  response_.status = static_cast<int>(*code);
  keeps_alive_ = line[7] != '0';
  state_ = State::kHeaders;
  return {};
}

Result<void> ResponseParser::take_header(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return corrupt("the answer has a broken header");
  response_.headers.emplace_back(lower(line.substr(0, colon)), trimmed(line.substr(colon + 1)));
  return {};
}

Result<void> ResponseParser::begin_body() {
  if (response_.status < 200) {  // "100 Continue": the answer comes behind it
    response_ = {};
    state_ = State::kStatusLine;
    return {};
  }
  const std::string connection = lower(response_.header("connection"));
  if (connection == "close") keeps_alive_ = false;
  if (connection == "keep-alive") keeps_alive_ = true;
  is_stream_ = on_event_ && response_.header("content-type").starts_with("text/event-stream");
  head_bytes_ = 0;
  if (response_.status == 204 || response_.status == 304) {
    state_ = State::kDone;
  } else if (lower(response_.header("transfer-encoding")) == "chunked") {
    state_ = State::kChunkSize;
  } else if (const auto text = response_.header("content-length"); !text.empty()) {
    const auto size = parse_number<uint64_t>(text);
    if (!size) return corrupt("the answer has a broken Content-Length");
    left_ = *size;
    state_ = left_ == 0 ? State::kDone : State::kBytes;
  } else {
    keeps_alive_ = false;
    state_ = State::kToTheEnd;
  }
  return {};
}

Result<void> ResponseParser::take_body(std::string_view bytes) {
  if (is_stream_) {
    if (!TRY(events_.feed(bytes, on_event_))) {
      keeps_alive_ = false;
      state_ = State::kDone;
    }
    return {};
  }
  if (response_.body.size() + bytes.size() > max_body_bytes_) {
    return Error{Code::kResourceExhausted,
                 "the answer is longer than " + std::to_string(max_body_bytes_) + " bytes"};
  }
  response_.body += bytes;
  return {};
}

}  // namespace troupe::gateway
