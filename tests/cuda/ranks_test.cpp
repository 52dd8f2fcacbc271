// Whole models whose attention several devices share: the bits of one device, of logits and of the
// KV that each holds.

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "actors/local_model.hpp"
#include "actors/ranks.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/cuda/shared_model.hpp"

namespace troupe::actors {
namespace {

constexpr uint32_t kPromptTokens = 37;  // more than products stream their weights for
constexpr uint32_t kMaxContext = 48;
constexpr kernels::CudaOptions kSmall{.workspace_bytes = size_t{16} << 20U};

struct Case {
  const char* model;  ///< of tests/golden/models, or a scheme of save_shared_model()
  size_t num_ranks;
  bool is_golden = true;
  DType kv_dtype = DType::kF32;
  AttentionForm form = AttentionForm::kAbsorbed;
};

void PrintTo(const Case& c, std::ostream* out) {
  std::string model = c.model;
  std::ranges::replace(model, '-', '_');
  *out << model << (c.kv_dtype == DType::kBF16 ? "_bf16" : "_f32")
       << (c.form == AttentionForm::kExpanded ? "_expanded" : "") << "_on_" << c.num_ranks;
}

class CudaRanks : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    kernels::start_test_backend(kSmall, alone_);
    if (IsSkipped() || HasFatalFailure()) return;
    kernels::start_test_group(kSmall, GetParam().num_ranks, group_);
    if (IsSkipped() || HasFatalFailure()) return;
    if (!GetParam().is_golden) model::save_shared_model(dir_.path(), GetParam().model);
    const auto vocab = checkpoint().config().vocab_size;
    for (uint32_t i = 0; i < kPromptTokens; ++i) {
      prompt_.push_back(static_cast<TokenId>((17 * i + 5) % vocab));
    }
  }

  [[nodiscard]] model::Checkpoint checkpoint() const {
    const auto opened = model::Checkpoint::open(
        GetParam().is_golden ? kernels::test_model(GetParam().model) : dir_.path());
    CHECK(opened.ok());
    return *opened;
  }

  /// Logits of all tokens, in chunks of these sizes, then of one more in two sequences together.
  [[nodiscard]] std::vector<float> logits(kernels::Backend backend,
                                          const std::vector<uint32_t>& chunks) const {
    auto local = LocalModel::load(checkpoint(),
                                  {.form = GetParam().form,
                                   .kv_dtype = GetParam().kv_dtype,
                                   .max_context = kMaxContext,
                                   .num_sequences = 2},
                                  std::move(backend));
    EXPECT_TRUE(local.ok()) << local.error().message;
    std::vector<float> all;
    const auto run = [&](const std::vector<StepSequence>& sequences) {
      const ConstRows rows = (*local)->step(sequences);
      for (size_t r = 0; r < rows.rows; ++r)
        all.insert(all.end(), rows.row(r), rows.row(r) + rows.cols);
    };
    const auto part = [&](uint32_t sequence, uint32_t first, uint32_t count) {
      return StepSequence{.tokens = std::span(prompt_).subspan(first, count),
                          .first_position = first,
                          .block_table = (*local)->block_table(sequence),
                          .num_logits = count};
    };
    uint32_t first = 0;
    for (const uint32_t chunk : chunks) {
      run({part(0, first, chunk)});
      first += chunk;
    }
    (*local)->copy_kv(0, 1, 20);
    run({part(0, 30, 1), part(1, 20, 9)});
    return all;
  }

  kernels::Backend alone_, group_;
  model::TempDir dir_;
  std::vector<TokenId> prompt_;
};

TEST_P(CudaRanks, GiveTheLogitsOfOneDevice) {
  const std::vector<float> want = logits(std::move(alone_), {kPromptTokens});
  kernels::expect_same_numbers(want, logits(std::move(group_), {20, 1, 16}));
}

/// Steps of a router whose experts answer with any rows, and the KV afterwards.
struct Ran {
  std::vector<float> logits;
  std::vector<std::vector<std::byte>> kv;  ///< by rank
};

class RouterRun {
 public:
  RouterRun(const model::Checkpoint& checkpoint, const kernels::Backend& backend, DType kv_dtype,
            AttentionForm form)
      : config_(checkpoint.config()),
        backend_(backend),
        ranks_(Ranks::load(config_, *checkpoint.load_router(form == AttentionForm::kExpanded),
                           backend,
                           {.num_layers = config_.num_layers,
                            .num_blocks = kBlocks,
                            .block_tokens = kBlockTokens,
                            .kv_dim = config_.kv_dim(),
                            .dtype = kv_dtype})
                   .value()),
        forward_(config_, *ranks_, form, ExchangeRows::kOnHost) {}

  Ran run(const std::vector<TokenId>& tokens) {
    std::vector<BlockId> table;
    for (uint32_t b = 0; b < kBlocks; ++b) table.push_back(BlockId{kBlocks - 1 - b});
    Ran ran;
    uint32_t first = 0;
    for (const uint32_t chunk : {3U, static_cast<uint32_t>(tokens.size()) - 4, 1U}) {
      step({.tokens = std::span(tokens).subspan(first, chunk),
            .first_position = first,
            .block_table = table,
            .num_logits = 1},
           ran.logits);
      first += chunk;
    }
    for (size_t k = 0; k < ranks_->count(); ++k) {
      std::vector<std::byte> kv;
      for (uint32_t b = 0; b * kBlockTokens < tokens.size(); ++b) {
        std::vector<std::byte> block(ranks_->block_bytes());
        (*ranks_)[k].kv.read_block(table[b], block.data());
        // The last block is not full: its rows lie apart by layer.
        const size_t in_use = std::min<size_t>(kBlockTokens, tokens.size() - b * kBlockTokens);
        const size_t row_bytes = (*ranks_)[k].kv.shape().row_bytes();
        for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
          const auto* rows = block.data() + layer * kBlockTokens * row_bytes;
          kv.insert(kv.end(), rows, rows + in_use * row_bytes);
        }
      }
      ran.kv.push_back(std::move(kv));
    }
    return ran;
  }

 private:
  static constexpr uint32_t kBlocks = 6, kBlockTokens = 8;

  void step(const StepSequence& sequence, std::vector<float>& logits) {
    forward_.begin({&sequence, 1});
    while (forward_.advance() == Forward::Status::kExchange) {
      const Exchange exchange = forward_.of(0).exchange();
      const size_t hidden = exchange.rows.cols;
      // As experts whose number decides what they do with a row.
      std::vector<float> answers;
      for (size_t i = 0; i < exchange.topk_idx.size(); ++i) {
        for (size_t c = 0; c < hidden; ++c) {
          answers.push_back(exchange.rows.row(i / exchange.topk)[c] *
                            (0.1F + static_cast<float>(exchange.topk_idx[i] % 7)));
        }
      }
      answers_.resize(ranks_->count());
      places_.resize(ranks_->count());
      for (size_t k = 0; k < ranks_->count(); ++k) {
        kernels::Memory& memory = *backend_.of_rank(k).memory;
        auto* there = answers_[k].room<float>(memory, answers.size());
        memory.copy_in(there, answers.data(), answers.size() * sizeof(float));
        places_[k].clear();
        for (size_t i = 0; i < exchange.topk_idx.size(); ++i)
          places_[k].push_back(there + i * hidden);
        forward_.of(k).provide(places_[k]);
      }
      forward_.compute_shared();
    }
    const Rows rows = forward_.logits();
    const float* of_last = rows.row(0);
    const auto on_host = forward_.on_host({&of_last, 1});
    logits.insert(logits.end(), on_host[0], on_host[0] + rows.cols);
  }

  const model::ModelConfig config_;
  const kernels::Backend& backend_;
  std::unique_ptr<Ranks> ranks_;
  ParallelForward forward_;
  std::vector<kernels::Array> answers_;
  std::vector<std::vector<const float*>> places_;
};

TEST_P(CudaRanks, HoldTheKvOfOneDeviceEach) {
  const model::Checkpoint opened = checkpoint();
  const Ran want = RouterRun(opened, alone_, GetParam().kv_dtype, GetParam().form).run(prompt_);
  const Ran got = RouterRun(opened, group_, GetParam().kv_dtype, GetParam().form).run(prompt_);
  kernels::expect_same_numbers(want.logits, got.logits);
  ASSERT_EQ(got.kv.size(), GetParam().num_ranks);
  for (const auto& kv : got.kv) EXPECT_EQ(kv, want.kv[0]);
}

INSTANTIATE_TEST_SUITE_P(Models, CudaRanks,
                         testing::Values(Case{"v3-groups", 1}, Case{"v3-groups", 2},
                                         Case{"v3-groups", 4, true, DType::kBF16},
                                         Case{"v2-bias-mscale", 2}, Case{"v2-lite", 4},
                                         Case{"v2-lite", 2, true, DType::kF32,
                                              AttentionForm::kExpanded},
                                         Case{"fp8", 2, false}, Case{"fp8", 4, false, DType::kBF16},
                                         Case{"int8", 4, false}, Case{"int4-g32-asym", 2, false}),
                         testing::PrintToStringParamName());

/// Why a model is refused for so many devices.
class CudaRanksOf : public testing::Test {
 protected:
  static std::string refusal(const std::string& directory, size_t num_ranks) {
    const auto checkpoint = model::Checkpoint::open(directory);
    CHECK(checkpoint.ok());
    kernels::Backend group;
    kernels::start_test_group(kSmall, num_ranks, group);
    if (IsSkipped() || HasFatalFailure()) return "";
    const auto loaded = LocalModel::load(*checkpoint, {.max_context = 16}, std::move(group));
    if (loaded.ok()) return "";
    EXPECT_EQ(loaded.error().code, Code::kUnsupported);
    return loaded.error().message;
  }
};

TEST_F(CudaRanksOf, AModelWhoseHeadsTheyCannotShareSaySoBeforeAnythingIsLoaded) {
  const std::string three_heads = kernels::test_model("v3-odd");
  const std::string said = refusal(three_heads, 2);
  if (IsSkipped()) return;
  EXPECT_NE(said.find("num_attention_heads is 3, and 2 devices"), std::string::npos) << said;
  const auto config = model::Checkpoint::open(three_heads)->config();
  EXPECT_FALSE(check_devices(config, 3).ok()) << "70 outputs of o_proj";
  EXPECT_TRUE(check_devices(config, 1).ok());
}

TEST_F(CudaRanksOf, WeightsThatCannotBeCutNameTheMatrix) {
  const model::TempDir dir;
  model::save_shared_model(dir.path(), "fp8");
  const auto checkpoint = model::Checkpoint::open(dir.path());
  ASSERT_TRUE(checkpoint.ok());
  const auto weights = *checkpoint->load_router();
  const auto host = kernels::make_host_memory();
  // 64 outputs for each of 8 devices, and scales are of 128 together.
  const auto placed = place(weights, *host, {.rank = 1, .num_ranks = 8});
  ASSERT_FALSE(placed.ok());
  EXPECT_EQ(placed.error().code, Code::kUnsupported);
  EXPECT_NE(placed.error().message.find("8 devices cannot share q_b_proj [512, 64]"),
            std::string::npos)
      << placed.error().message;
  EXPECT_NE(placed.error().message.find("F8_E4M3"), std::string::npos) << placed.error().message;
  EXPECT_TRUE(place(weights, *host, {.rank = 3, .num_ranks = 4}).ok());
}

}  // namespace
}  // namespace troupe::actors
