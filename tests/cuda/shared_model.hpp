#pragma once

#include <string>

#include "base/check.hpp"
#include "model/checkpoint_writer.hpp"
#include "model/random_weights.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {

/// A model whose heads and outputs 4 devices can share in every format: of 128 outputs each.
inline TestConfig shared_config() {
  return tiny_v3_config()
      .set("vocab_size", "64")
      .set("hidden_size", "512")
      .set("num_attention_heads", "4")
      .set("num_key_value_heads", "4")
      .set("q_lora_rank", "64")
      .set("kv_lora_rank", "64")
      .set("qk_nope_head_dim", "96")
      .set("qk_rope_head_dim", "32")
      .set("v_head_dim", "64")
      .set("intermediate_size", "128")
      .set("moe_intermediate_size", "32")
      .set("n_routed_experts", "4")
      .set("num_experts_per_tok", "2")
      .set("n_group", "2")
      .set("topk_group", "1")
      .set("max_position_embeddings", "64");
}

/// The same with random weights in one of Troupe's schemes.
inline void save_shared_model(const std::string& directory, const std::string& scheme) {
  TestConfig config = shared_config();
  if (scheme == "fp8") {
    config.set("quantization_config", R"({"quant_method":"fp8"})");
  } else if (scheme != "bf16") {
    config.set("quantization_config", R"({"quant_method":"troupe","version":1,"experts":")" +
                                          scheme + R"(","rest":")" + scheme + "\"}");
  }
  const auto saved = save_checkpoint(*parse_config(config.json()), RandomWeights(1, 0.05F),
                                     {.directory = directory,
                                      .config_json = config.json(),
                                      .experts = *parse_scheme(scheme),
                                      .rest = *parse_scheme(scheme)});
  CHECK(saved.ok());
}

}  // namespace troupe::model
