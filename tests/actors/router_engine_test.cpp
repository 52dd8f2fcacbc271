// A router's engine in the host's memory and in another one: the same frames, and what is said
// where there is no room.

#include "actors/router_engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstring>

#include "actors/device_room.hpp"
#include "apps/model_shapes.hpp"
#include "base/rounded_size.hpp"
#include "tests/kernels/other_memory.hpp"

namespace troupe::actors {
namespace {

using ::testing::HasSubstr;

constexpr NodeId kShard{7};

class RouterEngines : public testing::Test {
 protected:
  Result<std::shared_ptr<RouterEngine>> make(const kernels::Backend& backend,
                                             const LargestStep& largest = {}) {
    const model::ModelConfig& config = checkpoint_.config();
    auto engine = RouterEngine::make(config, *checkpoint_.load_router(), backend, pool_,
                                     {.num_layers = config.num_layers,
                                      .num_blocks = kBlocks,
                                      .block_tokens = kBlockTokens,
                                      .kv_dim = config.kv_dim()},
                                     AttentionForm::kAbsorbed, largest);
    if (!engine.ok()) return engine;
    auto placement = std::make_shared<experts::Placement>(experts::Placement{
        .num_layers = config.num_layers, .num_experts = config.num_routed_experts});
    placement->holders.assign(size_t{config.num_layers} * config.num_routed_experts, {kShard});
    (*engine)->set_epoch(placement, {.kind = transport::FrameKind::kDispatch});
    return engine;
  }

  static model::Checkpoint opened(const std::string& name) {
    return model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models/" + name)
        .value();
  }

  /// Any rows do for answers.
  [[nodiscard]] GatheredFrame answer_to(const experts::DispatchPlan& plan) const {
    const uint32_t hidden = checkpoint_.config().hidden_size;
    const auto rows = transport::Buffer::allocate(plan.num_results * hidden * sizeof(float));
    for (size_t i = 0; i < plan.num_results * hidden; ++i) {
      rows->floats()[i] = 0.01F * static_cast<float>(i % 17);
    }
    return {.frame = {.header = {.num_rows = plan.num_results, .hidden = hidden}, .payload = rows}};
  }

  /// A step of so many rows in a lane, the last ones each followed by a token.
  void run_step(RouterEngine& engine, uint32_t lane, uint32_t num_rows, uint32_t num_logits) {
    std::vector<StepPart> parts;
    for (uint32_t i = 0; i < num_logits; ++i) {
      StepPart part{.block_table = {BlockId{i}},
                    .wants_token = true,
                    .history = std::make_shared<model::TokenHistory>()};
      part.tokens.assign(i > 0 ? 1 : num_rows - (num_logits - 1), 5);
      for (uint32_t b = 1; b * kBlockTokens < part.tokens.size(); ++b) {
        part.block_table.push_back(BlockId{num_logits + b});
      }
      parts.push_back(std::move(part));
    }
    run_step(engine, lane, std::move(parts));
  }

  /// A part of a prompt, all of it scored.
  void run_scored_step(RouterEngine& engine, uint32_t lane, uint32_t num_rows) {
    StepPart part;
    part.tokens.assign(num_rows, 5);
    part.scored.assign(num_rows, 5);
    for (uint32_t b = 0; b * kBlockTokens < num_rows; ++b) part.block_table.push_back(BlockId{b});
    run_step(engine, lane, {std::move(part)});
  }

  void run_step(RouterEngine& engine, uint32_t lane, std::vector<StepPart> parts) {
    Segment segment = engine.begin(lane, StepId{1}, std::move(parts));
    while (segment.status == Forward::Status::kExchange) {
      engine.compute_meanwhile(lane);
      segment = engine.resume(lane, segment.plan, {answer_to(segment.plan)});
    }
    engine.score(lane);
  }

  static constexpr uint32_t kBlocks = 64, kBlockTokens = 4;

  model::Checkpoint checkpoint_ = opened("v3-groups");
  kernels::ThreadPool pool_{1};
  kernels::Backend cpus_ = kernels::make_cpu_backend(nullptr);
  kernels::Backend device_{.memory = std::make_unique<kernels::OtherMemory>(),
                           .ops = kernels::make_cpu_ops(nullptr)};
};

TEST_F(RouterEngines, SendTheSameRowsFromADevice) {
  const std::vector<StepPart> parts{{.tokens = {3, 1, 4, 1, 5},
                                     .block_table = {BlockId{1}, BlockId{0}},
                                     .wants_token = true,
                                     .history = std::make_shared<model::TokenHistory>()}};
  std::vector<Segment> segments;
  std::vector<std::shared_ptr<RouterEngine>> engines;
  for (const kernels::Backend* backend : {&cpus_, &device_}) {
    auto engine = make(*backend);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    segments.push_back((*engine)->begin(0, StepId{1}, parts));
    engines.push_back(*engine);
  }
  for (size_t layer = 0;; ++layer) {
    ASSERT_EQ(segments[0].status, segments[1].status);
    if (segments[0].status == Forward::Status::kDone) break;
    ASSERT_EQ(segments[1].frames.size(), 1U);
    const transport::Frame &want = segments[0].frames[0], &got = segments[1].frames[0];
    EXPECT_EQ(got.header, want.header);
    ASSERT_EQ(got.payload->size(), want.payload->size());
    EXPECT_EQ(std::memcmp(got.payload->data(), want.payload->data(), want.payload->size()), 0)
        << "exchange " << layer;
    const GatheredFrame answer = answer_to(segments[0].plan);
    for (size_t i = 0; i < 2; ++i) {
      engines[i]->compute_meanwhile(0);
      segments[i] = engines[i]->resume(0, segments[i].plan, {answer});
    }
  }
  const auto& sampled = segments[1].output.sampled;
  ASSERT_EQ(sampled.size(), 1U);
  EXPECT_EQ((*sampled[0])->token, (*segments[0].output.sampled[0])->token);
}

TEST_F(RouterEngines, SayThatADeviceHasNoRoomAndLeaveNothingThere) {
  auto& memory = static_cast<kernels::OtherMemory&>(*device_.memory);
  ASSERT_TRUE(make(device_).ok());
  EXPECT_EQ(memory.num_allocated, 0);
  memory.allocations_left = 0;
  const auto refused = make(device_);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  memory.allocations_left = INT_MAX;
  memory.failure = Error{Code::kInternal, "a copy failed"};
  EXPECT_EQ(make(device_).error().message, "a copy failed") << "an error of loading";
  EXPECT_EQ(memory.num_allocated, 0);
}

/// As if others took what was free when it was counted, before any one of the allocations.
TEST_F(RouterEngines, SayWhatFoundNoRoomWhicheverAllocationFails) {
  auto& memory = static_cast<kernels::OtherMemory&>(*device_.memory);
  const LargestStep largest{.num_rows = 9, .num_logits = 2};
  ASSERT_TRUE(make(device_).ok());
  const int of_weights_and_kv = memory.num_allocations;
  memory.num_allocations = 0;
  ASSERT_TRUE(make(device_, largest).ok());
  const int on_device = memory.num_allocations, on_host = memory.num_allocations_on_host;
  ASSERT_GT(on_device, of_weights_and_kv + 30);
  ASSERT_GT(on_host, 0);
  for (int i = 0; i < on_device + on_host; ++i) {
    memory.allocations_left = i < on_device ? i : INT_MAX;
    memory.allocations_left_on_host = i < on_device ? INT_MAX : i - on_device;
    const auto refused = make(device_, largest);
    ASSERT_FALSE(refused.ok()) << i;
    EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
    EXPECT_THAT(
        refused.error().message,
        HasSubstr(i < of_weights_and_kv ? "taking memory for weights and KV blocks: full; "
                                        : "taking memory for activations of the largest step: "));
    EXPECT_THAT(refused.error().message, HasSubstr("lower limits.kv_blocks"));
    EXPECT_EQ(memory.bytes_held() + memory.bytes_held_on_host(), 0U) << i;
  }
}

TEST_F(RouterEngines, BeginWithTheSharedExpertBeforeTheAnswersCome) {
  auto& memory = static_cast<kernels::OtherMemory&>(*device_.memory);
  const auto engine = make(device_).value();
  StepPart part{.wants_token = true, .history = std::make_shared<model::TokenHistory>()};
  part.tokens = {3, 1, 4};
  part.block_table = {BlockId{0}};
  const Segment segment = engine->begin(0, StepId{1}, {std::move(part)});
  ASSERT_EQ(segment.status, Forward::Status::kExchange);
  memory.num_started = 0;
  engine->compute_meanwhile(0);
  EXPECT_EQ(memory.num_started, 1);
}

TEST_F(RouterEngines, TakeWhatIsCountedForTheirLargestStepBeforeTheFirstAndNothingInSteps) {
  auto& memory = static_cast<kernels::OtherMemory&>(*device_.memory);
  for (const char* name : {"v3-groups", "v2-lite", "v3-odd", "v3-wide-values", "v2-bias-mscale"}) {
    checkpoint_ = opened(name);
    for (const LargestStep& largest : {LargestStep{71, 3, 0}, LargestStep{71, 40, 1},
                                       LargestStep{71, 3, 2}, LargestStep{9, 2, 0}}) {
      size_t weights_and_kv = 0;
      {
        const auto without = make(device_);
        weights_and_kv = memory.bytes_held();
      }
      const auto engine = make(device_, largest);
      ASSERT_TRUE(engine.ok()) << engine.error().message;
      EXPECT_EQ(memory.bytes_held() - weights_and_kv,
                activation_bytes_of_router(checkpoint_.config(), largest))
          << name << " " << largest.num_rows << " rows in " << largest.micro_batches;
      const int taken = memory.num_allocations, pinned = memory.num_allocations_on_host;
      memory.num_unpinned = 0;
      const uint32_t rows = largest.num_rows;
      const auto run = [&](uint32_t lane, uint32_t rows_of_lane) {
        run_step(**engine, lane, rows_of_lane, largest.num_logits);
        run_scored_step(**engine, lane, rows_of_lane);
      };
      run_step(**engine, 0, 2, 1);
      if (largest.micro_batches != 2) run(0, rows);
      if (largest.micro_batches != 1) {
        run(0, (rows + 1) / 2);
        run(1, rows / 2);
      }
      EXPECT_EQ(memory.num_allocations, taken) << "in a step";
      EXPECT_EQ(memory.num_allocations_on_host, pinned) << "in a step";
      EXPECT_EQ(memory.num_unpinned, 0) << "copies that a device waits for";
    }
  }
}

TEST(ActivationsOfDeepSeekV3, AreAsManyBytesAsTheManualSays) {
  const auto config =
      model::parse_config(boost::json::serialize(apps::shape_config("v3").value())).value();
  EXPECT_EQ(activation_bytes_of_router(config, {512, 16, 0}) >> 20U, 836U);
  EXPECT_EQ(activation_bytes_of_shard(config, 2 * 512, 8) >> 20U, 476U);
}

TEST_F(RouterEngines, AreRefusedWithEachPartOfWhatTheyNeed) {
  auto& memory = static_cast<kernels::OtherMemory&>(*device_.memory);
  const KvShape kv{.num_layers = 2, .num_blocks = 1024, .block_tokens = 16, .kv_dim = 64};
  const LargestStep step{.num_rows = 64, .num_logits = 8};
  const model::ModelConfig& config = checkpoint_.config();
  const auto fits = [&] {
    return check_room_of_router(device_, config, {.all = 3U << 20U}, kv, step);
  };
  const uint64_t activations = activation_bytes_of_router(config, step);
  const uint64_t needed = (uint64_t{11} << 20U) + activations;
  EXPECT_TRUE(fits().ok()) << "then the allocation will tell";
  memory.left = needed;
  EXPECT_TRUE(fits().ok());
  memory.left = needed - 1;
  device_.reserved_bytes = 5U << 20U;
  const Result<void> refused = fits();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(refused.error().message,
            "on the device, beside 5.00 MiB that operations have reserved, weights (3.00 MiB), KV "
            "blocks (8.00 MiB) and activations of the largest step (" +
                rounded_size(activations) + ") need " + rounded_size(needed) + " of memory, and " +
                rounded_size(needed - 1) +
                " are available; lower limits.kv_blocks or limits.max_step_tokens, or set "
                "limits.kv_dtype: bf16");
}

}  // namespace
}  // namespace troupe::actors
