#pragma once

// What a node takes of its device's memory beside weights and KV blocks, counted before anything is
// copied there: a step that finds no room ends the process. Arrays of activations grow to the
// largest step or batch (kernels/array.hpp), so the shapes of that one bound them. Counts are pure.

#include <cstdint>
#include <string>

#include "actors/forward.hpp"
#include "actors/kv_store.hpp"
#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "model/config.hpp"

namespace troupe::actors {

/// The largest step of a router.
struct LargestStep {
  uint32_t num_rows = 0;       ///< limits.max_step_tokens
  uint32_t num_logits = 0;     ///< rows whose token is chosen: limits.max_running
  uint32_t micro_batches = 0;  ///< 1 or 2; 0: either
};

/// Bytes on a device that all lanes of a RouterEngine come to hold, in the absorbed form of
/// attention, weights and KV blocks left out. Of several devices that compute a router together the
/// first takes most: logits. Reached when the largest step has run, cut as well as whole if it may
/// be, and scored tokens of a prompt.
uint64_t activation_bytes_of_router(const model::ModelConfig& config, const LargestStep& step,
                                    const RankOf& of = {});

/// The same of a ShardEngine: batches of so many rows, each for at most so many of its experts.
uint64_t activation_bytes_of_shard(const model::ModelConfig& config, uint64_t num_rows,
                                   uint64_t experts_per_row);

/// "on the device", or "on device 2 of 4" where several compute together.
std::string place_of(const kernels::Backend& backend, size_t rank);

/// Whether a router fits on each of its devices. Where nobody knows what is free, it is taken to
/// fit. @param weights of the router
/// @errors kResourceExhausted, naming each part, what is free, and what to lower
Result<void> check_room_of_router(const kernels::Backend& backend, const model::ModelConfig& config,
                                  const model::Checkpoint::Bytes& weights, const KvShape& kv,
                                  const LargestStep& step);

/// The same of an expert shard, which holds others already. @param num_experts that it still lacks
Result<void> check_room_of_shard(const kernels::Backend& device, uint64_t num_experts,
                                 uint64_t expert_bytes, uint64_t activation_bytes);

}  // namespace troupe::actors
