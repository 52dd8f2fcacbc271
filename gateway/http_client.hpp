#pragma once

// A small blocking HTTP/1.1 client for `troupe status`, `troupe chat` and tests: one connection per
// request, http only. Own code on plain sockets because Beast would cost a minute of compiling and
// its blocking calls know no timeouts.

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "base/time.hpp"
#include "gateway/response_parser.hpp"

namespace troupe::gateway {

struct ClientOptions {
  Duration connect_timeout = seconds(5);
  Duration silence_timeout = seconds(120);  ///< longest wait for the next bytes
  size_t max_body_bytes = 64U << 20;
};

/// What a Host header and a URL name a server by: "127.0.0.1:80", "[::1]:80".
/// @param host without brackets
std::string authority(const std::string& host, const std::string& port);

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

  [[nodiscard]] const std::string& host() const { return host_; }
  [[nodiscard]] const std::string& port() const { return port_; }
  /// What comes before every request's path, without a slash at its end.
  [[nodiscard]] const std::string& base_path() const { return base_path_; }

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
