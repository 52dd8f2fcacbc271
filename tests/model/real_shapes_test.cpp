// Checkpoints with the real shapes of released models, as sparse files: all headers, no weights.

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "model/weights.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {
namespace {

/// Collects tensors of one type and writes them as a file of zeros that takes no room on disk.
class SparseFile {
 public:
  void add(const std::string& name, const std::string& dtype, std::vector<uint64_t> shape) {
    uint64_t bytes = dtype == "F32" ? 4 : dtype == "BF16" ? 2 : 1;
    std::string dims;
    for (const uint64_t dim : shape) {
      bytes *= dim;
      dims += (dims.empty() ? "" : ",") + std::to_string(dim);
    }
    header_ += (header_.empty() ? "\"" : ",\"") + name + R"(":{"dtype":")" + dtype +
               R"(","shape":[)" + dims + R"(],"data_offsets":[)" + std::to_string(size_) + "," +
               std::to_string(size_ + bytes) + "]}";
    size_ += bytes;
  }

  void write(const std::string& path) const {
    const std::string prefix = safetensors_prefix("{" + header_ + "}");
    write_file(path, prefix);
    std::filesystem::resize_file(path, prefix.size() + size_);
  }

 private:
  std::string header_;
  uint64_t size_ = 0;
};

struct Shapes {
  uint64_t vocab, hidden, layers, heads, q_rank, inner, expert_inner, experts, shared, first_moe;
  bool v3;
};

TestConfig config_of(const Shapes& s) {
  const auto n = [](uint64_t value) { return std::to_string(value); };
  return tiny_v3_config()
      .erase("architectures")
      .set("model_type", s.v3 ? R"("deepseek_v3")" : R"("deepseek_v2")")
      .set("scoring_func", s.v3 ? R"("sigmoid")" : R"("softmax")")
      .set("topk_method", s.v3 ? R"("noaux_tc")" : R"("greedy")")
      .set("norm_topk_prob", s.v3 ? "true" : "false")
      .set("n_group", s.v3 ? "8" : "1")
      .set("topk_group", s.v3 ? "4" : "1")
      .set("num_experts_per_tok", s.v3 ? "8" : "6")
      .set("vocab_size", n(s.vocab))
      .set("hidden_size", n(s.hidden))
      .set("num_hidden_layers", n(s.layers))
      .set("num_attention_heads", n(s.heads))
      .set("num_key_value_heads", n(s.heads))
      .set("q_lora_rank", s.q_rank == 0 ? "null" : n(s.q_rank))
      .set("kv_lora_rank", "512")
      .set("qk_nope_head_dim", "128")
      .set("qk_rope_head_dim", "64")
      .set("v_head_dim", "128")
      .set("intermediate_size", n(s.inner))
      .set("moe_intermediate_size", n(s.expert_inner))
      .set("n_routed_experts", n(s.experts))
      .set("n_shared_experts", n(s.shared))
      .set("first_k_dense_replace", n(s.first_moe));
}

/// Writes the whole model, matrices of the layers as FP8 with scales if `fp8`.
void write_model(const std::string& directory, const Shapes& s, bool fp8) {
  SparseFile file;
  const auto matrix = [&](const std::string& name, uint64_t out, uint64_t in) {
    file.add(name, fp8 ? "F8_E4M3" : "BF16", {out, in});
    if (fp8) {
      file.add(name + "_scale_inv", "F32", {(out + 127) / 128, (in + 127) / 128});
    }
  };
  const auto ffn = [&](const std::string& prefix, uint64_t inner) {
    matrix(prefix + "gate_proj.weight", inner, s.hidden);
    matrix(prefix + "up_proj.weight", inner, s.hidden);
    matrix(prefix + "down_proj.weight", s.hidden, inner);
  };
  file.add("model.embed_tokens.weight", "BF16", {s.vocab, s.hidden});
  file.add("model.norm.weight", "BF16", {s.hidden});
  file.add("lm_head.weight", "BF16", {s.vocab, s.hidden});
  for (uint64_t layer = 0; layer < s.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    const std::string attention = prefix + "self_attn.";
    file.add(prefix + "input_layernorm.weight", "BF16", {s.hidden});
    file.add(prefix + "post_attention_layernorm.weight", "BF16", {s.hidden});
    if (s.q_rank == 0) {
      matrix(attention + "q_proj.weight", s.heads * 192, s.hidden);
    } else {
      matrix(attention + "q_a_proj.weight", s.q_rank, s.hidden);
      file.add(attention + "q_a_layernorm.weight", "BF16", {s.q_rank});
      matrix(attention + "q_b_proj.weight", s.heads * 192, s.q_rank);
    }
    matrix(attention + "kv_a_proj_with_mqa.weight", 576, s.hidden);
    file.add(attention + "kv_a_layernorm.weight", "BF16", {512});
    matrix(attention + "kv_b_proj.weight", s.heads * 256, 512);
    matrix(attention + "o_proj.weight", s.hidden, s.heads * 128);
    if (layer < s.first_moe) {
      ffn(prefix + "mlp.", s.inner);
      continue;
    }
    file.add(prefix + "mlp.gate.weight", "BF16", {s.experts, s.hidden});
    if (s.v3) {
      file.add(prefix + "mlp.gate.e_score_correction_bias", "F32", {s.experts});
    }
    ffn(prefix + "mlp.shared_experts.", s.shared * s.expert_inner);
    for (uint64_t expert = 0; expert < s.experts; ++expert) {
      ffn(prefix + "mlp.experts." + std::to_string(expert) + ".", s.expert_inner);
    }
  }
  TestConfig config = config_of(s);
  if (fp8) {
    config.set("quantization_config",
               R"({"quant_method":"fp8","fmt":"e4m3","weight_block_size":[128,128]})");
  }
  write_file(directory + "/config.json", config.json());
  file.write(directory + "/model.safetensors");
}

TEST(RealShapes, DeepSeekV2LiteHasItsPublishedParameterCounts) {
  TempDir dir;
  write_model(dir.path(), {102400, 2048, 27, 16, 0, 10944, 1408, 64, 2, 1, false}, false);
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto summary = checkpoint->summary();
  EXPECT_NEAR(static_cast<double>(summary.total_parameters), 15.71e9, 0.005e9);
  EXPECT_NEAR(static_cast<double>(summary.active_parameters), 2.45e9, 0.005e9);
  const auto expert = checkpoint->load_expert(26, 63);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_EQ(expert->ffn.up.size_bytes(), 1408U * 2048 * 2);
}

TEST(RealShapes, DeepSeekV3HasItsPublishedParameterCounts) {
  TempDir dir;
  write_model(dir.path(), {129280, 7168, 61, 128, 1536, 18432, 2048, 256, 1, 3, true}, true);
  const auto checkpoint = Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto summary = checkpoint->summary();
  EXPECT_NEAR(static_cast<double>(summary.total_parameters), 671.0e9, 0.05e9);
  EXPECT_NEAR(static_cast<double>(summary.active_parameters), 36.6e9, 0.05e9);
  const auto expert = checkpoint->load_expert(60, 255);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_EQ(expert->ffn.down.size_bytes(), 2048U * 7168);
  EXPECT_EQ(expert->ffn.down.scales[55 * 16 + 15], 0.0F) << "all 56 x 16 scales are there";
}

}  // namespace
}  // namespace troupe::model
