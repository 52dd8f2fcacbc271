#include "actors/placed_weights.hpp"

#include <string>

#include "kernels/placed_weights.hpp"

namespace troupe::actors {
namespace {

using kernels::PlacedWeights;

Result<model::FfnWeights> place_in(PlacedWeights& placed, const model::FfnWeights& ffn) {
  return model::FfnWeights{.gate = TRY(placed.place(ffn.gate)),
                           .up = TRY(placed.place(ffn.up)),
                           .down = TRY(placed.place(ffn.down))};
}

Result<model::AttentionWeightsOf<const float*>> place_in(PlacedWeights& placed,
                                                         const model::AttentionWeights& w) {
  return model::AttentionWeightsOf<const float*>{.input_norm = TRY(placed.place(w.input_norm)),
                                                 .q = TRY(placed.place(w.q)),
                                                 .q_a = TRY(placed.place(w.q_a)),
                                                 .q_a_bias = TRY(placed.place(w.q_a_bias)),
                                                 .q_a_norm = TRY(placed.place(w.q_a_norm)),
                                                 .q_b = TRY(placed.place(w.q_b)),
                                                 .kv_a = TRY(placed.place(w.kv_a)),
                                                 .kv_a_bias = TRY(placed.place(w.kv_a_bias)),
                                                 .kv_a_norm = TRY(placed.place(w.kv_a_norm)),
                                                 .uk_t = TRY(placed.place(w.uk_t)),
                                                 .uv = TRY(placed.place(w.uv)),
                                                 .kv_b = TRY(placed.place(w.kv_b)),
                                                 .o = TRY(placed.place(w.o)),
                                                 .o_bias = TRY(placed.place(w.o_bias)),
                                                 .post_norm = TRY(placed.place(w.post_norm))};
}

Result<model::LayerWeightsOf<const float*>> place_in(PlacedWeights& placed,
                                                     const model::LayerWeights& w) {
  return model::LayerWeightsOf<const float*>{.attention = TRY(place_in(placed, w.attention)),
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

Result<std::shared_ptr<const PlacedRouter>> place(
    const std::shared_ptr<const model::RouterWeights>& weights, kernels::Memory& memory) {
  const auto placed = std::make_shared<PlacedWeights>(memory, weights);
  auto router = std::make_shared<PlacedRouter>();
  router->embedding = TRY(placed->place(weights->embedding));
  router->final_norm = TRY(placed->place(weights->final_norm));
  router->head = TRY(placed->place(weights->head));
  for (const model::LayerWeights& layer : weights->layers) {
    router->layers.push_back(TRY(place_in(*placed, layer)));
  }
  router->storage = placed;
  return std::shared_ptr<const PlacedRouter>(std::move(router));
}

Result<model::ExpertWeights> place(const model::ExpertWeights& weights, kernels::Memory& memory) {
  const auto placed = std::make_shared<PlacedWeights>(memory, weights.storage);
  return model::ExpertWeights{.ffn = TRY(place_in(*placed, weights.ffn)), .storage = placed};
}

}  // namespace troupe::actors
