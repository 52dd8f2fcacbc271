#pragma once

// What `troupe doctor` reads of this machine. A reading that fails is a fact, too.

#include <filesystem>
#include <string>
#include <vector>

#include "cluster/machine_findings.hpp"

namespace troupe::apps {

/// Everything but `cluster`. Starts nothing and changes nothing; UCX opens its devices for a
/// moment.
/// @param net_devices of UCX, as a node would choose them; "": all there are
cluster::MachineFacts read_machine(const std::string& net_devices);

/// What the configuration asks of this machine. Listens on its ports for a moment.
/// @param names of nodes that run here; none: all of them if the head is on the loopback interface
/// @errors kInvalidArgument if a name is no node's
Result<cluster::ClusterFacts> read_cluster(const cluster::ClusterConfig& config,
                                           const std::vector<std::string>& names);

}  // namespace troupe::apps
