// What an expert shard computes, with its experts in the host's memory and in another one.

#include "actors/shard_engine.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "actors/device_room.hpp"
#include "actors/placed_weights.hpp"
#include "tests/kernels/other_memory.hpp"

namespace troupe::actors {
namespace {

using ::testing::HasSubstr;

constexpr LayerIdx kLayer = 2;
const ShardEngine::Keys kTwo{{kLayer, 0}, {kLayer, 3}};
constexpr uint32_t kMaxBatchRows = 6;

model::Checkpoint opened(const std::string& name) {
  return model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models/" + name)
      .value();
}

class ShardEngineOnADevice : public testing::Test {
 protected:
  kernels::OtherMemory& memory() { return static_cast<kernels::OtherMemory&>(*backend_.memory); }
  transport::Frame dispatch(const std::vector<transport::Assignment>& work, uint32_t num_rows) {
    const auto hidden = checkpoint_.config().hidden_size;
    const auto rows = transport::Buffer::allocate(num_rows * hidden * sizeof(float));
    for (size_t i = 0; i < num_rows * hidden; ++i) {
      rows->floats()[i] = 0.01F * static_cast<float>((i * 37 + ++num_drawn_) % 101) - 0.5F;
    }
    return {.header = {.num_rows = num_rows, .hidden = hidden, .assignments = work},
            .payload = num_rows == 0 ? nullptr : rows};
  }

  model::Checkpoint checkpoint_ = opened("v3-groups");
  kernels::Backend backend_{.memory = std::make_unique<kernels::OtherMemory>(),
                            .ops = kernels::make_cpu_ops(nullptr)};
  ShardEngine engine_{checkpoint_, backend_, kMaxBatchRows};
  size_t num_drawn_ = 0;
};

TEST_F(ShardEngineOnADevice, AnswersAsOneInTheHostsMemory) {
  const kernels::Backend cpus = kernels::make_cpu_backend(nullptr);
  ShardEngine host(checkpoint_, cpus, kMaxBatchRows);
  ASSERT_TRUE(host.load(kTwo).ok());
  ASSERT_TRUE(engine_.load(kTwo).ok());
  const std::vector<transport::Frame> frames{dispatch({{1, 3}, {0, 0}, {1, 0}}, 2), dispatch({}, 0),
                                             dispatch({{0, 3}}, 1)};
  const std::vector<const transport::Frame*> pointers{&frames[0], &frames[1], &frames[2]};
  const auto want = host.compute(kLayer, pointers);
  const auto got = engine_.compute(kLayer, pointers);
  ASSERT_EQ(got.size(), 3U);
  for (size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(got[i]->size(), want[i]->size());
    EXPECT_EQ(std::memcmp(got[i]->data(), want[i]->data(), want[i]->size()), 0) << i;
  }
  EXPECT_EQ(got[0]->size(), 3 * checkpoint_.config().hidden_size * sizeof(float));
  EXPECT_EQ(got[1]->size(), 0U);
}

/// Rows, results, and those by expert.
constexpr int kArrays = 3;

TEST_F(ShardEngineOnADevice, LetsGoOfWhatIsNoLongerHeld) {
  ASSERT_TRUE(engine_.load(kTwo).ok());
  const int of_two = memory().num_allocated;
  EXPECT_EQ(of_two, 2 * 3 + kArrays) << "gate, up and down of each";
  ASSERT_TRUE(engine_.load({kTwo[0], {kLayer, 5}}).ok());
  EXPECT_EQ(memory().num_allocated, of_two);
  engine_.keep({kTwo[0]});
  EXPECT_EQ(memory().num_allocated, 3 + kArrays);
  engine_.keep({});
  EXPECT_EQ(memory().num_allocated, kArrays);
}

TEST_F(ShardEngineOnADevice, TakesOneExpertAtATime) {
  auto loaded = engine_.load_ahead(kTwo);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  EXPECT_EQ(memory().num_allocated, 0) << "it may run beside other jobs";
  ASSERT_TRUE(engine_.take_some(*loaded).ok());
  EXPECT_EQ(loaded->size(), 1U);
  ASSERT_TRUE(engine_.take_some(*loaded).ok());
  EXPECT_TRUE(loaded->empty());
  EXPECT_EQ(memory().num_allocated, 2 * 3 + kArrays);
  const kernels::Backend cpus = kernels::make_cpu_backend(nullptr);
  ShardEngine host(checkpoint_, cpus, kMaxBatchRows);
  loaded = host.load_ahead(kTwo);
  ASSERT_TRUE(host.take_some(*loaded).ok());
  EXPECT_TRUE(loaded->empty()) << "there, nothing is copied";
}

TEST_F(ShardEngineOnADevice,
       TakesWhatIsCountedForItsLargestBatchWithItsExpertsAndNothingInBatches) {
  ASSERT_TRUE(engine_.load(kTwo).ok());
  const uint64_t counted = activation_bytes_of_shard(checkpoint_.config(), kMaxBatchRows, 2);
  EXPECT_EQ(memory().bytes_held(), 2 * checkpoint_.bytes_of_expert(kLayer, 0)->all + counted);
  const int taken = memory().num_allocations;
  memory().num_unpinned = 0;
  // All rows of the batch choose both experts, however they come.
  const std::vector<transport::Frame> frames{
      dispatch({{0, 0}, {0, 3}, {1, 0}, {1, 3}}, 2),
      dispatch({{0, 0}, {0, 3}, {1, 0}, {1, 3}, {2, 0}, {2, 3}, {3, 0}, {3, 3}}, 4)};
  const std::vector<const transport::Frame*> pointers{&frames[0], &frames[1]};
  engine_.compute(kLayer, std::span(pointers).first(1));
  engine_.compute(kLayer, pointers);
  EXPECT_EQ(memory().num_allocations, taken);
  EXPECT_EQ(memory().num_unpinned, 0);
  // They are there already: another expert needs room for itself, and for as many rows more.
  const uint64_t of_three = activation_bytes_of_shard(checkpoint_.config(), kMaxBatchRows, 3);
  const uint64_t more = checkpoint_.bytes_of_expert(kLayer, 5)->all + of_three - counted;
  memory().left = more;
  EXPECT_TRUE(engine_.check_room({{kLayer, 5}}).ok());
  memory().left = more - 1;
  EXPECT_FALSE(engine_.check_room({{kLayer, 5}}).ok());
}

TEST_F(ShardEngineOnADevice, NeedsNoMoreRoomThanARowsExpertsTake) {
  ShardEngine::Keys all;
  for (ExpertIdx e = 0; e < checkpoint_.config().num_routed_experts; ++e)
    all.push_back({kLayer, e});
  const uint64_t needed = all.size() * checkpoint_.bytes_of_expert(kLayer, 0)->all +
                          activation_bytes_of_shard(checkpoint_.config(), kMaxBatchRows,
                                                    checkpoint_.config().num_experts_per_tok);
  memory().left = needed;
  EXPECT_TRUE(engine_.check_room(all).ok());
  memory().left = needed - 1;
  EXPECT_FALSE(engine_.check_room(all).ok());
}

TEST_F(ShardEngineOnADevice, RefusesExpertsForWhichThereIsNoRoomBeforeItLoadsAny) {
  const uint64_t needed = 2 * checkpoint_.bytes_of_expert(kLayer, 0)->all +
                          activation_bytes_of_shard(checkpoint_.config(), kMaxBatchRows, 2);
  memory().left = needed - 1;
  const Result<void> refused = engine_.load(kTwo);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_THAT(refused.error().message, HasSubstr("on the device, 2 experts ("));
  EXPECT_THAT(refused.error().message, HasSubstr(") and activations of the largest batch ("));
  EXPECT_EQ(memory().num_allocated, 0);
  memory().left = needed;
  EXPECT_TRUE(engine_.load(kTwo).ok());
  memory().left = Error{Code::kUnavailable, "not told"};
  EXPECT_TRUE(engine_.check_room(kTwo).ok()) << "then the allocation will tell";
  memory().allocations_left = 0;
  EXPECT_EQ(engine_.load({{kLayer, 7}}).error().code, Code::kResourceExhausted);
}

/// As if others took what was free when it was counted, before any one of the allocations.
TEST_F(ShardEngineOnADevice, SaysWhatFoundNoRoomWhicheverAllocationFailsAndLivesOn) {
  constexpr int kOfExperts = 2 * 3, kOnHost = 2;  // rows and results
  const transport::Frame frame = dispatch({{0, 0}, {1, 3}}, 2);
  const transport::Frame* const pointer = &frame;
  ASSERT_TRUE(engine_.load(kTwo).ok());
  const auto want = engine_.compute(kLayer, {&pointer, 1});
  const auto expect_refusal = [](const Result<void>& refused, int i) {
    ASSERT_FALSE(refused.ok()) << i;
    EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
    EXPECT_THAT(refused.error().message,
                HasSubstr(i < kOfExperts ? "taking memory for an expert: full; "
                                         : "taking memory for activations of the largest batch: "));
    EXPECT_THAT(refused.error().message, HasSubstr("more expert shards need less each"));
  };
  for (int i = 0; i < kOfExperts + kArrays + kOnHost; ++i) {
    ShardEngine at_once(checkpoint_, backend_, kMaxBatchRows);
    ShardEngine one_by_one(checkpoint_, backend_, kMaxBatchRows);
    const bool is_on_host = i >= kOfExperts + kArrays;
    const auto fail = [&] {
      memory().allocations_left = is_on_host ? INT_MAX : i;
      memory().allocations_left_on_host = is_on_host ? i - kOfExperts - kArrays : INT_MAX;
    };
    fail();
    expect_refusal(at_once.load(kTwo), i);
    fail();
    auto loaded = one_by_one.load_ahead(kTwo);
    auto taken = one_by_one.take_some(*loaded);
    if (taken.ok()) taken = one_by_one.take_some(*loaded);
    expect_refusal(taken, i);
    memory().allocations_left = memory().allocations_left_on_host = INT_MAX;
    for (ShardEngine* engine : {&at_once, &one_by_one}) {
      ASSERT_TRUE(engine->load(kTwo).ok());
      const auto got = engine->compute(kLayer, {&pointer, 1});
      EXPECT_EQ(std::memcmp(got[0]->data(), want[0]->data(), want[0]->size()), 0) << i;
    }
  }
}

TEST_F(ShardEngineOnADevice, EndsTheProcessWithTheCauseWhenTheDeviceFails) {
  ASSERT_TRUE(engine_.load(kTwo).ok());
  const transport::Frame frame = dispatch({{0, 0}}, 1);
  const transport::Frame* const pointer = &frame;
  memory().failure = Error{Code::kInternal, "A100: computing: an illegal access"};
  EXPECT_EXIT(engine_.compute(kLayer, {&pointer, 1}), testing::ExitedWithCode(EXIT_FAILURE),
              "device_failed reason=\"A100: computing: an illegal access\"");
}

TEST(CheckpointBytes, AreThoseThatADeviceNeeds) {
  for (const char* name : {"v3-groups", "v3-fp8", "v2-fused-experts", "v3-odd"}) {
    const model::Checkpoint checkpoint = opened(name);
    const model::ModelConfig& config = checkpoint.config();
    kernels::OtherMemory memory;
    const LayerIdx layer = config.num_layers - 1;
    ASSERT_TRUE(place(*checkpoint.load_expert(layer, 1), memory).ok());
    EXPECT_EQ(checkpoint.bytes_of_expert(layer, 1)->all, memory.num_bytes) << name;
    memory.num_bytes = 0;
    ASSERT_TRUE(place(*checkpoint.load_router(), memory).ok());
    EXPECT_EQ(checkpoint.bytes_of_router()->all, memory.num_bytes) << name;
  }
}

}  // namespace
}  // namespace troupe::actors
