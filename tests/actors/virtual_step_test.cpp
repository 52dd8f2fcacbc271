// What a step costs and frees, where computing takes no time and each frame takes as long as any
// other: then a step takes two frames' time for each layer with experts, whatever its rows.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include "actors/kv_exchange.hpp"
#include "base/random.hpp"
#include "tests/support/requests.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {
namespace {

const std::string kModel = golden_model("v3-groups");
constexpr Duration kFrameTime = milliseconds(3);

VirtualWorldOptions world_of_even_frames(uint64_t seed) {
  return {.seed = seed, .min_frame_time = kFrameTime, .max_frame_time = kFrameTime};
}

Duration step_time() {
  const model::ModelConfig& config = opened_model(kModel).config();
  int64_t num_frames = 0;
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    if (config.is_moe_layer(layer)) num_frames += 2;
  }
  return kFrameTime * num_frames;
}

/// Micro-batches whose rows, or what the experts made of them, are under way.
size_t num_batches_away(const VirtualNetwork& network) {
  std::set<StepId> batches;
  for (const VirtualNetwork::Wire& wire : network.wires()) {
    for (const auto& sent : wire.sent) {
      const auto frame = transport::decode_frame(sent.frame.header, sent.frame.payload).value();
      using transport::FrameKind;
      const FrameKind kind = frame.header.kind;
      if (kind == FrameKind::kDispatch || kind == FrameKind::kCombine) {
        batches.insert(frame.header.step);
      }
    }
  }
  return batches.size();
}

struct Pace {
  Duration per_token;
  size_t most_batches_away = 0;
};

/// Of four requests that decode together.
Pace pace_of(uint64_t seed, uint32_t micro_batches) {
  constexpr size_t kNumTokens = 10;
  VirtualCluster cluster({.model = kModel,
                          .num_shards = 1 + static_cast<uint32_t>(seed % 3),
                          .micro_batches = micro_batches},
                         world_of_even_frames(seed));
  EXPECT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all({4, greedy(30)});
  EXPECT_TRUE(cluster.run_until([&] {
    return std::ranges::all_of(streams, [](const auto& s) { return s->tokens.size() >= 2; });
  }));
  size_t until = streams[0]->tokens.size() + 1;
  EXPECT_TRUE(cluster.run_until([&] { return streams[0]->tokens.size() == until; }));
  const Instant began = cluster.world().now();
  until += kNumTokens;
  Pace pace;
  EXPECT_TRUE(cluster.run_until([&] {
    pace.most_batches_away =
        std::max(pace.most_batches_away, num_batches_away(cluster.world().network()));
    return streams[0]->tokens.size() == until;
  }));
  pace.per_token = (cluster.world().now() - began) / kNumTokens;
  return pace;
}

TEST(VirtualStep, OfTwoMicroBatchesTakesNoLongerThanOfOneBecauseBothAreAwayAtOnce) {
  for_each_seed(10, [](uint64_t seed) {
    const Pace one = pace_of(seed, 1), two = pace_of(seed, 2);
    EXPECT_EQ(one.most_batches_away, 1U);
    EXPECT_EQ(two.most_batches_away, 2U);
    EXPECT_EQ(one.per_token.ns, step_time().ns);
    EXPECT_EQ(two.per_token.ns, step_time().ns) << "one after the other takes longer";
  });
}

TEST(VirtualStep, ThatEndsAfterACancellationLeavesNoBlockOfTheCancelledRequest) {
  constexpr uint32_t kBlockTokens = 4;
  auto specs = mixed_requests(opened_model(kModel).config().vocab_size, 4);
  specs = {specs[0], specs[3]};
  for (auto& spec : specs) {
    spec.prompt.resize(20, 7);
    spec.max_tokens = 20;
  }
  const Stream expected = generated_alone(kModel, {specs[1]})[0];
  uint64_t num_cancelled = 0, num_blocks = 0;
  for_each_seed(80, [&](uint64_t seed) {
    VirtualCluster cluster({.model = kModel,
                            .num_shards = 2,
                            .batcher = {.max_step_tokens = 8, .max_running = 2},
                            .micro_batches = 1 + static_cast<uint32_t>(seed % 2),
                            .kv_block_tokens = kBlockTokens},
                           world_of_even_frames(seed));
    ASSERT_TRUE(cluster.run_until_serving());
    const auto streams = cluster.submit_all(specs);
    cluster.run_for(seconds(10), random_bits(seed, 0) % 1500);
    const auto blocks_used = [&] {
      uint64_t used = 0;
      for (const NodeStatus& node : cluster.status().nodes) used += node.kv_blocks_used;
      return used;
    };
    const uint64_t used_before = blocks_used();
    if (streams[0]->ended()) return;
    ++num_cancelled;
    cluster.nodes().client().cancel(streams[0]->request);
    cluster.run_for(step_time());
    // Room for what the other one knows, and for the tokens of the step that is out and the next.
    const size_t others = specs[1].prompt.size() + streams[1]->tokens.size() + 2;
    const uint64_t used = blocks_used();
    EXPECT_LE(used, streams[1]->ended() ? 0 : (others + kBlockTokens - 1) / kBlockTokens);
    num_blocks += used_before > used ? used_before - used : 0;
    ASSERT_TRUE(cluster.run_until_ended({streams[1]}));
    expect_same(*streams[1], expected);
    EXPECT_EQ(cluster.left_over(), "");
  });
  if (!usual_seeds()) return;
  EXPECT_GT(num_cancelled, 40U);
  EXPECT_GT(num_blocks, 100U) << "they had blocks";
}

/// Two routers, one of which computes steps while the other asks it for blocks of one prefix.
class Readers {
 public:
  static constexpr uint32_t kBlockTokens = 4, kNumBlocks = 16, kNumAsking = 3;

  explicit Readers(uint64_t seed)
      : cluster({.model = kModel,
                 .num_routers = 2,
                 .num_shards = 1,
                 .micro_batches = 1,
                 .kv_block_tokens = kBlockTokens},
                world_of_even_frames(seed)) {
    EXPECT_TRUE(cluster.run_until_serving());
    cluster.nodes().client().drain("router-1", true);
    cluster.run_for(seconds(1));
    auto cached = greedy(1);
    cached.prompt.assign(kNumBlocks * kBlockTokens + 1, 9);
    EXPECT_TRUE(cluster.run_until_ended({cluster.submit(cached)}));
    streams = cluster.submit_all({2, greedy(100)});
    EXPECT_TRUE(run_until([&] { return streams[1]->tokens.size() >= 3; }));
    ask(cached.prompt);
  }

  [[nodiscard]] bool run_until(const std::function<bool()>& done) {
    return cluster.run_until([&] {
      look();
      return done();
    });
  }
  [[nodiscard]] bool all_sent() const { return blocks_.size() == kNumAsking * kNumBlocks; }

  VirtualCluster cluster;
  VirtualCluster::Streams streams;  ///< that are decoded meanwhile
  /// Of KV, between the first rows of a step and of the next; by number of the step.
  std::map<size_t, size_t> parts;
  Instant began, ended;  ///< the first part and the last

 private:
  void ask(const std::vector<TokenId>& tokens) {
    const auto& from = cluster.nodes().at("router-0");
    const auto& port = cluster.nodes().at("router-1").port;
    const auto link = port->connect(from.services.self, from.port->address()).value();
    for (uint64_t request = 1; request <= kNumAsking; ++request) {
      const transport::FrameHeader header{.kind = transport::FrameKind::kKvWanted,
                                          .epoch = epoch_,
                                          .request = RequestId{1000 + request},
                                          .num_rows = kNumBlocks};
      EXPECT_TRUE(link->send({header, encode_prefix("", tokens)}).ok());
    }
  }
  /// At what the first router has on its wires.
  void look() {
    size_t num_new = 0;
    for (const VirtualNetwork::Wire& wire : cluster.world().network().wires()) {
      if (wire.from != cluster.nodes().at("router-0").services.self) continue;
      for (const auto& sent : wire.sent) {
        const auto frame = transport::decode_frame(sent.frame.header, sent.frame.payload).value();
        const transport::FrameHeader& header = frame.header;
        if (header.kind == transport::FrameKind::kDispatch) {
          if (header.step > last_step_) ++num_steps_;
          last_step_ = std::max(last_step_, header.step);
          epoch_ = header.epoch;
        }
        if (header.kind != transport::FrameKind::kKvBlock || !frame.payload) continue;
        num_new += blocks_.insert({header.request, header.layer}).second ? 1 : 0;
      }
    }
    if (num_new == 0) return;
    ended = cluster.world().now();
    if (parts.empty()) began = ended;
    ++parts[num_steps_];
  }

  Epoch epoch_;
  StepId last_step_;
  size_t num_steps_ = 0;
  std::set<std::pair<RequestId, uint32_t>> blocks_;
};

TEST(VirtualStep, WaitsForOnePartOfTheBlocksThatOthersAskFor) {
  constexpr Duration kTick = milliseconds(50);
  for_each_seed(10, [&](uint64_t seed) {
    Readers readers(seed);
    ASSERT_TRUE(readers.run_until([&] { return readers.all_sent(); }));
    EXPECT_FALSE(readers.streams[0]->ended()) << "steps were computed all the time";
    // Reading takes no time here, so a part stays two blocks.
    size_t num_parts = 0, num_more = 0;
    for (const auto& [step, parts] : readers.parts) {
      num_parts += parts;
      num_more += parts - 1;
    }
    EXPECT_EQ(num_parts, Readers::kNumAsking * Readers::kNumBlocks / 2);
    EXPECT_LE(num_more, (readers.ended - readers.began).ns / kTick.ns + 1) << "one for each tick";
    const size_t num_steps = readers.parts.rbegin()->first - readers.parts.begin()->first + 1;
    EXPECT_EQ(readers.parts.size(), num_steps) << "one after each step";
  });
}

}  // namespace
}  // namespace troupe::actors
