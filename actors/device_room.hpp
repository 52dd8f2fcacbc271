#pragma once

// What a node takes of its device's memory beside weights and KV blocks, counted before anything is
// copied there, and taken before the first step or batch, so that those allocate nothing of it. Two
// nodes that start together may count the same bytes as free: then taking them is an error, too;
// in a step what finds no room ends the process (kernels/array.hpp). Counts are pure.

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

/// Rows of a lane's steps at most: the first has whole steps or the larger halves, the second the
/// other halves.
uint32_t most_rows_of_lane(const LargestStep& step, uint32_t lane);

/// Bytes on a device that all lanes of a RouterEngine come to hold, in the absorbed form of
/// attention, weights and KV blocks left out. Of several devices that compute a router together the
/// first takes most: logits. RouterEngine::make() takes them.
uint64_t activation_bytes_of_router(const model::ModelConfig& config, const LargestStep& step,
                                    const RankOf& of = {});

/// The same of a ShardEngine, which takes them when it has its experts: batches of so many rows,
/// each for at most so many of its experts.
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

/// The error of an allocation that failed in spite of that check, with what it was for and what to
/// do; any other error as it is. @param what "weights"
Error no_room_for_router(const std::string& what, Error error);

/// The same of an expert shard, which holds others already. @param num_experts that it still lacks
Result<void> check_room_of_shard(const kernels::Backend& device, uint64_t num_experts,
                                 uint64_t expert_bytes, uint64_t activation_bytes);
Error no_room_for_shard(const std::string& what, Error error);

}  // namespace troupe::actors
