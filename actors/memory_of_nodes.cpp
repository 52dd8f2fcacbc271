#include "actors/memory_of_nodes.hpp"

#include "actors/expert_balance.hpp"

namespace troupe::actors {

KvShape kv_shape(const cluster::ClusterConfig& config, const model::ModelConfig& model) {
  return {.num_layers = model.num_layers,
          .num_blocks = config.kv_blocks,
          .block_tokens = config.kv_block_tokens,
          .kv_dim = model.kv_dim(),
          .num_host_slots = config.kv_host_blocks,
          .dtype = config.kv_dtype};
}

Result<WeightBytes> weight_bytes(const model::Checkpoint& checkpoint) {
  const model::ModelConfig& model = checkpoint.config();
  WeightBytes bytes{.router = TRY(checkpoint.bytes_of_router()),
                    .experts = std::vector<model::Checkpoint::Bytes>(size_t{model.num_layers} *
                                                                     model.num_routed_experts)};
  for (LayerIdx layer = 0; layer < model.num_layers; ++layer) {
    if (!model.is_moe_layer(layer)) continue;
    for (ExpertIdx expert = 0; expert < model.num_routed_experts; ++expert) {
      bytes.experts[size_t{layer} * model.num_routed_experts + expert] =
          TRY(checkpoint.bytes_of_expert(layer, expert));
    }
  }
  return bytes;
}

cluster::NodeMemory memory_of_router(const cluster::NodeConfig& node, const KvShape& kv,
                                     const model::Checkpoint::Bytes& weights) {
  return {.node = node.name,
          .kv_blocks = node.device.has_gpus() ? 0 : kv.blocks_bytes(),
          .kv_host_blocks = kv.host_slots_bytes(),
          .copies = weights.own};
}

Result<cluster::MemoryNeeds> memory_of_nodes(const cluster::ClusterConfig& config,
                                             std::span<const cluster::NodeConfig> nodes,
                                             const model::ModelConfig& model,
                                             const WeightBytes& weights) {
  const ConfiguredPlacement placed = TRY(place_as_configured(config, model));
  cluster::MemoryNeeds needs;
  bool router_is_mapped = false;
  std::vector<bool> expert_is_mapped(weights.experts.size());
  const auto map = [&](const model::Checkpoint::Bytes& bytes) {
    needs.mapped += bytes.all - bytes.own;
  };
  for (const cluster::NodeConfig& node : nodes) {
    if (node.role == cluster::Role::kRouter) {
      needs.nodes.push_back(memory_of_router(node, kv_shape(config, model), weights.router));
      if (!node.device.has_gpus() && !router_is_mapped) map(weights.router);
      router_is_mapped = router_is_mapped || !node.device.has_gpus();
      continue;
    }
    cluster::NodeMemory& memory = needs.nodes.emplace_back(cluster::NodeMemory{.node = node.name});
    if (node.device.has_gpus()) continue;  // takes one expert after the other there
    for (const experts::ExpertKey& key : placed.placement.held_by(placed.shards.at(node.name))) {
      const size_t i = size_t{key.layer} * model.num_routed_experts + key.expert;
      memory.copies += weights.experts[i].own;
      if (!expert_is_mapped[i]) map(weights.experts[i]);
      expert_is_mapped[i] = true;
    }
  }
  return needs;
}

Result<cluster::MemoryNeeds> memory_of_nodes(const cluster::ClusterConfig& config,
                                             std::span<const cluster::NodeConfig> nodes,
                                             const model::Checkpoint& checkpoint) {
  return memory_of_nodes(config, nodes, checkpoint.config(), TRY(weight_bytes(checkpoint)));
}

}  // namespace troupe::actors
