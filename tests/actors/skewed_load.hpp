#pragma once

#include "actors/messages.hpp"
#include "base/random.hpp"
#include "model/config.hpp"

namespace troupe::actors {

/// What a shard might tell the head: some experts are very busy, others in each `round`, and busier
/// than any before. Then there is a better placement.
inline ExpertLoadReport skewed_load(const model::ModelConfig& config, NodeId shard,
                                    uint64_t round) {
  ExpertLoadReport report{.node = shard, .rows = {}};
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    for (ExpertIdx expert = 0; expert < config.num_routed_experts; ++expert) {
      const uint64_t rank = 1 + random_bits(round, layer, expert) % 1'000;
      report.rows.push_back({{layer, expert}, 1'000'000'000'000 * (round + 1) / rank});
    }
  }
  return report;
}

}  // namespace troupe::actors
