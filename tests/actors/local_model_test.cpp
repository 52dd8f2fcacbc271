// Steps over several sequences in one process, and what they say that they read and computed.

#include "actors/local_model.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace troupe::actors {
namespace {

constexpr uint32_t kContext = 64;

class LocalSteps : public testing::Test {
 protected:
  void SetUp() override {
    auto checkpoint = model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/models/demo");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    summary_ = checkpoint->summary();
    auto local = LocalModel::load(*checkpoint, {.max_context = kContext, .num_sequences = 3});
    ASSERT_TRUE(local.ok()) << local.error().message;
    local_ = std::move(*local);
  }

  /// The next tokens of a sequence, with the logits of the last.
  [[nodiscard]] StepSequence chunk(uint32_t sequence, const std::vector<TokenId>& tokens,
                                   uint32_t first_position) const {
    return {.tokens = tokens,
            .first_position = first_position,
            .block_table = local_->block_table(sequence),
            .num_logits = 1};
  }
  std::vector<float> last_logits(std::span<const StepSequence> sequences, size_t row) {
    const ConstRows rows = local_->step(sequences);
    EXPECT_EQ(rows.rows, sequences.size());
    return {rows.row(row), rows.row(row) + rows.cols};
  }
  std::vector<float> logits_of(const StepSequence& sequence) {
    return last_logits({&sequence, 1}, 0);
  }

  model::Checkpoint::Summary summary_;
  std::unique_ptr<LocalModel> local_;
};

TEST_F(LocalSteps, OfSeveralSequencesGiveTheLogitsOfEachAlone) {
  const std::vector<TokenId> a{5, 17, 900}, b{44, 3}, next_a{61}, next_b{1200};
  logits_of(chunk(0, a, 0));
  logits_of(chunk(1, b, 0));
  const std::vector<float> alone_a = logits_of(chunk(0, next_a, 3));
  const std::vector<float> alone_b = logits_of(chunk(1, next_b, 2));
  EXPECT_NE(alone_a, alone_b);
  const std::vector<StepSequence> together{chunk(0, next_a, 3), chunk(1, next_b, 2)};
  EXPECT_EQ(last_logits(together, 0), alone_a);
  EXPECT_EQ(last_logits(together, 1), alone_b);
}

TEST(LocalMemory, IsCheckedForCopiesOfWeightsAndTheKvBeforeAnythingIsLoaded) {
  const auto checkpoint = model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/models/demo");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const model::ModelConfig& config = checkpoint->config();
  const uint64_t weights = checkpoint->bytes_of_router()->own;
  const uint64_t kv = uint64_t{3} * kContext * config.num_layers * config.kv_dim() * sizeof(float);
  LocalModelOptions options{
      .max_context = kContext, .num_sequences = 3, .available_memory = weights + kv};
  EXPECT_TRUE(LocalModel::load(*checkpoint, options).ok()) << "mapped weights count for nothing";
  options.available_memory = weights + kv - 1;
  const auto refused = LocalModel::load(*checkpoint, options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_THAT(refused.error().message, testing::HasSubstr("models/demo"));
  EXPECT_THAT(refused.error().message, testing::HasSubstr("are available"));
  options.kv_dtype = DType::kBF16;
  EXPECT_TRUE(LocalModel::load(*checkpoint, options).ok());
  options = {.available_memory = weights};
  EXPECT_TRUE(LocalModel::load(*checkpoint, options).ok()) << "KV of unknown use";
  options.available_memory = weights - 1;
  EXPECT_FALSE(LocalModel::load(*checkpoint, options).ok());
}

TEST_F(LocalSteps, GoOnFromACopyOfAnothersKv) {
  std::vector<TokenId> prompt;
  for (TokenId t = 0; t < 20; ++t) prompt.push_back(100 + 7 * t);  // more than a block
  const std::vector<TokenId> next{61}, other{62};
  logits_of(chunk(0, prompt, 0));
  local_->copy_kv(0, 2, 20);
  const std::vector<float> expected = logits_of(chunk(0, next, 20));
  logits_of(chunk(0, other, 0));  // the copy is its own
  EXPECT_EQ(logits_of(chunk(2, next, 20)), expected);
}

TEST_F(LocalSteps, ComputeWithEveryActiveParameterOnce) {
  const std::vector<TokenId> token{61};
  logits_of(chunk(0, token, 0));
  const StepWork work = local_->last_work();
  const model::ModelConfig& c = local_->config();
  // Norms and gate biases are added, not multiplied with a matrix; attention sees one position.
  const uint64_t norms = c.num_layers * (2 * c.hidden_size + c.q_lora_rank + c.kv_lora_rank) +
                         c.hidden_size + 3 * c.num_routed_experts;
  const uint64_t attention =
      uint64_t{c.num_layers} * c.num_heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim);
  EXPECT_EQ(work.float_multiply_adds, summary_.active_parameters - norms + attention);
  EXPECT_EQ(work.integer_multiply_adds, 0U);
  EXPECT_EQ(work.num_experts, 3 * c.num_experts_per_tok);  // three layers have experts
  EXPECT_EQ(work.kv_bytes, uint64_t{c.num_layers} * c.kv_dim() * 4);
}

TEST_F(LocalSteps, ReadWeightsOnceForAllRowsThatNeedThem) {
  const std::vector<TokenId> token{61}, other{900};
  logits_of(chunk(0, token, 0));
  const StepWork one = local_->last_work();
  const std::vector<StepSequence> same{chunk(0, token, 0), chunk(1, token, 0)};
  local_->step(same);
  const StepWork two = local_->last_work();
  const uint64_t embedding_row = local_->config().hidden_size * 2;
  EXPECT_EQ(two.weight_bytes, one.weight_bytes + embedding_row);
  EXPECT_EQ(two.num_experts, one.num_experts);
  EXPECT_EQ(two.kv_bytes, 2 * one.kv_bytes);
  EXPECT_EQ(two.float_multiply_adds, 2 * one.float_multiply_adds);

  const std::vector<StepSequence> different{chunk(0, token, 0), chunk(1, other, 0)};
  local_->step(different);
  const StepWork apart = local_->last_work();
  const model::ModelConfig& c = local_->config();
  const uint64_t expert_bytes = uint64_t{3} * c.hidden_size * c.moe_intermediate_size * 2;  // BF16
  EXPECT_GT(apart.num_experts, one.num_experts);
  EXPECT_EQ(apart.weight_bytes - two.weight_bytes,
            (apart.num_experts - two.num_experts) * expert_bytes);
}

}  // namespace
}  // namespace troupe::actors
