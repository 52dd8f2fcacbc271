// Integer weights as compressed-tensors, GPTQ and AWQ store them.

#include "model/published_integers.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu/convert.hpp"
#include "model/checkpoint_source.hpp"
#include "model/checkpoint_writer.hpp"
#include "model/tensor_locator.hpp"
#include "model/weights.hpp"
#include "tests/model/checkpoint_files.hpp"
#include "tests/model/published_tensors.hpp"

namespace troupe::model {
namespace {

using ::testing::HasSubstr;

/// Element (o, i), whatever the order of columns.
float number_at(const WeightView& w, size_t o, size_t i) {
  if (w.columns == nullptr) return kernels::weight_at(w, o, i);
  const auto place = std::find(w.columns, w.columns + w.in, i) - w.columns;
  return kernels::weight_at(w, o, static_cast<size_t>(place));
}

/// The tiny model with dimensions that fit panels; one expert's up_proj and one kv_b_proj are
/// integers.
class PublishedCheckpoint : public ::testing::TestWithParam<PublishedTestFormat> {
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

  void replace(const std::string& stem, const IntegerMatrix& matrix) {
    tensors.erase(stem + "weight");
    for (const auto& [end, tensor] : published_tensors(GetParam().published, matrix)) {
      tensors[stem + end] = tensor;
    }
  }

  Result<Checkpoint> open() {
    write_checkpoint(dir.path(), config, tensors);
    return Checkpoint::open(dir.path());
  }

  /// Of `up`.
  [[nodiscard]] static uint64_t bytes_of_columns() {
    return GetParam().published.reordered ? 64 * sizeof(uint32_t) : 0;
  }

  const std::string kUp = "model.layers.1.mlp.experts.2.up_proj.";
  const std::string kKeyValue = "model.layers.0.self_attn.kv_b_proj.";
  TempDir dir;
  TestConfig config = tiny_v3_config();
  TestTensors tensors;
  IntegerMatrix up = random_integers(GetParam().published, 32, 64, 1);
  IntegerMatrix kv_b = random_integers(GetParam().published, 96, 32, 2);
};

INSTANTIATE_TEST_SUITE_P(Formats, PublishedCheckpoint, testing::ValuesIn(published_formats()),
                         [](const auto& info) { return info.param.name; });

TEST_P(PublishedCheckpoint, LoadsItsIntegersExactly) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_EQ(checkpoint->config().published->format, GetParam().published.format);
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  const WeightView& view = expert->ffn.up;
  ASSERT_EQ(view.dtype, GetParam().published.dtype);
  for (size_t o = 0; o < 32; ++o) {
    for (size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(number_at(view, o, i), up.number(o, i)) << o << ", " << i;
    }
  }
  EXPECT_EQ(view.columns != nullptr, GetParam().published.reordered);
  EXPECT_EQ(expert->ffn.gate.dtype, DType::kBF16) << "modules may stay unconverted";
}

TEST_P(PublishedCheckpoint, MultipliesWithTheNumbersThatItsIntegersStandFor) {
  const auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  std::vector<float> x(64), y(32);
  for (size_t i = 0; i < 64; ++i) x[i] = static_cast<float>(random_bits(9, i) % 255) - 127.0F;
  // Rounding to 8 bits changes nothing: integers, in every order 32 at a time up to 127.
  for (size_t i = 0; i < 64; ++i) x[i] = i % 2 == 0 ? std::copysign(127.0F, x[i]) : x[i];
  kernels::make_cpu_ops(nullptr)->gemm(
      {.x = {x.data(), 1, 64}, .w = expert->ffn.up, .y = {y.data(), 1, 32}});
  for (size_t o = 0; o < 32; ++o) {
    double sum = 0, magnitude = 0;
    for (size_t i = 0; i < 64; ++i) {
      sum += double{x[i]} * up.number(o, i);
      magnitude += std::abs(double{x[i]} * up.number(o, i));
    }
    EXPECT_NEAR(y[o], sum, 1e-6 * magnitude) << o;
  }
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
  EXPECT_EQ(checkpoint->bytes_of_expert(1, 2)->own,
            expert->ffn.up.size_bytes() + 32 * up.num_groups() * (sizeof(float) + (int8 ? 0 : 1)) +
                bytes_of_columns());
  EXPECT_EQ(checkpoint->bytes_of_expert(1, 1)->own, 0U) << "mapped";
  EXPECT_FALSE(checkpoint->bytes_of_expert(0, 1).ok());
  const uint64_t floats = 64 + 2 * (64 + 64 + 5 + 32) + 4 * 64 + 4;
  const uint64_t kv_b_elements = 96 * 32;  // decoded in one layer, BF16 in the other
  const uint64_t router = floats * 4 + kv_b_elements * (4 + 2);
  EXPECT_EQ(checkpoint->bytes_of_router()->own, router);
  EXPECT_EQ(checkpoint->bytes_of_router(true)->own, router + 2 * kv_b_elements * 4);
}

TEST_P(PublishedCheckpoint, NamesWhatIsMissingOrOfAnotherShape) {
  for (const auto& [end, tensor] : published_tensors(GetParam().published, up)) {
    if (end == "weight_shape" || (end == "g_idx" && !GetParam().published.reordered)) continue;
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

TEST_P(PublishedCheckpoint, IsKeptAsItIsInTroupesOwnFormat) {
  const auto published = open();
  ASSERT_TRUE(published.ok()) << published.error().message;
  EXPECT_FALSE(CheckpointSource::open(*published).ok()) << "nothing else is made of it";
  const auto source = CheckpointSource::open(*published, /*keep=*/true);
  ASSERT_TRUE(source.ok()) << source.error().message;
  TestConfig own = config;
  own.set("quantization_config",
          R"({"quant_method":"troupe","version":1,"experts":"keep","rest":"keep"})");
  const auto saved = save_checkpoint(published->config(), **source,
                                     {.directory = dir / "kept",
                                      .config_json = own.json(),
                                      .keep = true,
                                      .shard_bytes = 20000,
                                      .num_threads = 2});
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  const auto kept = Checkpoint::open(dir / "kept");
  ASSERT_TRUE(kept.ok()) << kept.error().message;
  EXPECT_EQ(kept->summary().total_parameters, published->summary().total_parameters);
  const auto expert = kept->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_EQ(kept->bytes_of_expert(1, 2)->own, bytes_of_columns()) << "all else is mapped";
  const WeightView& view = expert->ffn.up;
  ASSERT_EQ(view.dtype, GetParam().published.dtype);
  EXPECT_EQ(view.group_scales.dtype, DType::kBF16);
  const auto loaded = published->load_expert(1, 2);
  ASSERT_TRUE(loaded.ok());
  EXPECT_EQ(std::memcmp(view.data, loaded->ffn.up.data, view.size_bytes()), 0);
  for (size_t o = 0; o < 32; ++o) {
    for (size_t i = 0; i < 64; ++i) {
      ASSERT_EQ(number_at(view, o, i), up.number(o, i)) << o << ", " << i;
    }
  }
  const auto a = kept->load_router(), b = published->load_router();
  ASSERT_TRUE(a.ok() && b.ok());
  for (size_t layer = 0; layer < 2; ++layer) {
    const AttentionWeights& x = (*a)->layers[layer].attention;
    const AttentionWeights& y = (*b)->layers[layer].attention;
    EXPECT_EQ(x.uk_t.dtype, y.uk_t.dtype);
    EXPECT_EQ(std::memcmp(x.uk_t.data, y.uk_t.data, x.uk_t.size_bytes()), 0);
    EXPECT_EQ(std::memcmp(x.uv.data, y.uv.data, x.uv.size_bytes()), 0);
  }
  EXPECT_FALSE(CheckpointSource::open(*kept, /*keep=*/true).ok());
}

TEST(StoredGroups, AreThoseThatTheNumberOfScalesTells) {
  for (const uint64_t group : {32, 64, 128, 256, 1024, 4096}) {
    EXPECT_TRUE(is_stored_group(1024, group)) << group;
  }
  EXPECT_FALSE(is_stored_group(1024, 512));
  EXPECT_FALSE(is_stored_group(160, 96)) << "as many as of 128";
}

/// Those whose name begins so.
std::vector<PublishedTestFormat> formats_of(std::string_view name) {
  std::vector<PublishedTestFormat> some;
  std::ranges::copy_if(published_formats(), std::back_inserter(some),
                       [&](const PublishedTestFormat& format) {
                         return std::string_view(format.name).starts_with(name);
                       });
  return some;
}

class GptqCheckpoint : public PublishedCheckpoint {};

INSTANTIATE_TEST_SUITE_P(Formats, GptqCheckpoint, testing::ValuesIn(formats_of("Gptq")),
                         [](const auto& info) { return info.param.name; });

TEST_P(GptqCheckpoint, RefusesColumnsInGroupsThatCannotBe) {
  std::string& order = tensors.at(kUp + "g_idx").bytes;
  const std::string right = order;
  for (const int32_t wrong : {1 - int32_t{right[0]}, 2, -1}) {  // uneven groups, or there is none
    order = right;
    std::memcpy(order.data(), &wrong, sizeof wrong);
    const auto checkpoint = open();
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    const auto expert = checkpoint->load_expert(1, 2);
    ASSERT_FALSE(expert.ok()) << wrong;
    EXPECT_EQ(expert.error().code, Code::kCorrupt);
    EXPECT_THAT(expert.error().message, HasSubstr(kUp + "g_idx"));
    EXPECT_THAT(expert.error().message, HasSubstr("group"));
  }
}

TEST_P(GptqCheckpoint, HasColumnsInAnotherOrderOnlyIfTheConfigSaysSo) {
  up.groups = random_groups(64, up.group, 5);
  replace(kUp, up);
  const auto expert = open()->load_expert(1, 2);
  EXPECT_EQ(expert.ok(), GetParam().published.reordered || up.num_groups() == 1);
  if (!expert.ok()) {
    EXPECT_THAT(expert.error().message, HasSubstr("desc_act"));
  }
  up.groups.clear();
  replace(kUp, up);
  const auto in_order = open()->load_expert(1, 2);
  ASSERT_TRUE(in_order.ok()) << in_order.error().message;
  EXPECT_EQ(in_order->ffn.up.columns, nullptr) << "nothing to gather";
}

TEST(ColumnsByGroup, AreSortedAndStayAsTheyComeWithinAGroup) {
  constexpr size_t kIn = 160, kGroup = 64;  // the last group has 32
  const std::vector<uint32_t> groups = random_groups(kIn, kGroup, 3);
  const auto columns = columns_by_group(std::as_bytes(std::span(groups)), kIn, kGroup);
  ASSERT_TRUE(columns.ok()) << columns.error().message;
  std::vector<uint32_t> expected(kIn);
  std::iota(expected.begin(), expected.end(), 0U);
  std::ranges::stable_sort(expected, {}, [&](uint32_t i) { return groups[i]; });
  EXPECT_EQ(*columns, expected);
}

class ActOrderCheckpoint : public PublishedCheckpoint {};

INSTANTIATE_TEST_SUITE_P(Formats, ActOrderCheckpoint, testing::ValuesIn(formats_of("GptqActOrder")),
                         [](const auto& info) { return info.param.name; });

TEST_P(ActOrderCheckpoint, HasItsOrderChecked) {
  const auto published = open();
  ASSERT_TRUE(published.ok()) << published.error().message;
  const auto source = CheckpointSource::open(*published, /*keep=*/true);
  ASSERT_TRUE(source.ok()) << source.error().message;
  config.set("quantization_config",
             R"({"quant_method":"troupe","version":1,"experts":"keep","rest":"keep"})");
  const std::string kept = dir / "kept";
  ASSERT_TRUE(save_checkpoint(published->config(), **source,
                              {.directory = kept, .config_json = config.json(), .keep = true})
                  .ok());
  tensors = tensors_of(read_file(kept + "/model.safetensors"));
  TestTensor& columns = tensors.at(kUp + "weight_columns");
  const std::string right = columns.bytes;
  for (const size_t other : {size_t{1}, size_t{64}}) {  // a column twice, and one that is not there
    uint32_t column = 64;
    if (other < 64) std::memcpy(&column, &right[other * 4], sizeof column);
    std::memcpy(columns.bytes.data(), &column, sizeof column);
    const auto expert = open()->load_expert(1, 2);
    ASSERT_FALSE(expert.ok()) << column;
    EXPECT_EQ(expert.error().code, Code::kCorrupt);
    EXPECT_THAT(expert.error().message, HasSubstr(kUp + "weight_columns"));
  }
  columns.bytes = right.substr(0, 63 * 4);
  columns.shape = {63};
  const auto checkpoint = open();
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_THAT(checkpoint.error().message, HasSubstr(kUp + "weight_columns"));
}

TEST_P(ActOrderCheckpoint, HasOneOrderForMatricesThatShareIt) {
  const std::string gate = "model.layers.1.mlp.experts.2.gate_proj.";
  replace(gate, up);
  auto expert = open()->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_EQ(expert->ffn.gate.columns, expert->ffn.up.columns) << "products read the same rows";
  up.groups = random_groups(64, up.group, 6);
  replace(gate, up);
  expert = open()->load_expert(1, 2);
  ASSERT_TRUE(expert.ok()) << expert.error().message;
  EXPECT_NE(expert->ffn.gate.columns, expert->ffn.up.columns);
}

class Gptq8Checkpoint : public PublishedCheckpoint {};

INSTANTIATE_TEST_SUITE_P(Formats, Gptq8Checkpoint,
                         testing::Values(formats_of("GptqInt8")[0], formats_of("GptqV2Int8")[0]),
                         [](const auto& info) { return info.param.name; });

TEST_P(Gptq8Checkpoint, RefusesZerosThatPanelsDoNotHoldButDecodesThem) {
  kv_b.zeros[3] = 97;
  replace(kKeyValue, kv_b);
  auto checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto router = checkpoint->load_router();
  ASSERT_TRUE(router.ok()) << router.error().message;
  EXPECT_EQ(kernels::weight_at((*router)->layers[0].attention.uk_t, 0, 3), kv_b.number(3, 0));
  up.zeros[1] = 127;
  replace(kUp, up);
  checkpoint = open();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto expert = checkpoint->load_expert(1, 2);
  ASSERT_FALSE(expert.ok());
  EXPECT_EQ(expert.error().code, Code::kUnsupported);
  EXPECT_THAT(expert.error().message, HasSubstr(kUp + "qzeros"));
  EXPECT_THAT(expert.error().message, HasSubstr("127"));
}

class CompressedCheckpoint : public PublishedCheckpoint {};

INSTANTIATE_TEST_SUITE_P(Formats, CompressedCheckpoint,
                         testing::ValuesIn(formats_of("CompressedInt4")),
                         [](const auto& info) { return info.param.name; });

TEST_P(CompressedCheckpoint, RefusesColumnsInAnotherOrderWhateverTheConfigSays) {
  TestTensor& order = tensors[kUp + "weight_g_idx"] = {"I32", {64}, {}};
  for (uint32_t i = 0; i < 64; ++i) {
    const auto group = static_cast<uint32_t>(i / up.group);
    order.bytes.append(reinterpret_cast<const char*>(&group), sizeof group);
  }
  EXPECT_TRUE(open()->load_expert(1, 2).ok()) << "in their own";
  order.bytes[0] = 1;
  const auto expert = open()->load_expert(1, 2);
  ASSERT_FALSE(expert.ok());
  EXPECT_THAT(expert.error().message, HasSubstr("weight_g_idx"));
}

TEST(PublishedPanels, AreTheSameForAnyNumberOfThreads) {
  for (const PublishedTestFormat& format : published_formats()) {
    const IntegerMatrix matrix = random_integers(format.published, 112, 160, 7);
    const TestTensors tensors = published_tensors(format.published, matrix);
    const auto bytes_of = [&](std::initializer_list<const char*> names) {
      for (const char* name : names) {
        if (const auto at = tensors.find(name); at != tensors.end()) {
          return std::as_bytes(std::span(at->second.bytes));
        }
      }
      return Bytes();
    };
    std::vector<uint32_t> columns;
    if (const Bytes groups = bytes_of({"g_idx", "weight_g_idx"}); !groups.empty()) {
      columns = *columns_by_group(groups, matrix.in, matrix.group);
    }
    EXPECT_EQ(columns.empty(), !format.published.reordered);
    const PublishedMatrix from{.format = format.published.format,
                               .dtype = format.published.dtype,
                               .weight = bytes_of({"weight", "weight_packed", "qweight"}),
                               .scales = bytes_of({"weight_scale", "scales"}),
                               .scale_dtype = DType::kBF16,
                               .zeros = bytes_of({"weight_zero_point", "qzeros"}),
                               .out = matrix.out,
                               .in = matrix.in,
                               .group = matrix.group,
                               .columns = columns};
    const auto one = to_panels(from), many = to_panels(from, 3);
    ASSERT_TRUE(one.ok() && many.ok()) << format.name;
    EXPECT_EQ(one->data, many->data) << format.name;
    EXPECT_EQ(one->scales, many->scales) << format.name;
    EXPECT_EQ(one->zeros, many->zeros) << format.name;
    const WeightView view = many->view(from);
    const std::vector<float> floats = to_floats(from, 0, matrix.out / 16);
    for (size_t o = 0; o < matrix.out; ++o) {
      for (size_t i = 0; i < matrix.in; ++i) {
        ASSERT_EQ(number_at(view, o, i), matrix.number(o, i)) << format.name;
        ASSERT_EQ(floats[o * matrix.in + i], matrix.number(o, i)) << format.name;
      }
    }
  }
}

}  // namespace
}  // namespace troupe::model
