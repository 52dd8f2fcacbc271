#include "model/layout.hpp"

namespace troupe::model {
namespace {

std::string layer_prefix(LayerIdx layer) { return "model.layers." + std::to_string(layer) + "."; }

Result<void> visit_ffn(const std::string& prefix, uint64_t inner, uint64_t hidden,
                       TensorVisitor& visitor, FfnWeights& ffn) {
  TRY(visitor.matrix(prefix + "gate_proj.weight", inner, hidden, ffn.gate));
  TRY(visitor.matrix(prefix + "up_proj.weight", inner, hidden, ffn.up));
  return visitor.matrix(prefix + "down_proj.weight", hidden, inner, ffn.down);
}

Result<void> visit_queries(const ModelConfig& config, const std::string& prefix,
                           TensorVisitor& visitor, AttentionWeights& weights) {
  const uint64_t hidden = config.hidden_size;
  const uint64_t rank = config.q_lora_rank;
  const uint64_t out = uint64_t{config.num_heads} * config.qk_head_dim();
  if (rank == 0) {
    return visitor.matrix(prefix + "q_proj.weight", out, hidden, weights.q);
  }
  TRY(visitor.matrix(prefix + "q_a_proj.weight", rank, hidden, weights.q_a));
  if (config.attention_bias) {
    TRY(visitor.floats(prefix + "q_a_proj.bias", {rank}, weights.q_a_bias));
  }
  TRY(visitor.floats(prefix + "q_a_layernorm.weight", {rank}, weights.q_a_norm));
  return visitor.matrix(prefix + "q_b_proj.weight", out, rank, weights.q_b);
}

Result<void> visit_attention(const ModelConfig& config, LayerIdx layer, TensorVisitor& visitor,
                             AttentionWeights& weights) {
  const uint64_t hidden = config.hidden_size;
  const uint64_t heads = config.num_heads;
  const uint64_t latent = config.kv_lora_rank;
  const std::string prefix = layer_prefix(layer) + "self_attn.";
  TRY(visitor.floats(layer_prefix(layer) + "input_layernorm.weight", {hidden}, weights.input_norm));
  TRY(visit_queries(config, prefix, visitor, weights));
  TRY(visitor.matrix(prefix + "kv_a_proj_with_mqa.weight", config.kv_dim(), hidden, weights.kv_a));
  if (config.attention_bias) {
    TRY(visitor.floats(prefix + "kv_a_proj_with_mqa.bias", {config.kv_dim()}, weights.kv_a_bias));
    TRY(visitor.floats(prefix + "o_proj.bias", {hidden}, weights.o_bias));
  }
  TRY(visitor.floats(prefix + "kv_a_layernorm.weight", {latent}, weights.kv_a_norm));
  TRY(visitor.key_value(prefix + "kv_b_proj",
                        {heads, config.qk_nope_head_dim, config.v_head_dim, latent}, weights));
  TRY(visitor.matrix(prefix + "o_proj.weight", hidden, heads * config.v_head_dim, weights.o));
  return visitor.floats(layer_prefix(layer) + "post_attention_layernorm.weight", {hidden},
                        weights.post_norm);
}

Result<void> visit_layer(const ModelConfig& config, LayerIdx layer, TensorVisitor& visitor,
                         LayerWeights& weights) {
  const uint64_t hidden = config.hidden_size;
  const uint64_t experts = config.num_routed_experts;
  const std::string prefix = layer_prefix(layer) + "mlp.";
  TRY(visit_attention(config, layer, visitor, weights.attention));
  if (!config.is_moe_layer(layer)) {
    return visit_ffn(prefix, config.intermediate_size, hidden, visitor, weights.dense);
  }
  TRY(visitor.floats(prefix + "gate.weight", {experts, hidden}, weights.gate));
  if (config.topk_method == TopkMethod::kNoauxTc) {
    TRY(visitor.floats(prefix + "gate.e_score_correction_bias", {experts}, weights.gate_bias));
  }
  if (config.num_shared_experts == 0) {
    return {};
  }
  const uint64_t shared = uint64_t{config.num_shared_experts} * config.moe_intermediate_size;
  return visit_ffn(prefix + "shared_experts.", shared, hidden, visitor, weights.shared);
}

}  // namespace

Result<void> visit_router(const ModelConfig& config, TensorVisitor& visitor,
                          RouterWeights& weights) {
  const uint64_t hidden = config.hidden_size;
  const uint64_t vocab = config.vocab_size;
  TRY(visitor.table("model.embed_tokens.weight", vocab, hidden, weights.embedding));
  TRY(visitor.floats("model.norm.weight", {hidden}, weights.final_norm));
  if (config.tie_word_embeddings) {
    TRY(visitor.table("model.embed_tokens.weight", vocab, hidden, weights.head));
  } else {
    TRY(visitor.matrix("lm_head.weight", vocab, hidden, weights.head));
  }
  weights.layers.resize(config.num_layers);
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    TRY(visit_layer(config, layer, visitor, weights.layers[layer]));
  }
  return {};
}

std::string fused_experts_name(LayerIdx layer) {
  return layer_prefix(layer) + "mlp.experts.gate_up_proj";
}

Result<void> visit_expert(const ModelConfig& config, ExpertLayout layout, LayerIdx layer,
                          ExpertIdx expert, TensorVisitor& visitor, FfnWeights& ffn) {
  const uint64_t hidden = config.hidden_size;
  const uint64_t inner = config.moe_intermediate_size;
  const uint64_t count = config.num_routed_experts;
  const std::string prefix = layer_prefix(layer) + "mlp.experts.";
  if (layout == ExpertLayout::kPerExpert) {
    return visit_ffn(prefix + std::to_string(expert) + ".", inner, hidden, visitor, ffn);
  }
  const std::string gate_up = fused_experts_name(layer);
  TRY(visitor.stacked_matrix(gate_up, {count, 2 * inner, hidden, expert, 0, inner}, ffn.gate));
  TRY(visitor.stacked_matrix(gate_up, {count, 2 * inner, hidden, expert, inner, inner}, ffn.up));
  return visitor.stacked_matrix(prefix + "down_proj", {count, hidden, inner, expert, 0, hidden},
                                ffn.down);
}

}  // namespace troupe::model
