#include "actors/placed_weights.hpp"

#include <string>
#include <utility>

#include "kernels/placed_weights.hpp"

namespace troupe::actors {
namespace {

using kernels::PlacedWeights;

Result<model::FfnWeights> place_in(PlacedWeights& placed, const model::FfnWeights& ffn) {
  return model::FfnWeights{.gate = TRY(placed.place(ffn.gate)),
                           .up = TRY(placed.place(ffn.up)),
                           .down = TRY(placed.place(ffn.down))};
}

/// The outputs of a matrix that one of the devices computes.
Result<WeightView> part_of(const WeightView& w, const char* name, const RankOf& of) {
  if (w.empty() || of.num_ranks == 1) return w;
  const size_t count = w.out / of.num_ranks;
  if (w.out % of.num_ranks != 0 || count % w.outputs_together() != 0) {
    return Error{Code::kUnsupported,
                 std::to_string(of.num_ranks) + " devices cannot share " + name + " [" +
                     std::to_string(w.out) + ", " + std::to_string(w.in) + "] in " +
                     std::string(to_string(w.dtype)) + ": each computes as many outputs, by " +
                     std::to_string(w.outputs_together()) + "; name fewer devices"};
  }
  return w.outputs(of.rank * count, count);
}

std::span<const float> part_of(std::span<const float> values, const RankOf& of) {
  const size_t count = values.size() / of.num_ranks;
  return values.subspan(of.rank * count, count);
}

Result<model::AttentionWeightsOf<const float*>> place_in(PlacedWeights& placed,
                                                         const model::AttentionWeights& w,
                                                         const RankOf& of) {
  const WeightView q = TRY(part_of(w.q, "q_proj", of));
  const WeightView q_b = TRY(part_of(w.q_b, "q_b_proj", of));
  const WeightView uk_t = TRY(part_of(w.uk_t, "the keys of kv_b_proj", of));
  const WeightView uv = TRY(part_of(w.uv, "the values of kv_b_proj", of));
  const WeightView o = TRY(part_of(w.o, "o_proj", of));
  return model::AttentionWeightsOf<const float*>{.input_norm = TRY(placed.place(w.input_norm)),
                                                 .q = TRY(placed.place(q)),
                                                 .q_a = TRY(placed.place(w.q_a)),
                                                 .q_a_bias = TRY(placed.place(w.q_a_bias)),
                                                 .q_a_norm = TRY(placed.place(w.q_a_norm)),
                                                 .q_b = TRY(placed.place(q_b)),
                                                 .kv_a = TRY(placed.place(w.kv_a)),
                                                 .kv_a_bias = TRY(placed.place(w.kv_a_bias)),
                                                 .kv_a_norm = TRY(placed.place(w.kv_a_norm)),
                                                 .uk_t = TRY(placed.place(uk_t)),
                                                 .uv = TRY(placed.place(uv)),
                                                 .kv_b = TRY(placed.place(part_of(w.kv_b, of))),
                                                 .o = TRY(placed.place(o)),
                                                 .o_bias = TRY(placed.place(part_of(w.o_bias, of))),
                                                 .post_norm = TRY(placed.place(w.post_norm))};
}

Result<model::LayerWeightsOf<const float*>> place_in(PlacedWeights& placed,
                                                     const model::LayerWeights& w,
                                                     const RankOf& of) {
  return model::LayerWeightsOf<const float*>{.attention = TRY(place_in(placed, w.attention, of)),
                                             .dense = TRY(place_in(placed, w.dense)),
                                             .gate = TRY(placed.place(w.gate)),
                                             .gate_bias = TRY(placed.place(w.gate_bias)),
                                             .shared = TRY(place_in(placed, w.shared))};
}

}  // namespace

Result<void> check_limits(const model::ModelConfig& config, const kernels::Ops& ops) {
  const kernels::Limits limits = ops.limits();
  struct Size {
    const char* key;
    size_t value;
    size_t most;
  };
  for (const Size& size :
       {Size{"kv_lora_rank", config.kv_lora_rank, limits.kv_rank},
        Size{"qk_rope_head_dim", config.qk_rope_head_dim, limits.rope_dim},
        Size{"n_routed_experts", config.num_routed_experts, limits.num_experts}}) {
    if (size.value <= size.most) continue;
    return Error{Code::kUnsupported, std::string(size.key) + " is " + std::to_string(size.value) +
                                         "; " + ops.arithmetic_class() + " computes up to " +
                                         std::to_string(size.most) + ", CPUs any"};
  }
  return {};
}

Result<void> check_devices(const model::ModelConfig& config, size_t num_devices) {
  for (const auto& [key, size] :
       {std::pair<const char*, size_t>{"num_attention_heads", config.num_heads},
        {"hidden_size", config.hidden_size}}) {
    if (size % num_devices == 0) continue;
    return Error{Code::kUnsupported,
                 std::string(key) + " is " + std::to_string(size) + ", and " +
                     std::to_string(num_devices) +
                     " devices cannot share it evenly: name as many as divide it"};
  }
  return {};
}

uint64_t placed_bytes(const model::Checkpoint::Bytes& bytes, const RankOf& of) {
  const uint64_t elsewhere = bytes.by_outputs - bytes.by_outputs / of.num_ranks;
  return bytes.all - elsewhere - (of.rank > 0 ? bytes.head : 0);
}

Result<std::shared_ptr<const PlacedRouter>> place(
    const std::shared_ptr<const model::RouterWeights>& weights, kernels::Memory& memory,
    const RankOf& of) {
  const auto placed = std::make_shared<PlacedWeights>(memory, weights);
  auto router = std::make_shared<PlacedRouter>();
  router->embedding = TRY(placed->place(weights->embedding));
  router->final_norm = TRY(placed->place(weights->final_norm));
  if (of.rank == 0) router->head = TRY(placed->place(weights->head));
  for (const model::LayerWeights& layer : weights->layers) {
    router->layers.push_back(TRY(place_in(*placed, layer, of)));
  }
  router->storage = placed;
  return std::shared_ptr<const PlacedRouter>(std::move(router));
}

Result<model::ExpertWeights> place(const model::ExpertWeights& weights, kernels::Memory& memory) {
  const auto placed = std::make_shared<PlacedWeights>(memory, weights.storage);
  return model::ExpertWeights{.ffn = TRY(place_in(*placed, weights.ffn)), .storage = placed};
}

}  // namespace troupe::actors
