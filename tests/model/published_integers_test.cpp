// Integer weights as compressed-tensors, GPTQ and AWQ store them, packed here by their definitions.

#include "model/published_integers.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "kernels/cpu/convert.hpp"
#include "model/weights.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {
namespace {

using ::testing::HasSubstr;

struct Format {
  const char* name;
  PublishedFormat format;
  std::string config;  ///< quantization_config
};

void PrintTo(const Format& format, std::ostream* out) { *out << format.name; }

const std::vector<Format>& formats() {
  static const std::vector<Format> all = {
      {"CompressedInt8", PublishedFormat::kCompressedInt8,
       R"({"quant_method":"compressed-tensors","format":"int-quantized","ignore":["lm_head"],
           "config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":8,"type":"int",
           "symmetric":true,"strategy":"channel","group_size":null,"dynamic":false}}}})"},
      {"CompressedInt4", PublishedFormat::kCompressedInt4,
       R"({"quant_method":"compressed-tensors","format":"pack-quantized","ignore":["lm_head"],
           "config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":4,"type":"int",
           "symmetric":true,"strategy":"group","group_size":32,"actorder":null}}}})"},
      {"Gptq", PublishedFormat::kGptq,
       R"({"quant_method":"gptq","bits":4,"group_size":32,"desc_act":false,"sym":false})"},
      {"GptqV2", PublishedFormat::kGptqV2,
       R"({"quant_method":"gptq","bits":4,"group_size":32,"checkpoint_format":"gptq_v2"})"},
      {"Awq", PublishedFormat::kAwq,
       R"({"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,"version":"gemm"})"},
  };
  return all;
}

/// Integers, zeros and scales, and the tensors in which a format stores them.
struct Example {
  size_t out, in, group, groups;
  std::vector<int> integers, zeros;  ///< [out, in], [out, groups]
  std::vector<float> scales;         ///< [out, groups], each a BF16
  TestTensors tensors;               ///< by the end of their names: "weight", "weight_scale"...

  Example(PublishedFormat format, size_t out_in, size_t in_in, uint64_t seed)
      : out(out_in), in(in_in) {
    const bool int8 = format == PublishedFormat::kCompressedInt8;
    const bool compressed = int8 || format == PublishedFormat::kCompressedInt4;
    group = int8 ? in : 32;
    groups = (in + group - 1) / group;
    for (size_t i = 0; i < out * in; ++i) {
      const auto bits = static_cast<int>(random_bits(seed, i) & 0xff);
      integers.push_back(int8 ? static_cast<int8_t>(bits) : bits & 15);
    }
    for (size_t i = 0; i < out * groups; ++i) {
      const auto bits = static_cast<int>(random_bits(seed, i, 1) & 15);
      // v1 of GPTQ can not store a zero of 0.
      zeros.push_back(int8                               ? 0
                      : compressed                       ? 8
                      : format == PublishedFormat::kGptq ? bits + 1
                                                         : bits);
      scales.push_back(static_cast<float>(1 + (random_bits(seed, i, 2) & 63)) * 0x1p-10F);
    }
    pack(format);
  }

  [[nodiscard]] float number(size_t o, size_t i) const {
    const size_t g = o * groups + i / group;
    return static_cast<float>(integers[o * in + i] - zeros[g]) * scales[g];
  }

 private:
  static void put_word(std::string& bytes, uint32_t word) {
    bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
  }

  TestTensor scale_tensor(bool rows_first) const {
    TestTensor tensor{"BF16", {rows_first ? out : groups, rows_first ? groups : out}, {}};
    for (size_t a = 0; a < tensor.shape[0]; ++a) {
      for (size_t b = 0; b < tensor.shape[1]; ++b) {
        const float scale = scales[rows_first ? a * groups + b : b * groups + a];
        tensor.bytes.append(reinterpret_cast<const char*>(&scale) + 2, 2);
      }
    }
    return tensor;
  }

  void pack(PublishedFormat format) {
    switch (format) {
      case PublishedFormat::kCompressedInt8: {
        TestTensor& weight = tensors["weight"] = {"I8", {out, in}, {}};
        for (const int q : integers) weight.bytes += static_cast<char>(q);
        tensors["weight_scale"] = scale_tensor(true);
        return;
      }
      case PublishedFormat::kCompressedInt4: {
        TestTensor& weight = tensors["weight_packed"] = {"I32", {out, in / 8}, {}};
        for (size_t at = 0; at < out * in; at += 8) {
          uint32_t word = 0;
          for (size_t k = 0; k < 8; ++k) word |= static_cast<uint32_t>(integers[at + k]) << 4 * k;
          put_word(weight.bytes, word);
        }
        tensors["weight_scale"] = scale_tensor(true);
        tensors["weight_shape"] = {"I64", {2}, std::string(16, '\0')};
        return;
      }
      case PublishedFormat::kGptq:
      case PublishedFormat::kGptqV2: {
        const int less = format == PublishedFormat::kGptq ? 1 : 0;
        TestTensor& weight = tensors["qweight"] = {"I32", {in / 8, out}, {}};
        for (size_t i = 0; i < in; i += 8) {
          for (size_t o = 0; o < out; ++o) {
            uint32_t word = 0;
            for (size_t k = 0; k < 8; ++k) {
              word |= static_cast<uint32_t>(integers[o * in + i + k]) << 4 * k;
            }
            put_word(weight.bytes, word);
          }
        }
        TestTensor& zero = tensors["qzeros"] = {"I32", {groups, out / 8}, {}};
        for (size_t g = 0; g < groups; ++g) {
          for (size_t o = 0; o < out; o += 8) {
            uint32_t word = 0;
            for (size_t k = 0; k < 8; ++k) {
              word |= static_cast<uint32_t>(zeros[(o + k) * groups + g] - less) << 4 * k;
            }
            put_word(zero.bytes, word);
          }
        }
        tensors["scales"] = scale_tensor(false);
        TestTensor& order = tensors["g_idx"] = {"I32", {in}, {}};
        for (size_t i = 0; i < in; ++i) put_word(order.bytes, static_cast<uint32_t>(i / group));
        return;
      }
      case PublishedFormat::kAwq: {
        constexpr size_t kOrder[] = {0, 2, 4, 6, 1, 3, 5, 7};
        TestTensor& weight = tensors["qweight"] = {"I32", {in, out / 8}, {}};
        for (size_t i = 0; i < in; ++i) {
          for (size_t o = 0; o < out; o += 8) {
            uint32_t word = 0;
            for (size_t k = 0; k < 8; ++k) {
              word |= static_cast<uint32_t>(integers[(o + kOrder[k]) * in + i]) << 4 * k;
            }
            put_word(weight.bytes, word);
          }
        }
        TestTensor& zero = tensors["qzeros"] = {"I32", {groups, out / 8}, {}};
        for (size_t g = 0; g < groups; ++g) {
          for (size_t o = 0; o < out; o += 8) {
            uint32_t word = 0;
            for (size_t k = 0; k < 8; ++k) {
              word |= static_cast<uint32_t>(zeros[(o + kOrder[k]) * groups + g]) << 4 * k;
            }
            put_word(zero.bytes, word);
          }
        }
        tensors["scales"] = scale_tensor(false);
        return;
      }
    }
  }
};

/// The tiny model with dimensions that fit panels; one expert's up_proj and one kv_b_proj are
/// integers.
class PublishedCheckpoint : public ::testing::TestWithParam<Format> {
 protected:
  PublishedCheckpoint() {
    config.set("vocab_size", "64")
        .set("hidden_size", "64")
        .set("kv_lora_rank", "32")
        .set("qk_nope_head_dim", "32")
        .set("v_head_dim", "16")
        .set("moe_intermediate_size", "32")
        .set("n_shared_experts", "0")
        .set("quantization_config", GetParam().config);
    const auto add = [&](const std::string& name, std::vector<uint64_t> shape) {
      tensors[name] = ramp_bf16(std::move(shape), 1, 0);
    };
    const auto add_ffn = [&](const std::string& prefix, uint64_t inner) {
      add(prefix + "gate_proj.weight", {inner, 64});
      add(prefix + "up_proj.weight", {inner, 64});
      add(prefix + "down_proj.weight", {64, inner});
    };
    add("model.embed_tokens.weight", {64, 64});
    add("model.norm.weight", {64});
    add("lm_head.weight", {64, 64});
    for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
      add(layer + "input_layernorm.weight", {64});
      add(layer + "post_attention_layernorm.weight", {64});
      add(layer + "self_attn.q_a_proj.weight", {5, 64});
      add(layer + "self_attn.q_a_layernorm.weight", {5});
      add(layer + "self_attn.q_b_proj.weight", {68, 5});
      add(layer + "self_attn.kv_a_proj_with_mqa.weight", {34, 64});
      add(layer + "self_attn.kv_a_layernorm.weight", {32});
      add(layer + "self_attn.kv_b_proj.weight", {96, 32});
      add(layer + "self_attn.o_proj.weight", {64, 32});
    }
    add_ffn("model.layers.0.mlp.", 9);
    add("model.layers.1.mlp.gate.weight", {4, 64});
    add("model.layers.1.mlp.gate.e_score_correction_bias", {4});
    for (int expert = 0; expert < 4; ++expert) {
      add_ffn("model.layers.1.mlp.experts." + std::to_string(expert) + ".", 32);
    }
    replace(kUp, up);
    replace(kKeyValue, kv_b);
  }

  void replace(const std::string& stem, const Example& example) {
    tensors.erase(stem + "weight");
    for (const auto& [end, tensor] : example.tensors) tensors[stem + end] = tensor;
  }

  Result<Checkpoint> open() {
    write_checkpoint(dir.path(), config, tensors);
    return Checkpoint::open(dir.path());
  }

  const std::string kUp = "model.layers.1.mlp.experts.2.up_proj.";
  const std::string kKeyValue = "model.layers.0.self_attn.kv_b_proj.";
  TempDir dir;
  TestConfig config = tiny_v3_config();
  TestTensors tensors;
  Example up{GetParam().format, 32, 64, 1};
  Example kv_b{GetParam().format, 96, 32, 2};
};

INSTANTIATE_TEST_SUITE_P(Formats, PublishedCheckpoint, testing::ValuesIn(formats()),
                         [](const auto& info) { return info.param.name; });

TEST_P(PublishedCheckpoint, LoadsItsIntegersExactly) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->config().published->format, GetParam().format);
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  const WeightView& view = expert->ffn.up;
  ASSERT_EQ(view.dtype,
            GetParam().format == PublishedFormat::kCompressedInt8 ? DType::kI8 : DType::kI4);
  for (size_t o = 0; o < 32; ++o) {
    for (size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(kernels::weight_at(view, o, i), up.number(o, i)) << o << ", " << i;
    }
  }
  EXPECT_EQ(expert->ffn.gate.dtype, DType::kBF16) << "modules may stay unconverted";
}

TEST_P(PublishedCheckpoint, GivesTheHalvesOfKeysAndValuesAsFloats) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router();
  ASSERT_TRUE(router.ok()) << router.error().message;
  const AttentionWeights& a = (*router)->layers[0].attention;
  for (size_t head = 0; head < 2; ++head) {
    for (size_t row = 0; row < 48; ++row) {
      for (size_t l = 0; l < 32; ++l) {
        const float got = row < 32 ? kernels::weight_at(a.uk_t, head * 32 + l, row)
                                   : kernels::weight_at(a.uv, head * 16 + row - 32, l);
        ASSERT_EQ(got, kv_b.number(head * 48 + row, l));
      }
    }
  }
}

TEST_P(PublishedCheckpoint, CountsTheParametersThatItStandsFor) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const uint64_t quantised = checkpoint->summary().total_parameters;
  config.erase("quantization_config");
  for (const std::string& stem : {kUp, kKeyValue}) {
    std::erase_if(tensors, [&](const auto& entry) { return entry.first.starts_with(stem); });
  }
  tensors[kUp + "weight"] = ramp({32, 64});
  tensors[kKeyValue + "weight"] = ramp({96, 32});
  const auto plain = open();
  ASSERT_TRUE(plain.ok()) << plain.error().message;
  EXPECT_EQ(quantised, plain->summary().total_parameters);
}

TEST_P(PublishedCheckpoint, CountsAsItsOwnMemoryWhatItBringsIntoPanelsAndDecodes) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  const bool int8 = expert->ffn.up.dtype == DType::kI8;
  EXPECT_EQ(*checkpoint->own_bytes_of_expert(1, 2),
            expert->ffn.up.size_bytes() + 32 * up.groups * (sizeof(float) + (int8 ? 0 : 1)));
  EXPECT_EQ(*checkpoint->own_bytes_of_expert(1, 1), 0U) << "mapped";
  EXPECT_FALSE(checkpoint->own_bytes_of_expert(0, 1).ok());
  const uint64_t floats = 64 + 2 * (64 + 64 + 5 + 32) + 4 * 64 + 4;
  const uint64_t kv_b_elements = 96 * 32;  // decoded in one layer, BF16 in the other
  const uint64_t router = floats * 4 + kv_b_elements * (4 + 2);
  EXPECT_EQ(*checkpoint->own_bytes_of_router(), router);
  EXPECT_EQ(*checkpoint->own_bytes_of_router(true), router + 2 * kv_b_elements * 4);
}

TEST_P(PublishedCheckpoint, NamesWhatIsMissingOrOfAnotherShape) {
  for (const auto& [end, tensor] : up.tensors) {
    if (end == "weight_shape" || end == "g_idx") continue;
    TestTensor& stored = tensors[kUp + end];
    stored.shape.push_back(1);
    auto checkpoint = open();
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_THAT(checkpoint.error().message, HasSubstr(kUp + end));
    tensors.erase(kUp + end);
    checkpoint = open();
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_THAT(checkpoint.error().message, HasSubstr(kUp));
    tensors[kUp + end] = tensor;
  }
  EXPECT_TRUE(open().ok());
}

class GptqCheckpoint : public PublishedCheckpoint {};

INSTANTIATE_TEST_SUITE_P(Formats, GptqCheckpoint, testing::Values(formats()[2], formats()[3]),
                         [](const auto& info) { return info.param.name; });

TEST_P(GptqCheckpoint, RefusesColumnsInAnotherOrder) {
  const auto order = tensors.find(kUp + "g_idx");
  ASSERT_NE(order, tensors.end());
  std::swap(order->second.bytes[0], order->second.bytes[4 * 40]);
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_FALSE(expert.ok());
  EXPECT_EQ(expert.error().code, Code::kUnsupported);
  EXPECT_THAT(expert.error().message, HasSubstr("g_idx"));
}

}  // namespace
}  // namespace troupe::model
