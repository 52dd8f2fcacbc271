// What a step has to read and compute, against counts by hand.

#include "actors/step_work.hpp"

#include <gtest/gtest.h>

#include "actors/router_actor.hpp"
#include "apps/model_shapes.hpp"
#include "base/check_ok.hpp"
#include "kernels/backend.hpp"

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
  std::vector<float> x(3 * 64), y(2 * 64);  // two of the three rows are for this expert
  const float scales[1] = {};
  WeightView gate = matrix(DType::kI8, 32, 64), down = matrix(DType::kBF16, 64, 32);
  gate.group_scales = {.data = scales, .dtype = DType::kF32, .group = 64};
  const std::vector<kernels::FfnParams> experts{{.x = ConstRows(x.data(), 3, 64),
                                                 .gate = gate,
                                                 .up = gate,
                                                 .down = down,
                                                 .y = Rows(y.data(), 2, 64)}};
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

model::ModelConfig shape(const char* name) {
  return CHECK_OK(model::parse_config(boost::json::serialize(CHECK_OK(apps::shape_config(name)))));
}

TEST(AttentionSpan, OfPublishedShapes) {
  // V2-Lite: 27 x 13,762,560 for attention, 67,239,936 for the dense layer, 26 x 69,337,088 for
  // experts and gates; a position takes 27 x 16 x (512 + 64 + 512).
  EXPECT_DOUBLE_EQ(attention_span(shape("v2-lite"), AttentionForm::kAbsorbed),
                   2'241'593'344.0 / 470'016);
  // V3: 61 x 187,105,280, 3 x 396,361,728, 58 x 398,196,736; 61 x 128 x (512 + 64 + 512).
  EXPECT_DOUBLE_EQ(attention_span(shape("v3"), AttentionForm::kAbsorbed),
                   35'697'917'952.0 / 8'495'104);
}

TEST(AttentionSpan, AgreesWithWhatAStepComesTo) {
  const Tiny tiny;
  model::ModelConfig config = tiny.config;
  config.intermediate_size = 12;
  const TokenId token = 1;
  for (const AttentionForm form : {AttentionForm::kAbsorbed, AttentionForm::kExpanded}) {
    const auto at = [&](uint32_t position) {
      const StepSequence row{.tokens = {&token, 1}, .first_position = position};
      const StepWork work =
          work_outside_experts(config, tiny.weights, form, DType::kF32, {&row, 1});
      return static_cast<double>(work.float_multiply_adds);
    };
    const double position = at(1) - at(0), row = at(0) - position;
    EXPECT_DOUBLE_EQ(attention_span(config, form), row / position);
  }
}

TEST(AttentionSpan, OfTheModelReachesTheBatcher) {
  const std::string directory = std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models/v3-groups";
  const auto checkpoint = CHECK_OK(model::Checkpoint::open(directory));
  const model::ModelConfig& config = checkpoint.config();
  kernels::ThreadPool pool(1);
  const kernels::Backend backend = kernels::make_cpu_backend(&pool);
  const KvShape kv{.num_layers = config.num_layers,
                   .num_blocks = 1,
                   .block_tokens = 1,
                   .kv_dim = config.kv_dim()};
  const auto engine = CHECK_OK(RouterEngine::make(config, CHECK_OK(checkpoint.load_router()),
                                                  backend, pool, kv, AttentionForm::kAbsorbed));
  const RouterOptions options = for_model({.batcher = {.max_step_tokens = 7}}, *engine);
  EXPECT_EQ(options.batcher.attention_span,
            static_cast<uint32_t>(attention_span(config, AttentionForm::kAbsorbed)));
  EXPECT_GT(options.batcher.attention_span, 1U);
  EXPECT_EQ(options.batcher.max_step_tokens, 7U);
}

}  // namespace
}  // namespace troupe::actors
