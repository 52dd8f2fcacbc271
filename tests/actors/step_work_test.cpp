// What a step has to read and compute, against counts by hand.

#include "actors/step_work.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace troupe::actors {
namespace {

WeightView matrix(DType dtype, size_t out, size_t in) {
  static const float kSomething = 0;
  return {.data = &kSomething, .dtype = dtype, .out = out, .in = in};
}

TEST(HeldBytes, CountScalesAndZeros) {
  EXPECT_EQ(held_bytes(matrix(DType::kF32, 3, 5)), 60U);
  EXPECT_EQ(held_bytes(matrix(DType::kBF16, 3, 5)), 30U);
  const float scales[6] = {};
  WeightView f8 = matrix(DType::kF8E4M3, 130, 257);
  f8.scales = scales;  // 2 x 3 blocks
  EXPECT_EQ(held_bytes(f8), 130U * 257 + 6 * 4);
  WeightView i4 = matrix(DType::kI4, 16, 96);
  i4.group_scales = {.data = scales, .dtype = DType::kBF16, .group = 64};  // 2 groups in a row
  EXPECT_EQ(held_bytes(i4), 16U * 48 + 16 * 2 * 2);
  const uint8_t zeros[32] = {};
  i4.group_scales.zeros = zeros;
  EXPECT_EQ(held_bytes(i4), 16U * 48 + 16 * 2 * 3);
  WeightView i8 = matrix(DType::kI8, 32, 64);
  i8.group_scales = {.data = scales, .dtype = DType::kF32, .group = 1U << 20U};  // one a row
  EXPECT_EQ(held_bytes(i8), 32U * 64 + 32 * 4);
}

TEST(StepWork, OfExpertsCountsIntegerProductsApart) {
  const std::vector<float> x(2 * 64);
  const float scales[1] = {};
  WeightView gate = matrix(DType::kI8, 32, 64), down = matrix(DType::kBF16, 64, 32);
  gate.group_scales = {.data = scales, .dtype = DType::kF32, .group = 64};
  const std::vector<kernels::FfnParams> experts{
      {.x = ConstRows(x.data(), 2, 64), .gate = gate, .up = gate, .down = down}};
  const StepWork work = work_of(experts);
  EXPECT_EQ(work.num_experts, 1U);
  EXPECT_EQ(work.integer_multiply_adds, 2U * 2 * 32 * 64);
  EXPECT_EQ(work.float_multiply_adds, 2U * 32 * 64);
  EXPECT_EQ(work.weight_bytes, 2U * (32 * 64 + 32 * 4) + 32 * 64 * 2);
}

/// One dense layer with two heads: nope 4, rope 2, v 3, rank 8; hidden 10, inner 12, vocabulary 20.
struct Tiny {
  model::ModelConfig config;
  model::RouterWeights weights;

  Tiny() {
    config.vocab_size = 20;
    config.hidden_size = 10;
    config.num_layers = 1;
    config.num_heads = 2;
    config.kv_lora_rank = 8;
    config.qk_nope_head_dim = 4;
    config.qk_rope_head_dim = 2;
    config.v_head_dim = 3;
    weights.embedding = weights.head = matrix(DType::kBF16, 20, 10);
    weights.final_norm.resize(10);
    model::LayerWeights layer;
    layer.attention.input_norm.resize(10);
    layer.attention.post_norm.resize(10);
    layer.attention.kv_a_norm.resize(8);
    layer.attention.q = matrix(DType::kBF16, 12, 10);
    layer.attention.kv_a = matrix(DType::kBF16, 10, 10);
    layer.attention.uk_t = matrix(DType::kF32, 2 * 8, 4);
    layer.attention.uv = matrix(DType::kF32, 2 * 3, 8);
    layer.attention.o = matrix(DType::kBF16, 10, 6);
    layer.dense = {.gate = matrix(DType::kBF16, 12, 10),
                   .up = matrix(DType::kBF16, 12, 10),
                   .down = matrix(DType::kBF16, 10, 12)};
    weights.layers.push_back(std::move(layer));
  }
};

constexpr uint64_t kMatrices = 12 * 10 + 10 * 10 + 10 * 6 + 3 * 12 * 10;
constexpr uint64_t kHead = 20 * 10;
constexpr uint64_t kKvB = 2 * (4 + 3) * 8;  // float32
constexpr uint64_t kNorms = 10 + 10 + 8;

TEST(StepWork, OfAPrefillChunkCountsEachFormOfAttention) {
  const Tiny tiny;
  const std::vector<TokenId> tokens{1, 2, 3};
  const StepSequence chunk{.tokens = tokens, .first_position = 5, .num_logits = 0};
  constexpr uint64_t kRowPositions = 6 + 7 + 8;
  for (const AttentionForm form : {AttentionForm::kAbsorbed, AttentionForm::kExpanded}) {
    const StepWork work =
        work_outside_experts(tiny.config, tiny.weights, form, DType::kF32, {&chunk, 1});
    EXPECT_EQ(work.weight_bytes, 3 * 10 * 2 + kMatrices * 2 + (kKvB + kNorms) * 4);
    EXPECT_EQ(work.kv_bytes, 8U * (8 + 2) * 4);
    const uint64_t attention = form == AttentionForm::kAbsorbed
                                   ? 3 * kKvB + kRowPositions * 2 * (8 + 2 + 8)
                                   : 8 * kKvB + kRowPositions * 2 * (4 + 2 + 3);
    EXPECT_EQ(work.float_multiply_adds, 3 * kMatrices + attention);
  }
}

TEST(StepWork, OfSeveralSequencesReadsTheHeadForThoseWithLogits) {
  const Tiny tiny;
  const std::vector<TokenId> token{1};
  std::vector<StepSequence> both{{.tokens = token, .first_position = 0, .num_logits = 0},
                                 {.tokens = token, .first_position = 3, .num_logits = 0}};
  const auto work = [&] {
    return work_outside_experts(tiny.config, tiny.weights, AttentionForm::kAbsorbed, DType::kBF16,
                                both);
  };
  const StepWork none = work();
  EXPECT_EQ(none.kv_bytes, (1U + 4U) * (8 + 2) * 2);
  both[0].num_logits = both[1].num_logits = 1;
  const StepWork two = work();
  EXPECT_EQ(two.weight_bytes - none.weight_bytes, kHead * 2 + 10 * 4);
  EXPECT_EQ(two.float_multiply_adds - none.float_multiply_adds, 2 * kHead);
}

}  // namespace
}  // namespace troupe::actors
