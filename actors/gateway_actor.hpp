#pragma once

// The gateway's side of the cluster: one actor per gateway process, which knows the handler of each
// open stream, and the ClusterClient that the HTTP server calls.

#include <caf/all.hpp>
#include <memory>

#include "actors/client.hpp"

namespace troupe::actors {

/// Makes a client of the scheduler actor; spawns the gateway actor. The client may be used from any
/// thread and must not outlive the actor system.
std::unique_ptr<ClusterClient> make_cluster_client(caf::actor_system& system, caf::actor scheduler);

}  // namespace troupe::actors
