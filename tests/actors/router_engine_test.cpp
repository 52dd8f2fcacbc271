// A router's engine in the host's memory and in another one: the same frames, and what is said
// where there is no room.

#include "actors/router_engine.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/kernels/other_memory.hpp"

namespace troupe::actors {
namespace {

constexpr NodeId kShard{7};

class RouterEngines : public testing::Test {
 protected:
  Result<std::shared_ptr<RouterEngine>> make(const kernels::Backend& backend) {
    const model::ModelConfig& config = checkpoint_.config();
    auto engine = RouterEngine::make(config, *checkpoint_.load_router(), backend, pool_,
                                     {.num_layers = config.num_layers,
                                      .num_blocks = 8,
                                      .block_tokens = 4,
                                      .kv_dim = config.kv_dim()},
                                     AttentionForm::kAbsorbed);
    if (!engine.ok()) return engine;
    auto placement = std::make_shared<experts::Placement>(experts::Placement{
        .num_layers = config.num_layers, .num_experts = config.num_routed_experts});
    placement->holders.assign(size_t{config.num_layers} * config.num_routed_experts, {kShard});
    (*engine)->set_epoch(placement, {.kind = transport::FrameKind::kDispatch});
    return engine;
  }

  model::Checkpoint checkpoint_ =
      model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models/v3-groups")
          .value();
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
    // Any rows do for answers.
    const uint32_t num_results = segments[0].plan.num_results;
    const uint32_t hidden = checkpoint_.config().hidden_size;
    const auto rows = transport::Buffer::allocate(num_results * hidden * sizeof(float));
    for (size_t i = 0; i < num_results * hidden; ++i) {
      rows->floats()[i] = 0.01F * static_cast<float>(i % 17);
    }
    const GatheredFrame answer{
        .frame = {.header = {.num_rows = num_results, .hidden = hidden}, .payload = rows}};
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
  memory.fails = true;
  const auto refused = make(device_);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  memory.fails = false;
  memory.failure = Error{Code::kInternal, "a copy failed"};
  EXPECT_EQ(make(device_).error().message, "a copy failed") << "an error of loading";
  EXPECT_EQ(memory.num_allocated, 0);
}

}  // namespace
}  // namespace troupe::actors
