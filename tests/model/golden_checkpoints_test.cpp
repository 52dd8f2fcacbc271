// Every checkpoint of tests/golden/models, written by safetensors' own library, opens and loads.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "model/weights.hpp"

namespace troupe::model {
namespace {

std::vector<std::string> golden_directories() {
  std::vector<std::string> out;
  const std::filesystem::path root = std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models";
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (entry.is_directory()) {
      out.push_back(entry.path().string());
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

TEST(GoldenCheckpoints, AreAtLeastTwelve) { EXPECT_GE(golden_directories().size(), 12U); }

/// What has to occur among the checkpoints, so that none is dropped unnoticed.
TEST(GoldenCheckpoints, CoverWhatTheArchitecturesOffer) {
  struct Feature {
    const char* name;
    bool (*present)(const ModelConfig&);
  };
  const std::vector<Feature> features = {
      {"low-rank queries", [](const ModelConfig& c) { return c.q_lora_rank > 0; }},
      {"queries by one projection", [](const ModelConfig& c) { return c.q_lora_rank == 0; }},
      {"greedy", [](const ModelConfig& c) { return c.topk_method == TopkMethod::kGreedy; }},
      {"group_limited_greedy",
       [](const ModelConfig& c) {
         return c.topk_method == TopkMethod::kGroupLimitedGreedy && c.topk_groups < c.num_groups;
       }},
      {"noaux_tc with groups",
       [](const ModelConfig& c) {
         return c.topk_method == TopkMethod::kNoauxTc && c.topk_groups < c.num_groups;
       }},
      {"noaux_tc with one group",
       [](const ModelConfig& c) {
         return c.topk_method == TopkMethod::kNoauxTc && c.num_groups == 1;
       }},
      {"gate weights normalised", [](const ModelConfig& c) { return c.norm_topk_prob; }},
      {"YaRN, with prompts of 300 tokens beyond its original context",
       [](const ModelConfig& c) { return c.rope.yarn && c.rope.original_max_positions < 300; }},
      {"YaRN that scales cos and sin",
       [](const ModelConfig& c) { return c.rope.yarn && c.rope_magnitude() != 1; }},
      {"plain rotation", [](const ModelConfig& c) { return !c.rope.yarn; }},
      {"values wider than keys",
       [](const ModelConfig& c) { return c.v_head_dim > c.qk_head_dim(); }},
      {"values narrower than keys",
       [](const ModelConfig& c) { return c.v_head_dim < c.qk_head_dim(); }},
      {"sizes that are no multiple of a SIMD width",
       [](const ModelConfig& c) {
         return c.hidden_size % 4 != 0 && c.kv_lora_rank % 4 != 0 &&
                c.moe_intermediate_size % 4 != 0 && c.v_head_dim % 4 != 0;
       }},
      {"attention biases", [](const ModelConfig& c) { return c.attention_bias; }},
      {"FP8 in whole blocks",
       [](const ModelConfig& c) { return c.fp8 && c.hidden_size % 128 == 0; }},
      {"FP8 with partial blocks",
       [](const ModelConfig& c) { return c.fp8 && c.hidden_size % 128 != 0; }},
      {"no dense layer", [](const ModelConfig& c) { return c.first_k_dense_replace == 0; }},
      {"several dense layers", [](const ModelConfig& c) { return c.first_k_dense_replace > 1; }},
  };
  std::vector<ModelConfig> configs;
  for (const std::string& directory : golden_directories()) {
    const auto checkpoint = Checkpoint::open(directory);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    configs.push_back(checkpoint->config());
  }
  for (const Feature& feature : features) {
    EXPECT_TRUE(std::any_of(configs.begin(), configs.end(), feature.present)) << feature.name;
  }
}

TEST(GoldenCheckpoints, AllOpenAndLoadEveryTensor) {
  for (const std::string& directory : golden_directories()) {
    SCOPED_TRACE(directory);
    const auto checkpoint = Checkpoint::open(directory);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const ModelConfig& config = checkpoint->config();
    const auto router = checkpoint->load_router();
    ASSERT_TRUE(router.ok()) << router.error().message;
    ASSERT_EQ((*router)->layers.size(), config.num_layers);
    for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
      const LayerWeights& weights = (*router)->layers[layer];
      EXPECT_EQ(weights.attention.q.empty(), config.q_lora_rank > 0);
      EXPECT_EQ(weights.dense.gate.empty(), config.is_moe_layer(layer));
      EXPECT_EQ(weights.attention.uk_t.out * weights.attention.uk_t.in,
                size_t{config.num_heads} * config.kv_lora_rank * config.qk_nope_head_dim);
      if (!config.is_moe_layer(layer)) {
        continue;
      }
      EXPECT_EQ(weights.gate.size(), size_t{config.num_routed_experts} * config.hidden_size);
      for (ExpertIdx expert = 0; expert < config.num_routed_experts; ++expert) {
        const auto loaded = checkpoint->load_expert(layer, expert);
        ASSERT_TRUE(loaded.ok()) << loaded.error().message;
        EXPECT_EQ(loaded->ffn.down.out, config.hidden_size);
        EXPECT_EQ(loaded->ffn.down.scales != nullptr, config.fp8);
      }
    }
  }
}

}  // namespace
}  // namespace troupe::model
