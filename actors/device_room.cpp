#include "actors/device_room.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "actors/router_engine.hpp"
#include "base/memory_room.hpp"
#include "base/rounded_size.hpp"

namespace troupe::actors {
namespace {

constexpr const char* kRouterNeedsLess =
    "lower limits.kv_blocks or limits.max_step_tokens, or set limits.kv_dtype: bf16";
constexpr const char* kShardNeedsLess =
    "more expert shards need less each, and so do experts in fewer bits and a lower "
    "limits.max_step_tokens";

Error no_room(const std::string& what, Error error, const char* remedy) {
  if (error.code != Code::kResourceExhausted) return error;
  error.message +=
      std::string(
          "; another process may have taken it since it was counted: give the node another "
          "device, or let it need less: ") +
      remedy;
  return std::move(error).with_context("taking memory for " + what);
}

/// Of a lane whose steps have at most so many rows, logits of so many of them.
uint64_t bytes_of_lane(const model::ModelConfig& config, uint64_t num_rows, uint64_t num_logits,
                       const RankOf& of) {
  const uint64_t hidden = config.hidden_size, heads = config.num_heads / of.num_ranks;
  const uint64_t topk = config.num_experts_per_tok;
  const bool has_experts = config.has_moe_layer();
  const bool is_first = of.rank == 0;  // which computes the logits
  const uint64_t scored = is_first ? std::min<uint64_t>(num_rows, RouterEngine::kScoredAtOnce) : 0;
  num_logits = is_first ? std::min(num_logits, num_rows) : 0;

  uint64_t of_row = 3 * hidden;  // the residual, normed, what a layer adds
  of_row += config.q_lora_rank;  // queries before and after their up-projection
  of_row += heads * config.qk_head_dim();
  of_row += config.kv_dim();
  of_row += heads * (config.kv_lora_rank + config.qk_rope_head_dim);  // queries of the latent
  of_row += heads * (config.kv_lora_rank + config.v_head_dim);        // what they found
  if (of.num_ranks > 1) {
    const uint64_t all_heads = uint64_t{config.num_heads} * config.v_head_dim;
    of_row += all_heads + hidden / of.num_ranks;  // what all found, what is made of it here
    if (num_rows > 1) of_row += std::max(all_heads, hidden);  // as it comes from all
  }
  if (has_experts) {
    of_row += config.num_routed_experts;  // the gate's logits
    of_row += topk;                       // weights of the chosen
    of_row += topk * hidden;              // what the experts answer
    if (config.num_shared_experts > 0) of_row += hidden;
  }
  uint64_t floats = num_rows * of_row;
  floats += std::max(num_logits, scored) * hidden;  // what the head reads
  floats += (num_logits + scored) * config.vocab_size;
  return floats * sizeof(float) + (has_experts ? num_rows * topk * sizeof(ExpertIdx) : 0);
}

/// "beside 1.03 GiB that operations have reserved, "
std::string beside_reserved(const kernels::Backend& device) {
  if (device.reserved_bytes == 0) return "";
  return "beside " + rounded_size(device.reserved_bytes) + " that operations have reserved, ";
}

}  // namespace

uint32_t most_rows_of_lane(const LargestStep& step, uint32_t lane) {
  // A step of one row is never cut.
  if (lane == 0) return step.micro_batches == 2 ? (step.num_rows + 1) / 2 : step.num_rows;
  return step.micro_batches == 1 ? 0 : step.num_rows / 2;
}

uint64_t activation_bytes_of_router(const model::ModelConfig& config, const LargestStep& step,
                                    const RankOf& of) {
  uint64_t bytes = 0;
  for (uint32_t lane = 0; lane < RouterEngine::kLanes; ++lane) {
    bytes += bytes_of_lane(config, most_rows_of_lane(step, lane), step.num_logits, of);
  }
  return bytes;
}

uint64_t activation_bytes_of_shard(const model::ModelConfig& config, uint64_t num_rows,
                                   uint64_t experts_per_row) {
  // Rows as they come, results by expert, and as they go.
  const uint64_t num_results = num_rows * experts_per_row;
  return (num_rows + 2 * num_results) * config.hidden_size * sizeof(float);
}

std::string place_of(const kernels::Backend& backend, size_t rank) {
  if (backend.num_devices() == 1) return "on the device";
  return "on device " + std::to_string(rank + 1) + " of " + std::to_string(backend.num_devices());
}

Result<void> check_room_of_router(const kernels::Backend& backend, const model::ModelConfig& config,
                                  const model::Checkpoint::Bytes& weights, const KvShape& kv,
                                  const LargestStep& step) {
  for (size_t k = 0; k < backend.num_devices(); ++k) {
    const kernels::Backend& device = backend.of_rank(k);
    const RankOf of{.rank = k, .num_ranks = backend.num_devices()};
    const uint64_t weight_bytes = placed_bytes(weights, of);
    const uint64_t activation_bytes = activation_bytes_of_router(config, step, of);
    TRY(check_memory_room(
        place_of(backend, k) + ", " + beside_reserved(device) + "weights (" +
            rounded_size(weight_bytes) + "), KV blocks (" + rounded_size(kv.blocks_bytes()) +
            ") and activations of the largest step (" + rounded_size(activation_bytes) + ") need",
        weight_bytes + kv.blocks_bytes() + activation_bytes, device.memory->bytes_left(),
        kRouterNeedsLess));
  }
  return {};
}

Error no_room_for_router(const std::string& what, Error error) {
  return no_room(what, std::move(error), kRouterNeedsLess);
}

Result<void> check_room_of_shard(const kernels::Backend& device, uint64_t num_experts,
                                 uint64_t expert_bytes, uint64_t activation_bytes) {
  return check_memory_room(
      "on the device, " + beside_reserved(device) + std::to_string(num_experts) + " experts (" +
          rounded_size(expert_bytes) + ") and activations of the largest batch (" +
          rounded_size(activation_bytes) + ") need",
      expert_bytes + activation_bytes, device.memory->bytes_left(), kShardNeedsLess);
}

Error no_room_for_shard(const std::string& what, Error error) {
  return no_room(what, std::move(error), kShardNeedsLess);
}

}  // namespace troupe::actors
