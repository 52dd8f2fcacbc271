#pragma once

// A small blocking HTTP/1.1 client for `troupe status`, `troupe chat` and tests: one connection per
// request, http only. Own code on plain sockets because Beast would cost a minute of compiling and
// its blocking calls know no timeouts.

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/time.hpp"

namespace troupe::gateway {

struct ClientResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;  ///< names in lower case
  std::string body;  ///< empty if its events went to a handler

  /// The first header of this (lower-case) name, or "".
  [[nodiscard]] std::string_view header(std::string_view name) const;
};

struct ClientOptions {
  Duration connect_timeout = seconds(5);
  Duration silence_timeout = seconds(120);  ///< longest wait for the next bytes
  size_t max_body_bytes = 64U << 20;
};

class HttpClient {
 public:
  /// @param base_url "http://127.0.0.1:8000", maybe with a path that comes before every request's
  /// @errors kInvalidArgument for anything but http://HOST[:PORT][/PATH]
  static Result<HttpClient> create(std::string_view base_url, ClientOptions options = {});

  /// @errors kUnavailable if there is no connection; kDeadlineExceeded; kCorrupt if the answer is
  /// no
  ///         HTTP. An answer with an error status is an answer.
  Result<ClientResponse> get(std::string_view path) const;
  Result<ClientResponse> post(std::string_view path, std::string_view json) const;

  /// Gets the data of one server-sent event; false ends the stream early.
  using EventHandler = std::function<bool(std::string_view data)>;

  /// As post(), but an answer of type text/event-stream goes to `on_event`, event by event.
  Result<ClientResponse> post_stream(std::string_view path, std::string_view json,
                                     const EventHandler& on_event) const;

 private:
  HttpClient() = default;
  Result<ClientResponse> exchange(std::string_view method, std::string_view path,
                                  std::string_view body, const EventHandler* on_event) const;

  std::string host_;
  std::string port_;
  std::string base_path_;  ///< without a slash at its end
  ClientOptions options_;
};

}  // namespace troupe::gateway
