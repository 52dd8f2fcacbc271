#pragma once

// What the nodes of a configuration take of their machine's memory: the KV of routers, and weights
// by where the placement puts them before any load is known. Knows no actors.

#include <span>
#include <vector>

#include "actors/kv_store.hpp"
#include "base/result.hpp"
#include "cluster/config.hpp"
#include "cluster/memory_needs.hpp"
#include "model/config.hpp"
#include "model/weights.hpp"

namespace troupe::actors {

/// Of a router of this configuration.
KvShape kv_shape(const cluster::ClusterConfig& config, const model::ModelConfig& model);

/// Weights as a checkpoint has them.
struct WeightBytes {
  model::Checkpoint::Bytes router;
  /// [num_layers * num_routed_experts]; nothing in dense layers
  std::vector<model::Checkpoint::Bytes> experts;
};
/// Looks at no data. @errors those of Checkpoint::bytes_of_router()
Result<WeightBytes> weight_bytes(const model::Checkpoint& checkpoint);

/// What a router and its KV take.
cluster::NodeMemory memory_of_router(const cluster::NodeConfig& node, const KvShape& kv,
                                     const model::Checkpoint::Bytes& weights);

/// @param nodes of the configuration: those on this machine. All of its expert shards share the
///        experts, wherever they are.
/// @errors those of place_as_configured()
Result<cluster::MemoryNeeds> memory_of_nodes(const cluster::ClusterConfig& config,
                                             std::span<const cluster::NodeConfig> nodes,
                                             const model::ModelConfig& model,
                                             const WeightBytes& weights);
/// With the weights of an opened checkpoint. @errors those of weight_bytes(), too
Result<cluster::MemoryNeeds> memory_of_nodes(const cluster::ClusterConfig& config,
                                             std::span<const cluster::NodeConfig> nodes,
                                             const model::Checkpoint& checkpoint);

}  // namespace troupe::actors
