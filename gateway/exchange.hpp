#pragma once

// What passes between the HTTP server, which knows sockets, and the service, which knows requests:
// a request read whole, an answer written whole, or an exchange whose answer comes over time.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/time.hpp"
#include "gateway/api_error.hpp"

namespace troupe::gateway {

struct HttpRequest {
  std::string method;             ///< "GET"
  std::string target;             ///< as sent: "/v1/models/a%2Fb?x=y"
  std::string content_type;       ///< "" if absent
  std::string request_id;         ///< printable, 1 .. 128 bytes
  std::string api_key;            ///< of Authorization: Bearer, "" if absent; not checked by anyone
  std::string timeout;            ///< X-Request-Timeout, "" if absent
  std::string preflight_headers;  ///< Access-Control-Request-Headers, "" if absent
  std::string body;
  bool is_retry = false;  ///< X-Stainless-Retry-Count > 0
  Instant arrived;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};

/// The answer that says `error`, with Retry-After and x-should-retry where they belong.
HttpResponse error_response(const ApiError& error);

/// An answer that takes time. Used by one connection: start once, then poll after each wake and at
/// least every ping interval, until done or abandoned. Not thread-safe but for the wake.
class Exchange {
 public:
  virtual ~Exchange() = default;

  /// What poll() found. At most one of response and events is set.
  struct Progress {
    std::optional<HttpResponse> response;  ///< the whole answer; nothing was streamed before
    std::string events;                    ///< more of a text/event-stream; opens it if first
    bool done = false;                     ///< nothing more will come
  };

  /// `wake` may be called from any thread until abandon() or the end, and must not block.
  virtual void start(std::function<void()> wake) = 0;
  virtual Progress poll(Instant now) = 0;
  /// The client is gone: stops the work. Harmless after the end.
  virtual void abandon(Instant now) = 0;
  /// The server must stop: stops the work and says so as the last of the answer.
  virtual Progress interrupt(const ApiError& reason, Instant now) = 0;
};

using Answer = std::variant<HttpResponse, std::unique_ptr<Exchange>>;

}  // namespace troupe::gateway
