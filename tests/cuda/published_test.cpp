// Experts that others quantised in act-order, from their files to the device.

#include <cmath>

#include "actors/placed_weights.hpp"
#include "model/weights.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/model/checkpoint_files.hpp"
#include "tests/model/published_tensors.hpp"

namespace troupe::actors {
namespace {

constexpr size_t kHidden = 64, kInner = 96, kRows = 40;
const std::string kExpert = "model.layers.1.mlp.experts.2.";

/// The tiny model with one expert that is stored so.
model::Checkpoint checkpoint_with(const model::PublishedTestFormat& format,
                                  const std::string& directory) {
  model::TestConfig config = model::tiny_v3_config();
  config.set("hidden_size", std::to_string(kHidden))
      .set("moe_intermediate_size", std::to_string(kInner))
      .set("n_shared_experts", "0")
      .set("quantization_config", format.config);
  model::TestTensors tensors;
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape) {
    tensors[name] = model::ramp_bf16(std::move(shape));
  };
  const auto add_ffn = [&](const std::string& prefix, uint64_t inner) {
    add(prefix + "gate_proj.weight", {inner, kHidden});
    add(prefix + "up_proj.weight", {inner, kHidden});
    add(prefix + "down_proj.weight", {kHidden, inner});
  };
  add("model.embed_tokens.weight", {16, kHidden});
  add("model.norm.weight", {kHidden});
  add("lm_head.weight", {16, kHidden});
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    add(layer + "input_layernorm.weight", {kHidden});
    add(layer + "post_attention_layernorm.weight", {kHidden});
    add(layer + "self_attn.q_a_proj.weight", {5, kHidden});
    add(layer + "self_attn.q_a_layernorm.weight", {5});
    add(layer + "self_attn.q_b_proj.weight", {12, 5});
    add(layer + "self_attn.kv_a_proj_with_mqa.weight", {8, kHidden});
    add(layer + "self_attn.kv_a_layernorm.weight", {6});
    add(layer + "self_attn.kv_b_proj.weight", {14, 6});
    add(layer + "self_attn.o_proj.weight", {kHidden, 6});
  }
  add_ffn("model.layers.0.mlp.", 9);
  add("model.layers.1.mlp.gate.weight", {4, kHidden});
  add("model.layers.1.mlp.gate.e_score_correction_bias", {4});
  for (const std::string expert : {"0.", "1.", "3."}) {
    add_ffn("model.layers.1.mlp.experts." + expert, kInner);
  }
  uint64_t seed = 0;
  for (const auto& [name, out, in] :
       {std::tuple("gate_proj.", kInner, kHidden), std::tuple("up_proj.", kInner, kHidden),
        std::tuple("down_proj.", kHidden, kInner)}) {
    const auto integers = model::random_integers(format.published, out, in, ++seed);
    for (const auto& [end, tensor] : model::published_tensors(format.published, integers)) {
      tensors[kExpert + name + end] = tensor;
    }
  }
  model::write_checkpoint(directory, config, tensors);
  auto checkpoint = model::Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  return std::move(*checkpoint);
}

std::vector<float> on_the_cpu(const model::FfnWeights& ffn, const std::vector<float>& x) {
  std::vector<float> y(kRows * kHidden);
  const kernels::FfnParams params{.x = {x.data(), kRows, kHidden},
                                  .gate = ffn.gate,
                                  .up = ffn.up,
                                  .down = ffn.down,
                                  .y = {y.data(), kRows, kHidden}};
  kernels::scalar().grouped_ffn({&params, 1});
  return y;
}

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{got[i]} - want[i], 2);
    size += double{want[i]} * want[i];
  }
  return std::sqrt(error / size);
}

using CudaPublishedExpert = kernels::Cuda;

TEST_F(CudaPublishedExpert, InActOrderComputesAsOnTheCpu) {
  size_t num_formats = 0;
  for (const model::PublishedTestFormat& format : model::published_formats()) {
    if (!format.published.reordered) continue;
    ++num_formats;
    const model::TempDir dir;
    const auto checkpoint = checkpoint_with(format, dir.path());
    const auto expert = checkpoint.load_expert(1, 2);
    ASSERT_TRUE(expert.ok()) << expert.error().message;
    const auto placed = place(*expert, memory());
    ASSERT_TRUE(placed.ok()) << placed.error().message;
    kernels::Draws draws(31);
    const std::vector<float> x = draws.values(kRows * kHidden);
    const kernels::FfnParams params{.x = {put(x), kRows, kHidden},
                                    .gate = placed->ffn.gate,
                                    .up = placed->ffn.up,
                                    .down = placed->ffn.down,
                                    .y = {room<float>(kRows * kHidden), kRows, kHidden}};
    ops().grouped_ffn({&params, 1});
    const std::vector<float> y = get(params.y.data, kRows * kHidden);
    EXPECT_LE(relative_error(y, on_the_cpu(expert->ffn, x)), 0.02) << format.name;
    model::FfnWeights in_no_order = expert->ffn;
    in_no_order.up.columns = nullptr;
    EXPECT_GT(relative_error(y, on_the_cpu(in_no_order, x)), 0.2) << format.name;
  }
  EXPECT_GE(num_formats, 3U);
}

}  // namespace
}  // namespace troupe::actors
