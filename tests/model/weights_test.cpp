#include "model/weights.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/convert.hpp"
#include "model/checkpoint_source.hpp"
#include "model/dequantise.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kExpert2 = "model.layers.1.mlp.experts.2.";

std::vector<float> floats_of(const TestTensor& tensor) {
  std::vector<float> out(tensor.bytes.size() / 4);
  std::memcpy(out.data(), tensor.bytes.data(), tensor.bytes.size());
  return out;
}

std::string bytes_of(const WeightView& view) {
  return {static_cast<const char*>(view.data), view.size_bytes()};
}

Checkpoint opened(const std::string& directory) {
  auto checkpoint = Checkpoint::open(directory);
  if (!checkpoint.ok()) {
    throw std::runtime_error(checkpoint.error().message);
  }
  return *checkpoint;
}

class TinyCheckpoint : public ::testing::Test {
 protected:
  Result<Checkpoint> open() {
    write_checkpoint(dir.path(), config, tensors);
    return Checkpoint::open(dir.path());
  }

  std::string refusal() {
    const auto checkpoint = open();
    EXPECT_FALSE(checkpoint.ok());
    return checkpoint.ok() ? "" : checkpoint.error().message;
  }

  TempDir dir;
  TestConfig config = tiny_v3_config();
  TestTensors tensors = tiny_v3_tensors();
};

TEST_F(TinyCheckpoint, GivesTheRouterEveryTensorInItsPlace) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router(true);
  ASSERT_TRUE(router.ok()) << router.error().message;
  const RouterWeights& weights = **router;
  EXPECT_EQ(bytes_of(weights.embedding), tensors["model.embed_tokens.weight"].bytes);
  EXPECT_EQ(bytes_of(weights.head), tensors["lm_head.weight"].bytes);
  EXPECT_EQ(weights.final_norm, floats_of(tensors["model.norm.weight"]));
  ASSERT_EQ(weights.layers.size(), 2U);
  for (int i = 0; i < 2; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const std::string attn = prefix + "self_attn.";
    const AttentionWeights& a = weights.layers[static_cast<size_t>(i)].attention;
    EXPECT_EQ(a.input_norm, floats_of(tensors[prefix + "input_layernorm.weight"]));
    EXPECT_EQ(a.post_norm, floats_of(tensors[prefix + "post_attention_layernorm.weight"]));
    EXPECT_TRUE(a.q.empty());
    EXPECT_EQ(bytes_of(a.q_a), tensors[attn + "q_a_proj.weight"].bytes);
    EXPECT_EQ(a.q_a_norm, floats_of(tensors[attn + "q_a_layernorm.weight"]));
    EXPECT_EQ(bytes_of(a.q_b), tensors[attn + "q_b_proj.weight"].bytes);
    EXPECT_EQ(a.q_b.out, 12U);
    EXPECT_EQ(a.q_b.in, 5U);
    EXPECT_EQ(bytes_of(a.kv_a), tensors[attn + "kv_a_proj_with_mqa.weight"].bytes);
    EXPECT_EQ(a.kv_a_norm, floats_of(tensors[attn + "kv_a_layernorm.weight"]));
    EXPECT_EQ(a.kv_b, floats_of(tensors[attn + "kv_b_proj.weight"]));
    EXPECT_EQ(bytes_of(a.o), tensors[attn + "o_proj.weight"].bytes);
    EXPECT_TRUE(a.o_bias.empty());
  }
  const LayerWeights& dense = weights.layers[0];
  EXPECT_EQ(bytes_of(dense.dense.gate), tensors["model.layers.0.mlp.gate_proj.weight"].bytes);
  EXPECT_EQ(bytes_of(dense.dense.up), tensors["model.layers.0.mlp.up_proj.weight"].bytes);
  EXPECT_EQ(bytes_of(dense.dense.down), tensors["model.layers.0.mlp.down_proj.weight"].bytes);
  EXPECT_TRUE(dense.gate.empty());
  const LayerWeights& moe = weights.layers[1];
  EXPECT_TRUE(moe.dense.gate.empty());
  EXPECT_EQ(moe.gate, floats_of(tensors["model.layers.1.mlp.gate.weight"]));
  EXPECT_EQ(moe.gate_bias, floats_of(tensors["model.layers.1.mlp.gate.e_score_correction_bias"]));
  EXPECT_EQ(bytes_of(moe.shared.down),
            tensors["model.layers.1.mlp.shared_experts.down_proj.weight"].bytes);
}

TEST_F(TinyCheckpoint, GivesEachExpertItsOwnMatrices) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok());
  for (ExpertIdx expert = 0; expert < 4; ++expert) {
    const auto weights = checkpoint->load_expert(1, expert);
    ASSERT_TRUE(weights.ok());
    const std::string prefix = "model.layers.1.mlp.experts." + std::to_string(expert) + ".";
    EXPECT_EQ(bytes_of(weights->ffn.gate), tensors[prefix + "gate_proj.weight"].bytes);
    EXPECT_EQ(bytes_of(weights->ffn.up), tensors[prefix + "up_proj.weight"].bytes);
    EXPECT_EQ(bytes_of(weights->ffn.down), tensors[prefix + "down_proj.weight"].bytes);
    EXPECT_EQ(weights->ffn.down.out, 8U);
    EXPECT_EQ(weights->ffn.down.in, 7U);
  }
  EXPECT_EQ(checkpoint->load_expert(0, 0).error().code, Code::kInvalidArgument);
  EXPECT_EQ(checkpoint->load_expert(1, 4).error().code, Code::kInvalidArgument);
  EXPECT_EQ(checkpoint->load_expert(2, 0).error().code, Code::kInvalidArgument);
}

TEST_F(TinyCheckpoint, OutlivesTheCheckpointItWasLoadedFrom) {
  const auto weights = open()->load_expert(1, 2);
  ASSERT_TRUE(weights.ok());
  EXPECT_EQ(bytes_of(weights->ffn.up), tensors[std::string(kExpert2) + "up_proj.weight"].bytes);
}

/// Every number of a matrix of floats.
std::vector<float> numbers_of(const WeightView& view) {
  std::vector<float> values(view.out * view.in);
  to_float32({static_cast<const std::byte*>(view.data), view.size_bytes()}, view.dtype, values);
  return values;
}

TEST_F(TinyCheckpoint, CutsKeyAndValueRowsIntoTheirHalvesKeysTransposed) {
  const std::string name = "model.layers.1.self_attn.kv_b_proj.weight";
  tensors[name] = ramp_bf16({14, 6}, 1);  // small integers: exact
  const auto router = open()->load_router();
  ASSERT_TRUE(router.ok());
  for (const auto& [layer, dtype] : {std::pair(0, DType::kF32), std::pair(1, DType::kBF16)}) {
    const AttentionWeights& a = (*router)->layers[static_cast<size_t>(layer)].attention;
    EXPECT_TRUE(a.kv_b.empty()) << "nobody asked for it";
    EXPECT_EQ(a.uk_t.dtype, dtype);
    EXPECT_EQ(a.uv.dtype, dtype);
    ASSERT_EQ(a.uk_t.out, 2U * 6);
    ASSERT_EQ(a.uk_t.in, 4U);
    ASSERT_EQ(a.uv.out, 2U * 3);
    ASSERT_EQ(a.uv.in, 6U);
    const std::vector<float> keys = numbers_of(a.uk_t), values = numbers_of(a.uv);
    const std::vector<float> kv_b =
        layer == 0 ? floats_of(tensors["model.layers.0.self_attn.kv_b_proj.weight"])
                   : floats_of(ramp({14, 6}, 1));
    for (size_t head = 0; head < 2; ++head) {
      for (size_t latent = 0; latent < 6; ++latent) {
        for (size_t row = 0; row < 7; ++row) {
          const float got = row < 4 ? keys[(head * 6 + latent) * 4 + row]
                                    : values[(head * 3 + row - 4) * 6 + latent];
          EXPECT_EQ(got, kv_b[(head * 7 + row) * 6 + latent]);
        }
      }
    }
  }
}

TEST_F(TinyCheckpoint, ReadsBiasesOfAttentionAndBfloat16Gates) {
  config.set("attention_bias", "true");
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tensors[layer + "self_attn.q_a_proj.bias"] = ramp({5}, 7);
    tensors[layer + "self_attn.kv_a_proj_with_mqa.bias"] = ramp_bf16({8}, 3);
    tensors[layer + "self_attn.o_proj.bias"] = ramp({8}, 1);
  }
  tensors["model.layers.1.mlp.gate.weight"] = ramp_bf16({4, 8}, 2);
  tensors["model.layers.1.mlp.gate.e_score_correction_bias"] = ramp_bf16({4}, -2);
  const auto router = open()->load_router();
  ASSERT_TRUE(router.ok()) << router.error().message;
  const LayerWeights& moe = (*router)->layers[1];
  EXPECT_THAT(moe.attention.q_a_bias, ElementsAre(7, 8, 9, 10, 11));
  EXPECT_THAT(moe.attention.kv_a_bias, ElementsAre(3, 4, 5, 6, 7, 8, 9, 10));
  EXPECT_EQ(moe.attention.o_bias.size(), 8U);
  EXPECT_EQ(moe.gate[31], 33);
  EXPECT_THAT(moe.gate_bias, ElementsAre(-2, -1, 0, 1));
}

TEST_F(TinyCheckpoint, TakesQueriesWithoutLowRank) {
  config.set("q_lora_rank", "null");
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* name : {"q_a_proj.weight", "q_a_layernorm.weight", "q_b_proj.weight"}) {
      tensors.erase(layer + "self_attn." + name);
    }
    tensors[layer + "self_attn.q_proj.weight"] = ramp({12, 8});
  }
  const auto router = open()->load_router();
  ASSERT_TRUE(router.ok()) << router.error().message;
  EXPECT_EQ((*router)->layers[0].attention.q.out, 12U);
  EXPECT_TRUE((*router)->layers[0].attention.q_a.empty());
}

TEST_F(TinyCheckpoint, UsesTheEmbeddingAsHeadWhenTied) {
  config.set("tie_word_embeddings", "true");
  tensors.erase("lm_head.weight");
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router();
  ASSERT_TRUE(router.ok());
  EXPECT_EQ(bytes_of((*router)->head), bytes_of((*router)->embedding));
  EXPECT_EQ(checkpoint->summary().ignored_tensors, 0U);
}

/// The tiny checkpoint's experts in the fused form, exactly the same numbers.
void fuse_experts(TestTensors& tensors) {
  TestTensor gate_up{"F32", {4, 14, 8}, {}};
  TestTensor down{"F32", {4, 8, 7}, {}};
  for (int expert = 0; expert < 4; ++expert) {
    const std::string prefix = "model.layers.1.mlp.experts." + std::to_string(expert) + ".";
    gate_up.bytes += tensors[prefix + "gate_proj.weight"].bytes;
    gate_up.bytes += tensors[prefix + "up_proj.weight"].bytes;
    down.bytes += tensors[prefix + "down_proj.weight"].bytes;
    for (const char* part : {"gate", "up", "down"}) {
      tensors.erase(prefix + part + "_proj.weight");
    }
  }
  tensors["model.layers.1.mlp.experts.gate_up_proj"] = gate_up;
  tensors["model.layers.1.mlp.experts.down_proj"] = down;
}

TEST_F(TinyCheckpoint, GivesTheSameExpertsFromFusedTensors) {
  const TestTensors separate = tensors;
  fuse_experts(tensors);
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  for (ExpertIdx expert = 0; expert < 4; ++expert) {
    const auto weights = checkpoint->load_expert(1, expert);
    ASSERT_TRUE(weights.ok());
    const std::string prefix = "model.layers.1.mlp.experts." + std::to_string(expert) + ".";
    EXPECT_EQ(bytes_of(weights->ffn.gate), separate.at(prefix + "gate_proj.weight").bytes);
    EXPECT_EQ(bytes_of(weights->ffn.up), separate.at(prefix + "up_proj.weight").bytes);
    EXPECT_EQ(bytes_of(weights->ffn.down), separate.at(prefix + "down_proj.weight").bytes);
  }
}

TEST_F(TinyCheckpoint, RefusesAMixOfFusedAndSeparateExperts) {
  const TestTensor gate = tensors[std::string(kExpert2) + "gate_proj.weight"];
  fuse_experts(tensors);
  tensors[std::string(kExpert2) + "gate_proj.weight"] = gate;
  EXPECT_THAT(refusal(), HasSubstr(std::string(kExpert2) + "gate_proj.weight"));
}

TEST_F(TinyCheckpoint, LeavesOutAndCountsWhatTheMainModelDoesNotUse) {
  const auto plain = open();
  ASSERT_TRUE(plain.ok());
  tensors["model.layers.2.enorm.weight"] = ramp({8});
  tensors["model.layers.2.eh_proj.weight"] = ramp({8, 16});
  tensors["model.layers.2.mlp.experts.0.gate_proj.weight"] = ramp({7, 8});
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = ramp({1});
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->summary().ignored_tensors, 4U);
  EXPECT_EQ(checkpoint->summary().total_parameters, plain->summary().total_parameters);
}

TEST_F(TinyCheckpoint, RefusesWeightsItDoesNotUnderstand) {
  tensors["model.layers.1.self_attn.indexer.wk.weight"] = ramp({2, 8});
  EXPECT_THAT(refusal(), HasSubstr("model.layers.1.self_attn.indexer.wk.weight"));
}

TEST_F(TinyCheckpoint, NamesAMissingTensor) {
  tensors.erase(std::string(kExpert2) + "up_proj.weight");
  EXPECT_THAT(refusal(), HasSubstr(std::string(kExpert2) + "up_proj.weight"));
}

TEST_F(TinyCheckpoint, NamesBothShapesOfATensorThatContradictsTheConfig) {
  config.set("kv_lora_rank", "7");
  const std::string message = refusal();
  EXPECT_THAT(message, HasSubstr("model.layers.0.self_attn.kv_a_proj_with_mqa.weight"));
  EXPECT_THAT(message, HasSubstr("[8, 8]"));
  EXPECT_THAT(message, HasSubstr("[9, 8]"));
}

TEST_F(TinyCheckpoint, CountsParametersTotalAndActive) {
  const auto summary = open()->summary();
  uint64_t total = 0;
  for (const auto& [name, tensor] : tensors) {
    total += tensor.bytes.size() / 4;
  }
  EXPECT_EQ(summary.num_tensors, tensors.size());
  EXPECT_EQ(summary.total_parameters, total);
  EXPECT_EQ(summary.active_parameters, total - 16 * 8 - 2 * (3 * 7 * 8));
  EXPECT_THAT(summary.bytes_by_dtype, ElementsAre(std::pair(DType::kF32, 4 * total)));
}

TEST_F(TinyCheckpoint, DigestsTheSameFilesAlikeAndOthersDifferently) {
  const uint64_t digest = open()->digest();
  TempDir copy;
  write_checkpoint(copy.path(), config, tensors);
  EXPECT_EQ(opened(copy.path()).digest(), digest);
  tensors["model.norm.weight"] = ramp({8}, 4);
  EXPECT_NE(open()->digest(), digest);
  tensors = tiny_v3_tensors();
  config.set("routed_scaling_factor", "2.0");
  EXPECT_NE(open()->digest(), digest);
}

TEST_F(TinyCheckpoint, NoticesAFileTruncatedAfterOpening) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok());
  std::filesystem::resize_file(dir / "model.safetensors", 4096);
  const auto expert = checkpoint->load_expert(1, 3);
  ASSERT_FALSE(expert.ok());
  EXPECT_THAT(expert.error().message, HasSubstr("model.safetensors"));
  EXPECT_FALSE(checkpoint->load_router().ok());
}

TEST_F(TinyCheckpoint, KeepsReadingAFileThatIsReplacedByRename) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok());
  write_file(dir / "next", "something else");
  std::filesystem::rename(dir / "next", dir / "model.safetensors");
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_EQ(bytes_of(expert->ffn.up), tensors[std::string(kExpert2) + "up_proj.weight"].bytes);
}

/// Pages of a file that this process has mapped, from /proc/self/maps.
size_t mapped_bytes(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  size_t total = 0;
  for (std::string line; std::getline(maps, line);) {
    if (!line.ends_with(path)) {
      continue;
    }
    std::istringstream range(line);
    size_t begin = 0;
    size_t end = 0;
    char dash = 0;
    range >> std::hex >> begin >> dash >> end;
    total += end - begin;
  }
  return total;
}

TEST(ExpertMapping, CoversTheExpertsOfANodeAndNothingElse) {
  TempDir dir;
  TestConfig config = tiny_v3_config();
  TestTensors tensors = tiny_v3_tensors();
  constexpr uint64_t kInner = 5000;
  constexpr size_t kPage = 4096;
  constexpr size_t kExpertBytes = 3 * kInner * 8 * 4;
  config.set("moe_intermediate_size", std::to_string(kInner));
  for (const std::string part :
       {"shared_experts.", "experts.0.", "experts.1.", "experts.2.", "experts.3."}) {
    const std::string prefix = "model.layers.1.mlp." + part;
    tensors[prefix + "gate_proj.weight"] = ramp({kInner, 8});
    tensors[prefix + "up_proj.weight"] = ramp({kInner, 8});
    tensors[prefix + "down_proj.weight"] = ramp({8, kInner});
  }
  write_checkpoint(dir.path(), config, tensors);
  const std::string file = dir / "model.safetensors";

  const Checkpoint checkpoint = opened(dir.path());
  EXPECT_EQ(mapped_bytes(file), 0U) << "opening maps nothing";
  {
    const auto expert = checkpoint.load_expert(1, 2);
    ASSERT_TRUE(expert.ok());
    EXPECT_GE(mapped_bytes(file), kExpertBytes);
    EXPECT_LE(mapped_bytes(file), kExpertBytes + 2 * kPage) << "one run of pages";
    const auto other = checkpoint.load_expert(1, 0);
    ASSERT_TRUE(other.ok());
    EXPECT_LE(mapped_bytes(file), 2 * (kExpertBytes + 2 * kPage));
  }
  EXPECT_EQ(mapped_bytes(file), 0U) << "dropping the weights unmaps them";
  const auto router = checkpoint.load_router();
  ASSERT_TRUE(router.ok());
  EXPECT_LT(mapped_bytes(file), 2 * kExpertBytes) << "the router maps no routed expert";
}

/// E4M3 bytes 0x38 (1.0), 0x40 (2.0), 0xb8 (-1.0), 0x3c (1.5), ... repeated.
TestTensor e4m3(std::vector<uint64_t> shape) {
  TestTensor tensor{"F8_E4M3", shape, {}};
  uint64_t count = 1;
  for (const uint64_t dim : shape) {
    count *= dim;
  }
  for (uint64_t i = 0; i < count; ++i) {
    tensor.bytes += "\x38\x40\xb8\x3c\x01"[i % 5];
  }
  return tensor;
}

constexpr float kE4m3Values[] = {1, 2, -1, 1.5, 0x1p-9F};

TestConfig fp8(TestConfig config) {
  return config.set("quantization_config", R"({"quant_method":"fp8","fmt":"e4m3",)"
                                           R"("weight_block_size":[128,128]})");
}

TEST_F(TinyCheckpoint, DequantisesFp8KeyValueProjectionsWithPartialBlocks) {
  // 40 heads * (4 + 3) rows = 280 rows: two whole blocks and one of 24; 130 columns: 128 and 2.
  config = fp8(config)
               .set("kv_lora_rank", "130")
               .set("num_attention_heads", "40")
               .set("num_key_value_heads", "40");
  for (const std::string layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    tensors[layer + "q_b_proj.weight"] = ramp({240, 5});
    tensors[layer + "kv_a_proj_with_mqa.weight"] = ramp({132, 8});
    tensors[layer + "kv_a_layernorm.weight"] = ramp({130});
    tensors[layer + "kv_b_proj.weight"] = e4m3({280, 130});
    tensors[layer + "kv_b_proj.weight_scale_inv"] = ramp({3, 2}, 1);
    tensors[layer + "o_proj.weight"] = e4m3({8, 120});
    tensors[layer + "o_proj.weight_scale_inv"] = ramp({1, 1}, 0.5);
  }
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router(true);
  ASSERT_TRUE(router.ok()) << router.error().message;
  const AttentionWeights& a = (*router)->layers[1].attention;
  EXPECT_EQ(a.uk_t.dtype, DType::kF32);
  for (size_t row = 0; row < 280; ++row) {
    for (size_t column = 0; column < 130; ++column) {
      const float scale = static_cast<float>(1 + 2 * (row / 128) + column / 128);
      ASSERT_EQ(a.kv_b[row * 130 + column], kE4m3Values[(row * 130 + column) % 5] * scale);
    }
  }
  EXPECT_EQ(a.o.dtype, DType::kF8E4M3);
  ASSERT_NE(a.o.scales, nullptr);
  EXPECT_EQ(a.o.scales[0], 0.5F);
  EXPECT_EQ(a.q_b.scales, nullptr) << "modules may stay unconverted";
}

TEST_F(TinyCheckpoint, CutsFp8KeyAndValueRowsWithTheScalesOfTheirBlocks) {
  constexpr size_t kHeads = 2, kNope = 128, kValue = 256, kLatent = 384;
  constexpr size_t kRows = kHeads * (kNope + kValue);
  config = fp8(config)
               .set("kv_lora_rank", "384")
               .set("qk_nope_head_dim", "128")
               .set("v_head_dim", "256");
  for (const std::string layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    tensors[layer + "q_b_proj.weight"] = ramp({kHeads * (kNope + 2), 5});
    tensors[layer + "kv_a_proj_with_mqa.weight"] = ramp({kLatent + 2, 8});
    tensors[layer + "kv_a_layernorm.weight"] = ramp({kLatent});
    tensors[layer + "kv_b_proj.weight"] = e4m3({kRows, kLatent});
    tensors[layer + "kv_b_proj.weight_scale_inv"] = ramp({kRows / 128, kLatent / 128}, 1);
    tensors[layer + "o_proj.weight"] = ramp({8, kHeads * kValue});
  }
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router(true);
  ASSERT_TRUE(router.ok()) << router.error().message;
  const AttentionWeights& a = (*router)->layers[1].attention;
  EXPECT_EQ(a.uk_t.dtype, DType::kF8E4M3);
  EXPECT_EQ(a.uv.dtype, DType::kF8E4M3);
  ASSERT_EQ(a.kv_b.size(), kRows * kLatent);
  for (size_t row = 0; row < kRows; ++row) {
    const size_t head = row / (kNope + kValue), row_of_head = row % (kNope + kValue);
    for (size_t latent = 0; latent < kLatent; ++latent) {
      const float got = row_of_head < kNope
                            ? kernels::weight_at(a.uk_t, head * kLatent + latent, row_of_head)
                            : kernels::weight_at(a.uv, head * kValue + row_of_head - kNope, latent);
      ASSERT_EQ(got, a.kv_b[row * kLatent + latent]) << row << ", " << latent;
    }
  }
}

TEST_F(TinyCheckpoint, IsASourceOfFp8RowsWithTheScalesOfTheirBlocks) {
  config = fp8(config).set("vocab_size", "300");
  tensors["model.embed_tokens.weight"] = ramp({300, 8});
  tensors["lm_head.weight"] = e4m3({300, 8});
  tensors["lm_head.weight_scale_inv"] = ramp({3, 1}, 1);
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto source = CheckpointSource::open(*checkpoint);
  ASSERT_TRUE(source.ok()) << source.error().message;
  EXPECT_EQ((*source)->kept_type("lm_head.weight"), DType::kBF16);
  constexpr size_t kFirst = 120, kCount = 140;  // of all three blocks, the first and last in part
  std::vector<float> rows(kCount * 8);
  ASSERT_TRUE((*source)->read("lm_head.weight", 8, kFirst, kCount, rows.data()).ok());
  for (size_t i = 0; i < rows.size(); ++i) {
    const size_t element = kFirst * 8 + i;
    ASSERT_EQ(rows[i], kE4m3Values[element % 5] * static_cast<float>(1 + element / 8 / 128)) << i;
  }
}

TEST_F(TinyCheckpoint, GivesFusedFp8ExpertsTheirOwnScales) {
  config = fp8(config).set("moe_intermediate_size", "128").set("n_shared_experts", "0");
  fuse_experts(tensors);
  for (const char* part : {"gate", "up", "down"}) {
    tensors.erase("model.layers.1.mlp.shared_experts." + std::string(part) + "_proj.weight");
  }
  tensors["model.layers.1.mlp.experts.gate_up_proj"] = e4m3({4, 256, 8});
  tensors["model.layers.1.mlp.experts.gate_up_proj_scale_inv"] = ramp({4, 2, 1}, 10);
  tensors["model.layers.1.mlp.experts.down_proj"] = e4m3({4, 8, 128});
  tensors["model.layers.1.mlp.experts.down_proj_scale_inv"] = ramp({4, 1, 1}, 50);
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto expert = checkpoint->load_expert(1, 3);
  ASSERT_TRUE(expert.ok());
  EXPECT_EQ(expert->ffn.gate.scales[0], 16);
  EXPECT_EQ(expert->ffn.up.scales[0], 17);
  EXPECT_EQ(expert->ffn.down.scales[0], 53);
  EXPECT_EQ(bytes_of(expert->ffn.up),
            tensors["model.layers.1.mlp.experts.gate_up_proj"].bytes.substr(7 * 128 * 8, 128 * 8));
}

TEST_F(TinyCheckpoint, RefusesFusedFp8ExpertsThatShareABlockOfScales) {
  config = fp8(config);
  fuse_experts(tensors);
  tensors["model.layers.1.mlp.experts.gate_up_proj"] = e4m3({4, 14, 8});
  tensors["model.layers.1.mlp.experts.gate_up_proj_scale_inv"] = ramp({4, 1, 1});
  EXPECT_THAT(refusal(), HasSubstr("gate_up_proj"));
}

TEST_F(TinyCheckpoint, RefusesFp8WithoutScalesOrWithoutTheConfigsWord) {
  tensors["model.layers.0.self_attn.o_proj.weight"] = e4m3({8, 6});
  EXPECT_THAT(refusal(), HasSubstr("quantization_config"));
  config = fp8(config);
  EXPECT_THAT(refusal(), HasSubstr("model.layers.0.self_attn.o_proj.weight_scale_inv"));
}

TEST_F(TinyCheckpoint, RefusesFp8ScalesOfAnotherShapeThanItsBlocks) {
  config = fp8(config);
  const std::string o_proj = "model.layers.0.self_attn.o_proj.weight";
  tensors[o_proj] = e4m3({8, 6});  // one block
  tensors[o_proj + "_scale_inv"] = ramp({1, 1});
  ASSERT_TRUE(open().ok());
  for (const auto& [shape, text] : std::vector<std::pair<std::vector<uint64_t>, std::string>>{
           {{2, 1}, "[2, 1]"}, {{1, 2}, "[1, 2]"}, {{1}, "[1]"}, {{1, 1, 1}, "[1, 1, 1]"}}) {
    tensors[o_proj + "_scale_inv"] = ramp(shape);
    EXPECT_THAT(refusal(), AllOf(HasSubstr(o_proj + "_scale_inv"), HasSubstr(text)));
  }
}

TEST(ToFloat32, ConvertsEveryStoredTypeExactly) {
  const auto convert = [](std::string bytes, DType dtype) {
    std::vector<float> out(bytes.size() / size_of(dtype));
    bytes.insert(0, 1, 'x');  // unaligned on purpose
    to_float32(std::as_bytes(std::span(bytes)).subspan(1), dtype, out);
    return out;
  };
  using namespace std::string_literals;
  EXPECT_THAT(convert("\x00\x3c\x00\xc0\x01\x00\xff\x7b\x00\x7c"s, DType::kF16),
              ElementsAre(1.0F, -2.0F, 0x1p-24F, 65504.0F, INFINITY));
  EXPECT_THAT(convert("\x80\x3f\x49\xc0\x00\x80"s, DType::kBF16),
              ElementsAre(1.0F, -3.140625F, -0.0F));
  EXPECT_THAT(convert("\x38\x7e\xfe\x01\x08\x00"s, DType::kF8E4M3),
              ElementsAre(1.0F, 448.0F, -448.0F, 0x1p-9F, 0x1p-6F, 0.0F));
  EXPECT_TRUE(std::isnan(convert("\x7f"s, DType::kF8E4M3)[0]));
  EXPECT_TRUE(std::isnan(convert("\xff"s, DType::kF8E4M3)[0]));
  EXPECT_TRUE(std::isnan(convert("\x01\x7c"s, DType::kF16)[0]));
}

}  // namespace
}  // namespace troupe::model
