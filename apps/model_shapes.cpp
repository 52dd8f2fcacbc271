#include "apps/model_shapes.hpp"

#include <algorithm>
#include <vector>

namespace troupe::apps {
namespace json = boost::json;
namespace {

// As published, but for what changes nothing in what is computed.
constexpr const char* kV2Lite = R"({
  "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
  "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
  "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null, "kv_lora_rank": 512,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64,
  "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
  "moe_layer_freq": 1, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
  "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1.0,
  "hidden_act": "silu", "rms_norm_eps": 1e-06, "attention_bias": false,
  "tie_word_embeddings": false, "initializer_range": 0.02, "max_position_embeddings": 163840,
  "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                   "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707},
  "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"})";

constexpr const char* kV3 = R"({
  "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
  "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61,
  "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
  "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
  "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
  "moe_layer_freq": 1, "n_group": 8, "topk_group": 4, "topk_method": "noaux_tc",
  "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 2.5,
  "hidden_act": "silu", "rms_norm_eps": 1e-06, "attention_bias": false,
  "tie_word_embeddings": false, "initializer_range": 0.02, "max_position_embeddings": 163840,
  "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                   "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
  "bos_token_id": 0, "eos_token_id": 1, "torch_dtype": "bfloat16"})";

/// A real model and what of it is made smaller.
struct Shape {
  const char* name;
  const char* config;
  json::object changes;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {"v2-lite", kV2Lite, {}},
      {"v2-lite-slice", kV2Lite, {{"num_hidden_layers", 3}, {"vocab_size", 3072}}},
      {"v3", kV3, {}},
      {"v3-slice", kV3, {{"num_hidden_layers", 4}, {"vocab_size", 16384}}},
      {"tiny",
       kV3,
       {{"num_hidden_layers", 3},
        {"vocab_size", 256},
        {"hidden_size", 128},
        {"num_attention_heads", 4},
        {"num_key_value_heads", 4},
        {"q_lora_rank", 64},
        {"kv_lora_rank", 64},
        {"qk_nope_head_dim", 32},
        {"qk_rope_head_dim", 16},
        {"v_head_dim", 32},
        {"intermediate_size", 256},
        {"moe_intermediate_size", 64},
        {"n_routed_experts", 16},
        {"num_experts_per_tok", 4},
        {"n_group", 4},
        {"topk_group", 2},
        {"first_k_dense_replace", 1}}},
  };
  return all;
}

}  // namespace

std::string shape_names() {
  std::string text;
  for (const Shape& shape : shapes()) text += (text.empty() ? "" : ", ") + std::string(shape.name);
  return text;
}

Result<json::object> shape_config(std::string_view name, uint32_t layers) {
  for (const Shape& shape : shapes()) {
    if (name != shape.name) continue;
    json::object config = json::parse(shape.config).as_object();
    for (const auto& change : shape.changes) config[change.key()] = change.value();
    if (layers != 0) config["num_hidden_layers"] = layers;
    // A slice shorter than the dense layers still has one with experts.
    json::value& dense = config["first_k_dense_replace"];
    dense = std::min(dense.to_number<int64_t>(),
                     std::max<int64_t>(config["num_hidden_layers"].to_number<int64_t>() - 1, 0));
    return config;
  }
  return Error{Code::kInvalidArgument,
               "--shape must be one of " + shape_names() + ", not '" + std::string(name) + "'"};
}

}  // namespace troupe::apps
