// The forward pass of whole models over the CUDA backend, routed experts included, against the CPU:
// near it, and with bits of its own that do not depend on chunks or on the batch.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "actors/local_model.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::actors {
namespace {

constexpr uint32_t kPromptTokens = 37;  // more than products stream their weights for, and 3 blocks
constexpr uint32_t kMaxContext = 48;
/// Of a row's largest logit: activations and KV are rounded to BF16, 2^-9 each time.
constexpr double kTolerance = 0.02;

using Logits = std::vector<std::vector<float>>;

struct Case {
  const char* model;  ///< of tests/golden/models
  DType kv_dtype;
  AttentionForm form = AttentionForm::kAbsorbed;
  int max_rows_of_other_experts = 0;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.model; }

class CudaForward : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    device_ = load_on_device({});
    if (IsSkipped() || HasFatalFailure()) return;
    for (uint32_t i = 0; i < kPromptTokens; ++i) {
      prompt_.push_back(static_cast<TokenId>((17 * i + 5) % device_->config().vocab_size));
    }
  }

  /// @returns nullptr where the test is skipped or has failed
  static std::unique_ptr<LocalModel> load_on_device(kernels::CudaOptions options) {
    options.workspace_bytes = size_t{64} << 20U;
    kernels::Backend backend;
    kernels::start_test_backend(options, backend);
    return IsSkipped() || HasFatalFailure() ? nullptr : load(std::move(backend));
  }
  static std::unique_ptr<LocalModel> load(kernels::Backend backend) {
    const auto checkpoint = model::Checkpoint::open(kernels::test_model(GetParam().model));
    CHECK(checkpoint.ok());
    auto local = LocalModel::load(*checkpoint,
                                  {.form = GetParam().form,
                                   .kv_dtype = GetParam().kv_dtype,
                                   .max_context = kMaxContext,
                                   .num_sequences = 2},
                                  std::move(backend));
    CHECK(local.ok());
    return std::move(*local);
  }

  static StepSequence part(LocalModel& model, uint32_t sequence, const std::vector<TokenId>& tokens,
                           uint32_t first, uint32_t count) {
    return {.tokens = std::span(tokens).subspan(first, count),
            .first_position = first,
            .block_table = model.block_table(sequence),
            .num_logits = count};
  }
  /// Of all tokens, which go through in chunks of these sizes.
  static Logits logits(LocalModel& model, const std::vector<TokenId>& tokens,
                       const std::vector<uint32_t>& chunks) {
    Logits all;
    uint32_t first = 0;
    for (const uint32_t chunk : chunks) {
      const StepSequence sequence = part(model, 0, tokens, first, chunk);
      const ConstRows rows = model.step({&sequence, 1});
      for (size_t r = 0; r < rows.rows; ++r) all.emplace_back(rows.row(r), rows.row(r) + rows.cols);
      first += chunk;
    }
    EXPECT_EQ(first, tokens.size());
    return all;
  }

  std::unique_ptr<LocalModel> device_;
  std::vector<TokenId> prompt_;
};

void expect_same_bits(const Logits& want, const Logits& got) {
  ASSERT_EQ(want.size(), got.size());
  for (size_t r = 0; r < want.size(); ++r) {
    SCOPED_TRACE("row " + std::to_string(r));
    kernels::expect_same_numbers(want[r], got[r]);
  }
}

double largest(const std::vector<float>& row) {
  double size = 0;
  for (const float v : row) size = std::max(size, std::abs(static_cast<double>(v)));
  return size;
}

TEST_P(CudaForward, GivesTheLogitsOfTheCpuWithinATolerance) {
  const Logits want = logits(*load({}), prompt_, {kPromptTokens});
  const Logits got = logits(*device_, prompt_, {kPromptTokens});
  ASSERT_EQ(got.size(), want.size());
  std::vector<double> errors;  // of the rows
  for (size_t r = 0; r < want.size(); ++r) {
    double worst = 0;
    for (size_t v = 0; v < want[r].size(); ++v) {
      ASSERT_TRUE(std::isfinite(got[r][v]));
      worst = std::max(worst, std::abs(double{got[r][v]} - want[r][v]));
    }
    errors.push_back(worst / largest(want[r]));
  }
  // Where the gate finds two experts nearly as good, rounding decides, and such a row is farther
  // off.
  const auto far = std::ranges::count_if(errors, [](double e) { return e > kTolerance; });
  RecordProperty("relative_errors", testing::PrintToString(errors));
  EXPECT_LE(far, GetParam().max_rows_of_other_experts) << testing::PrintToString(errors);
  EXPECT_GT(*std::ranges::max_element(errors), 0) << "computed by the CPU?";
}

TEST_P(CudaForward, ChoosesTheTokensOfTheCpuUnlessTwoAreNearlyAsLikely) {
  scheduler::RequestSpec spec{.prompt = {prompt_.begin(), prompt_.begin() + 20}, .max_tokens = 8};
  spec.sampling.temperature = 0;
  std::vector<TokenId> tokens = spec.prompt;
  const auto done = device_->generate(spec, [&](const model::SampledToken& token) {
    tokens.push_back(token.token);
    return true;
  });
  ASSERT_TRUE(done.ok()) << done.error().message;
  ASSERT_EQ(tokens.size(), 28U);
  const Logits cpu = logits(*load({}), tokens, {28});
  for (size_t i = spec.prompt.size(); i < tokens.size(); ++i) {
    const std::vector<float>& row = cpu[i - 1];
    const double behind = *std::ranges::max_element(row) - row[static_cast<size_t>(tokens[i])];
    EXPECT_LE(behind, 2 * kTolerance * largest(row)) << "token " << i;
  }
}

TEST_P(CudaForward, GivesARowTheSameBitsInAnyChunks) {
  const Logits whole = logits(*device_, prompt_, {kPromptTokens});
  expect_same_bits(whole, logits(*device_, prompt_, {16, 5, 13, 1, 1, 1}));
  expect_same_bits(whole, logits(*device_, prompt_, {1, 35, 1}));
}

TEST_P(CudaForward, GivesARowTheSameBitsBesideAnotherSequence) {
  const std::vector<TokenId> other(prompt_.rbegin(), prompt_.rend());
  const Logits alone = logits(*device_, prompt_, {kPromptTokens - 1, 1});
  const std::vector<std::vector<StepSequence>> steps{
      {part(*device_, 1, other, 0, 9), part(*device_, 0, prompt_, 0, kPromptTokens - 1)},
      {part(*device_, 0, prompt_, kPromptTokens - 1, 1), part(*device_, 1, other, 9, 20)}};
  Logits beside;
  for (const auto& step : steps) {
    const ConstRows rows = device_->step(step);
    const size_t first = beside.empty() ? 9 : 0;
    const size_t count = beside.empty() ? kPromptTokens - 1 : 1;
    for (size_t r = first; r < first + count; ++r) {
      beside.emplace_back(rows.row(r), rows.row(r) + rows.cols);
    }
  }
  expect_same_bits(alone, beside);
}

TEST_P(CudaForward, GivesTheSameBitsWhereNoLaunchesStartTogether) {
  // Decoding, a chunk in between; the few uploads that there is room for move from step to step.
  std::vector<uint32_t> chunks{8};
  chunks.insert(chunks.end(), 8, 1);
  chunks.push_back(9);
  chunks.insert(chunks.end(), 12, 1);
  const auto without = load_on_device({.graphs = false});
  const auto moving = load_on_device({.staging_bytes = size_t{32} << 10U});
  const Logits want = logits(*without, prompt_, chunks);
  expect_same_bits(want, logits(*device_, prompt_, chunks));
  expect_same_bits(want, logits(*moving, prompt_, chunks));
}

TEST_P(CudaForward, GoesOnFromACopyOfTheKv) {
  const std::vector<TokenId> start(prompt_.begin(), prompt_.begin() + 20);
  logits(*device_, start, {20});
  device_->copy_kv(0, 1, 20);
  const StepSequence next = part(*device_, 0, prompt_, 20, 1);
  const StepSequence copied = part(*device_, 1, prompt_, 20, 1);
  const ConstRows rows = device_->step({&next, 1});
  const std::vector<float> want(rows.row(0), rows.row(0) + rows.cols);
  const ConstRows again = device_->step({&copied, 1});
  expect_same_bits({want}, {{again.row(0), again.row(0) + again.cols}});
}

INSTANTIATE_TEST_SUITE_P(Models, CudaForward,
                         testing::Values(Case{"v2-lite", DType::kBF16},
                                         Case{"v3-groups", DType::kF32, AttentionForm::kAbsorbed,
                                              4},
                                         Case{"v2-lite", DType::kF32, AttentionForm::kExpanded},
                                         Case{"v3-odd", DType::kBF16}),
                         [](const auto& info) {
                           std::string name = info.param.model;
                           std::ranges::replace(name, '-', '_');
                           name += info.param.kv_dtype == DType::kBF16 ? "_bf16" : "_f32";
                           return name +
                                  (info.param.form == AttentionForm::kExpanded ? "_expanded" : "");
                         });

using CudaLimits = kernels::Cuda;

TEST_F(CudaLimits, AreNamedForModelsThatTheKernelsCannotCompute) {
  const model::ModelConfig largest{
      .kv_lora_rank = 512, .qk_rope_head_dim = 64, .num_routed_experts = 1024};
  EXPECT_TRUE(check_limits(largest, ops()).ok());
  struct Larger {
    model::ModelConfig config;
    const char* said;
  };
  model::ModelConfig rank = largest, rope = largest, experts = largest;
  rank.kv_lora_rank = 513;
  rope.qk_rope_head_dim = 66;
  experts.num_routed_experts = 1025;
  for (const auto& [config, said] :
       {Larger{rank, "kv_lora_rank is 513"}, Larger{rope, "qk_rope_head_dim is 66"},
        Larger{experts, "n_routed_experts is 1025"}}) {
    const Result<void> checked = check_limits(config, ops());
    ASSERT_FALSE(checked.ok());
    EXPECT_EQ(checked.error().code, Code::kUnsupported);
    EXPECT_NE(checked.error().message.find(said), std::string::npos) << checked.error().message;
    EXPECT_TRUE(check_limits(config, kernels::scalar()).ok());
  }
}

TEST_F(CudaLimits, AreCheckedWhenAModelIsLoaded) {
  const model::TempDir dir;
  model::TestTensors tensors = model::tiny_v3_tensors();
  for (const std::string layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    tensors[layer + "kv_a_proj_with_mqa.weight"] = model::ramp({513 + 2, 8});
    tensors[layer + "kv_a_layernorm.weight"] = model::ramp({513});
    tensors[layer + "kv_b_proj.weight"] = model::ramp({14, 513});
  }
  model::write_checkpoint(dir.path(), model::tiny_v3_config().set("kv_lora_rank", "513"), tensors);
  const auto checkpoint = model::Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  ASSERT_TRUE(LocalModel::load(*checkpoint, {}).ok());
  auto backend = kernels::make_test_backend({.workspace_bytes = size_t{1} << 20U});
  ASSERT_TRUE(backend.ok());
  const auto loaded = LocalModel::load(*checkpoint, {}, std::move(*backend));
  ASSERT_FALSE(loaded.ok());
  EXPECT_EQ(loaded.error().code, Code::kUnsupported);
  EXPECT_NE(loaded.error().message.find("kv_lora_rank is 513"), std::string::npos);
}

}  // namespace
}  // namespace troupe::actors
