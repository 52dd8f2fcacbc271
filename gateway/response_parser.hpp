#pragma once

// What a client reads: one HTTP/1.1 answer and the server-sent events in it, from bytes that arrive
// in any pieces. Pure: who reads the bytes, and when, is the caller's. The blocking HttpClient and
// the load generator of `troupe bench` share it, so both understand the same servers.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace troupe::gateway {

struct ClientResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  std::string body;  ///< empty if its events went to a handler

  /// The first header of this (lower-case) name, or "".
  [[nodiscard]] std::string_view header(std::string_view name) const;
};

/// Gets the data of one server-sent event; false ends the stream early.
using EventHandler = std::function<bool(std::string_view data)>;

/// Cuts a text/event-stream into the data of its events. Lines end in LF, CRLF or CR; comments and
/// the fields `event`, `id` and `retry` are skipped; an event that the end cuts off is none.
class SseParser {
 public:
  /// @returns false: the handler has enough. @errors kCorrupt for an event above 16 MiB
  Result<bool> feed(std::string_view bytes, const EventHandler& on_event);

 private:
  bool take_line(std::string_view line, const EventHandler& on_event);

  std::string line_;  ///< the beginning of an unfinished line
  std::string data_;
  bool has_data_ = false;
  bool skip_lf_ = false;  ///< a CR ended the last line; an LF right behind it belongs to it
};

/// Reads one answer: head, body in any framing, trailer.
class ResponseParser {
 public:
  /// @param on_event if set, gets the events of a body of type text/event-stream
  explicit ResponseParser(size_t max_body_bytes, EventHandler on_event = {})
      : max_body_bytes_(max_body_bytes), on_event_(std::move(on_event)) {}

  /// Takes bytes up to the answer's last one; how many those were.
  /// @errors kCorrupt: no HTTP, or cut wrongly; kResourceExhausted: the body is too long
  Result<size_t> feed(std::string_view bytes);

  /// The connection ended. @errors kCorrupt in the middle of an answer
  Result<void> end();

  [[nodiscard]] bool done() const { return state_ == State::kDone; }
  /// Any byte was taken.
  [[nodiscard]] bool begun() const { return begun_; }
  /// After done(): the connection can carry another request.
  [[nodiscard]] bool keeps_alive() const { return keeps_alive_; }
  [[nodiscard]] const ClientResponse& response() const { return response_; }
  [[nodiscard]] ClientResponse take() { return std::move(response_); }

 private:
  enum class State {
    kStatusLine,
    kHeaders,
    kBytes,     ///< `left_` of them
    kToTheEnd,  ///< of the connection
    kChunkSize,
    kChunkBytes,  ///< `left_` of them
    kChunkEnd,    ///< the line break behind them
    kTrailer,
    kDone,
  };

  Result<void> take_line(std::string_view line);
  Result<void> take_status(std::string_view line);
  Result<void> take_header(std::string_view line);
  Result<void> begin_body();
  Result<void> take_body(std::string_view bytes);

  size_t max_body_bytes_;
  EventHandler on_event_;
  State state_ = State::kStatusLine;
  ClientResponse response_;
  SseParser events_;
  std::string line_;
  size_t head_bytes_ = 0;
  uint64_t left_ = 0;
  bool begun_ = false;
  bool is_stream_ = false;
  bool keeps_alive_ = false;
};

}  // namespace troupe::gateway
