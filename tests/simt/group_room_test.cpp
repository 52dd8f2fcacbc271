// What a router of several devices takes on each of them, against what is counted before.

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/device_room.hpp"
#include "actors/router_engine.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/cuda/shared_model.hpp"
#include "tests/simt/emulated_backend.hpp"

namespace troupe::actors {
namespace {

constexpr uint64_t kMemory = uint64_t{1} << 30U;
constexpr uint32_t kBlocks = 32, kBlockTokens = 4;

class GroupRoom : public testing::Test {
 protected:
  /// @param of_last that others take of the last device
  void load(const std::string& directory, size_t num_devices, uint64_t of_last = 0) {
    checkpoint_ = std::make_unique<model::Checkpoint>(*model::Checkpoint::open(directory));
    group_.reset();
    std::vector<kernels::EmulatedDevice> devices(num_devices, {.memory_bytes = kMemory});
    devices.back().bytes_for_others = of_last;
    group_ = kernels::make_emulated_group({.workspace_bytes = size_t{16} << 20U}, devices).value();
    group_->sampler.reset();  // whose buffers are not counted
  }

  [[nodiscard]] std::vector<uint64_t> left() const {
    std::vector<uint64_t> bytes;
    for (size_t k = 0; k < group_->num_devices(); ++k) {
      bytes.push_back(*group_->of_rank(k).memory->bytes_left());
    }
    return bytes;
  }

  [[nodiscard]] KvShape kv() const {
    const model::ModelConfig& config = checkpoint_->config();
    return {.num_layers = config.num_layers,
            .num_blocks = kBlocks,
            .block_tokens = kBlockTokens,
            .kv_dim = config.kv_dim(),
            .num_host_slots = 3};
  }

  std::shared_ptr<RouterEngine> make_engine(const LargestStep& largest) {
    const model::ModelConfig& config = checkpoint_->config();
    auto engine = RouterEngine::make(config, *checkpoint_->load_router(), *group_, pool_, kv(),
                                     AttentionForm::kAbsorbed, largest);
    CHECK(engine.ok());
    auto placement = std::make_shared<experts::Placement>(experts::Placement{
        .num_layers = config.num_layers, .num_experts = config.num_routed_experts});
    placement->holders.assign(size_t{config.num_layers} * config.num_routed_experts, {NodeId{7}});
    (*engine)->set_epoch(placement, {.kind = transport::FrameKind::kDispatch});
    return std::move(*engine);
  }

  /// Of one sequence, with a token behind it or scored.
  void run_step(RouterEngine& engine, uint32_t lane, uint32_t num_rows, bool scored) {
    StepPart part{.wants_token = !scored, .history = std::make_shared<model::TokenHistory>()};
    part.tokens.assign(num_rows, 5);
    if (scored) part.scored.assign(num_rows, 5);
    for (uint32_t b = 0; b * kBlockTokens < num_rows; ++b) part.block_table.push_back(BlockId{b});
    Segment segment = engine.begin(lane, StepId{1}, {std::move(part)});
    const uint32_t hidden = checkpoint_->config().hidden_size;
    while (segment.status == Forward::Status::kExchange) {
      const uint32_t num_results = segment.plan.num_results;
      const auto rows = transport::Buffer::allocate(num_results * hidden * sizeof(float));
      for (size_t i = 0; i < num_results * hidden; ++i) {
        rows->floats()[i] = 0.01F * static_cast<float>(i % 17);
      }
      engine.compute_meanwhile(lane);
      segment = engine.resume(
          lane, segment.plan,
          {{.frame = {.header = {.num_rows = num_results, .hidden = hidden}, .payload = rows}}});
    }
    engine.score(lane);
  }

  kernels::ThreadPool pool_{1};
  std::unique_ptr<model::Checkpoint> checkpoint_;
  std::optional<kernels::Backend> group_;
};

TEST_F(GroupRoom, IsAsManyBytesOnEachDeviceAsAreCountedForItsRank) {
  const model::TempDir fp8, int4;
  model::save_shared_model(fp8.path(), "fp8");
  model::save_shared_model(int4.path(), "int4-g32-asym");
  struct Case {
    std::string directory;
    size_t num_devices;
  };
  for (const auto& [directory, num_devices] :
       {Case{kernels::test_model("v3-groups"), 2},
        Case{std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models/v2-bias-mscale", 4},
        Case{kernels::test_model("v2-lite"), 4}, Case{fp8.path(), 2}, Case{int4.path(), 4}}) {
    SCOPED_TRACE(directory);
    load(directory, num_devices);
    const LargestStep largest{.num_rows = 9, .num_logits = 1};
    const std::vector<uint64_t> before = left();
    const auto engine = make_engine(largest);
    const std::vector<uint64_t> loaded = left();
    run_step(*engine, 0, 2, false);
    for (const auto& [lane, rows] : {std::pair{0U, 9U}, {0U, 5U}, {1U, 4U}}) {
      run_step(*engine, lane, rows, false);
      run_step(*engine, lane, rows, true);
    }
    const std::vector<uint64_t> ran = left();
    const auto weights = *checkpoint_->bytes_of_router();
    for (size_t k = 0; k < num_devices; ++k) {
      const RankOf of{.rank = k, .num_ranks = num_devices};
      EXPECT_EQ(before[k] - loaded[k],
                placed_bytes(weights, of) + kv().blocks_bytes() +
                    activation_bytes_of_router(checkpoint_->config(), largest, of))
          << k;
      EXPECT_EQ(ran[k], loaded[k]) << k;
    }
  }
}

TEST_F(GroupRoom, IsMissingOnTheDeviceThatIsNamed) {
  load(kernels::test_model("v3-groups"), 2);
  const auto weights = *checkpoint_->bytes_of_router();
  const LargestStep step{.num_rows = 64, .num_logits = 8};
  const auto fits = [&] {
    return check_room_of_router(*group_, checkpoint_->config(), weights, kv(), step);
  };
  EXPECT_TRUE(fits().ok());
  kernels::Memory& second = *group_->others[0].memory;
  const kernels::OwnedMemory taken = kernels::allocate(second, *second.bytes_left()).value();
  const Result<void> refused = fits();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(refused.error().message.rfind("on device 2 of 2, beside ", 0), 0U)
      << refused.error().message;
}

TEST_F(GroupRoom, ThatOthersTookMeanwhileIsAnErrorOfMaking) {
  const LargestStep step{.num_rows = 64, .num_logits = 8};
  const auto make = [&] {
    return RouterEngine::make(checkpoint_->config(), *checkpoint_->load_router(), *group_, pool_,
                              kv(), AttentionForm::kAbsorbed, step);
  };
  load(kernels::test_model("v3-groups"), 2);
  const RankOf second{.rank = 1, .num_ranks = 2};
  const auto weights = *checkpoint_->bytes_of_router();
  const uint64_t needed = placed_bytes(weights, second) + kv().blocks_bytes() +
                          activation_bytes_of_router(checkpoint_->config(), step, second);
  const uint64_t spare = left()[1] - needed;
  load(kernels::test_model("v3-groups"), 2, spare);
  EXPECT_TRUE(make().ok());
  load(kernels::test_model("v3-groups"), 2, spare + 1);
  EXPECT_TRUE(check_room_of_router(*group_, checkpoint_->config(), weights, kv(), step).ok());
  const auto refused = make();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(refused.error().message.rfind("taking memory for activations of the largest step: ", 0),
            0U)
      << refused.error().message;
}

/// The same copies on one device and on two, whose streams know no order among each other.
TEST_F(GroupRoom, HasTheSameBlocksOnEachDeviceAfterCopiesToTheHostTierAndBack) {
  std::vector<std::vector<std::vector<std::byte>>> blocks;  // by devices, then by block
  for (const size_t num_devices : {1, 2}) {
    load(kernels::test_model("v3-groups"), num_devices);
    const auto ranks =
        Ranks::load(checkpoint_->config(), *checkpoint_->load_router(), *group_, kv()).value();
    std::vector<std::byte> bytes(ranks->block_bytes());
    for (uint32_t b = 0; b < 6; ++b) {
      std::ranges::fill(bytes, std::byte(0x11 * (b + 1)));
      ranks->write_block(BlockId{b}, bytes.data());
    }
    using kvcache::CopyBlock, kvcache::CopyToDevice, kvcache::CopyToHost, kvcache::HostSlot;
    ranks->copy_blocks({CopyToHost{BlockId{0}, HostSlot{0}}, CopyToDevice{HostSlot{0}, BlockId{1}},
                        CopyToHost{BlockId{2}, HostSlot{0}}, CopyBlock{BlockId{3}, BlockId{2}},
                        CopyToHost{BlockId{4}, HostSlot{1}}});
    ranks->copy_blocks({CopyToDevice{HostSlot{1}, BlockId{3}},
                        CopyToDevice{HostSlot{0}, BlockId{4}}, CopyToHost{BlockId{5}, HostSlot{1}},
                        CopyToDevice{HostSlot{1}, BlockId{0}}});
    for (size_t k = 0; k < num_devices; ++k) {
      auto& of_rank = blocks.emplace_back();
      for (uint32_t b = 0; b < 6; ++b) {
        (*ranks)[k].kv.read_block(BlockId{b}, bytes.data());
        of_rank.push_back(bytes);
      }
    }
  }
  const auto filled = [&](int with) { return std::vector(blocks[0][0].size(), std::byte(with)); };
  const std::vector<std::vector<std::byte>> want{filled(0x66), filled(0x11), filled(0x44),
                                                 filled(0x55), filled(0x33), filled(0x66)};
  for (const auto& of_rank : blocks) EXPECT_TRUE(of_rank == want);
}

}  // namespace
}  // namespace troupe::actors
