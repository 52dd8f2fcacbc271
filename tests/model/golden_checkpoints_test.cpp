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
      EXPECT_EQ(weights.attention.w_uk_t.size(),
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
