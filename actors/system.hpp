#pragma once

// How Troupe sets up CAF: message types, heartbeats, a random node id, few threads that sleep when
// idle. reference: docs/decisions/0002-caf-and-its-traps.md

#include <caf/actor_system_config.hpp>
#include <string>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/time.hpp"

namespace troupe::actors {

struct SystemOptions {
  bool network = false;  ///< load the middleman
  Duration heartbeat_interval = milliseconds(200);
  Duration heartbeat_timeout = milliseconds(1500);
  std::string cluster;  ///< peers of another name are refused while connecting
  size_t num_threads = 2;
};

/// The configuration of a Troupe actor system. Reads no file and no command line.
class SystemConfig : public caf::actor_system_config {
 public:
  explicit SystemConfig(const SystemOptions& options);
};

/// Random 64 bits that name this life of this process; never 0.
NodeId fresh_node_id();

/// Connects to a port within `timeout` and closes again: CAF's own connect can block its whole
/// process for two minutes where packets are dropped.
/// @errors kUnavailable naming host, port and cause.
Result<void> probe_tcp(const std::string& host, uint16_t port, Duration timeout);

/// CAF ends only when all is sent, and to a peer that has silently gone TCP tries for a quarter of
/// an hour. Has the kernel give up after `timeout` on this process's connections at `port`, at
/// either end, and on those it will accept there. Called after CAF has listened or connected.
void bound_delivery(uint16_t port, Duration timeout);

}  // namespace troupe::actors
