// Breaches of the shape contract end the process, in every version and every build type.

#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

class ShapeChecksDeathTest : public testing::Test {
 protected:
  std::vector<float> a_ = std::vector<float>(64);
  std::vector<float> b_ = std::vector<float>(64);
  std::vector<float> c_ = std::vector<float>(64);
  std::unique_ptr<Ops> ops_ = make_cpu_ops(nullptr);

  WeightView weight(size_t out, size_t in) {
    return {.data = b_.data(), .dtype = DType::kF32, .out = out, .in = in};
  }
};

TEST_F(ShapeChecksDeathTest, GemmRefusesShapesThatDoNotFit) {
  const ConstRows x(a_.data(), 2, 4);
  const Rows y(c_.data(), 2, 3);
  ops_->gemm({.x = x, .w = weight(3, 4), .y = y});  // the right one
  EXPECT_DEATH(ops_->gemm({.x = x, .w = weight(3, 5), .y = y}), "CHECK failed");
  EXPECT_DEATH(ops_->gemm({.x = x, .w = weight(4, 4), .y = y}), "CHECK failed");
  EXPECT_DEATH(ops_->gemm({.x = x, .w = weight(3, 4), .y = {c_.data(), 3, 3}}), "CHECK failed");
  EXPECT_DEATH(ops_->gemm({.x = {a_.data(), 2, 4, 3}, .w = weight(3, 4), .y = y}), "stride");
  EXPECT_DEATH(ops_->gemm({.x = x, .w = weight(3, 4), .y = {a_.data() + 5, 2, 3}}), "CHECK failed");
  EXPECT_DEATH(ops_->gemm({.x = x, .w = {.data = nullptr, .out = 3, .in = 4}, .y = y}),
               "CHECK failed");
}

TEST_F(ShapeChecksDeathTest, EmbedRefusesTokensOutsideTheVocabulary) {
  for (const TokenId token : {-1, 4}) {
    const std::vector<TokenId> tokens = {0, token};
    EXPECT_DEATH(ops_->embed({.table = weight(4, 8), .tokens = tokens, .out = {a_.data(), 2, 8}}),
                 "token");
  }
}

TEST_F(ShapeChecksDeathTest, RowOperationsRefuseDifferentShapes) {
  EXPECT_DEATH(ops_->add({.x = {a_.data(), 2, 4}, .y = {b_.data(), 2, 5}}), "CHECK failed");
  EXPECT_DEATH(ops_->silu_mul(
                   {.gate = {a_.data(), 2, 4}, .up = {b_.data(), 1, 4}, .out = {c_.data(), 2, 4}}),
               "CHECK failed");
  EXPECT_DEATH(
      ops_->rms_norm({.x = {a_.data(), 2, 4}, .weight = nullptr, .out = {c_.data(), 2, 4}}),
      "CHECK failed");
}

TEST_F(ShapeChecksDeathTest, RopeRefusesOddOrTooLargeDimensions) {
  const std::vector<uint32_t> positions = {0};
  const std::vector<float> inv_freq = {1, 1};
  const auto rope = [&](size_t dim) {
    ops_->rope({.x = {a_.data(), 1, 6},
                .num_heads = 2,
                .head_dim = 3,
                .dim = dim,
                .positions = positions,
                .inv_freq = inv_freq});
  };
  EXPECT_DEATH(rope(3), "dim");
  EXPECT_DEATH(rope(4), "dim");
}

TEST_F(ShapeChecksDeathTest, TheGateRefusesMoreExpertsThanItMayChooseFrom) {
  std::vector<ExpertIdx> idx(8);
  TopkGateParams p{.logits = {a_.data(), 1, 8},
                   .method = GateMethod::kGroupLimitedGreedy,
                   .num_groups = 4,
                   .topk_groups = 2,
                   .topk = 5,
                   .topk_idx = idx.data(),
                   .topk_weight = b_.data()};
  EXPECT_DEATH(ops_->topk_gate(p), "topk");
  p.topk = 4;
  ops_->topk_gate(p);
  p.num_groups = 3;
  EXPECT_DEATH(ops_->topk_gate(p), "num_groups");
}

TEST_F(ShapeChecksDeathTest, AttentionRefusesAContextBeyondItsBlocks) {
  const void* block = b_.data();
  const auto attend = [&](uint32_t context_len, DType kv_dtype = DType::kF32) {
    const AttentionRow row{.blocks = {&block, 1}, .context_len = context_len};
    ops_->mla_absorbed({.q_latent = {a_.data(), 1, 4},
                        .q_rope = {a_.data() + 8, 1, 2},
                        .rows = {&row, 1},
                        .kv_dtype = kv_dtype,
                        .block_tokens = 4,
                        .num_heads = 1,
                        .kv_rank = 4,
                        .rope_dim = 2,
                        .scale = 1,
                        .out = {c_.data(), 1, 4}});
  };
  attend(4);
  EXPECT_DEATH(attend(5), "context_len");
  EXPECT_DEATH(attend(0), "context_len");
  EXPECT_DEATH(attend(4, DType::kF16), "dtype");
}

TEST_F(ShapeChecksDeathTest, KvIsStoredAtAsManyPlacesAsThereAreRows) {
  void* place = b_.data();
  const auto store = [&](size_t rows, DType kv_dtype) {
    ops_->store_kv({.x = {a_.data(), rows, 4}, .kv_dtype = kv_dtype, .out = {&place, 1}});
  };
  store(1, DType::kBF16);
  EXPECT_DEATH(store(2, DType::kBF16), "rows");
  EXPECT_DEATH(store(1, DType::kF8E4M3), "dtype");
}

TEST_F(ShapeChecksDeathTest, CombineRefusesASlotWithoutARow) {
  const std::vector<const float*> slots = {a_.data(), nullptr};
  EXPECT_DEATH(ops_->combine({.expert_rows = slots.data(),
                              .topk_weight = b_.data(),
                              .topk = 2,
                              .residual = {c_.data(), 1, 4}}),
               "expert_rows");
}

TEST_F(ShapeChecksDeathTest, AnFfnRefusesRowsThatThereAreNot) {
  const auto refused = [&](const uint32_t* x_rows, size_t rows, const char* why) {
    const FfnParams p{.x = {a_.data(), 2, 4},
                      .x_rows = x_rows,
                      .gate = weight(3, 4),
                      .up = weight(3, 4),
                      .down = weight(4, 3),
                      .y = {c_.data(), rows, 4}};
    EXPECT_DEATH(ops_->grouped_ffn({&p, 1}), why);
  };
  const uint32_t beyond = 2;
  refused(&beyond, 1, "x_rows");
  refused(nullptr, 1, "rows");  // without x_rows they are as many as x has
}

TEST_F(ShapeChecksDeathTest, AnFfnRefusesMatricesThatDoNotChain) {
  const FfnParams p{.x = {a_.data(), 1, 4},
                    .gate = weight(3, 4),
                    .up = weight(3, 4),
                    .down = weight(4, 2),
                    .y = {c_.data(), 1, 4}};
  EXPECT_DEATH(ops_->grouped_ffn({&p, 1}), "CHECK failed");
}

}  // namespace
}  // namespace troupe::kernels
