#pragma once

// The HTTP server: sockets, limits, timeouts and draining; what to answer is the service's.
// Boost.Beast and Asio stay behind this header: one file that includes them takes a minute to
// compile.

#include <cstdint>
#include <memory>
#include <string>

#include "actors/client.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "gateway/gateway_model.hpp"

namespace troupe::gateway {

/// Limits that the configuration has too are by default the same as there.
struct ServerOptions {
  std::string host = "127.0.0.1";  ///< an IP address
  uint16_t port = 8000;            ///< 0: any free port, see Server::port()
  std::string version;             ///< for /version and metrics
  uint32_t num_io_threads = 2;
  uint32_t max_connections = 1024;  ///< one more is answered 429 and closed
  size_t max_header_bytes = 16U << 10;
  size_t max_body_bytes = 8U << 20;       ///< also bounds memory: times max_connections
  Duration idle_timeout = seconds(75);    ///< between requests of a connection
  Duration header_timeout = seconds(10);  ///< first to last byte of a header
  Duration body_timeout = seconds(30);    ///< end of header to end of body
  Duration write_timeout = seconds(30);   ///< a client that reads nothing for so long is gone
  Duration ping_interval = seconds(15);   ///< comment lines in a silent event stream
  Duration request_timeout = seconds(300);
  Duration drain_timeout = seconds(10);  ///< stop() waits so long for answers in progress
};

/// Serves until stop() or destruction. `client` and `model` must outlive it.
class Server {
 public:
  virtual ~Server() = default;

  /// The port it listens on.
  [[nodiscard]] virtual uint16_t port() const = 0;

  /// Takes no new connections and requests, lets answers in progress end for drain_timeout, then
  /// interrupts them with an error. Idempotent; blocks at most about drain_timeout + 2 s.
  virtual void stop() = 0;
};

/// Listens and serves on threads of its own.
/// @errors kInvalidArgument for a host that is no address; kUnavailable, naming host and port, if
/// the
///         port is taken.
Result<std::unique_ptr<Server>> start(ServerOptions options, actors::ClusterClient& client,
                                      const GatewayModel& model);

}  // namespace troupe::gateway
