// Requests move from router to router and take their KV along, over links that double, reorder and
// lose frames: whatever comes of it, the tokens are those of one process.

#include <gtest/gtest.h>

#include <functional>

#include "base/random.hpp"
#include "experts/combine.hpp"
#include "tests/actors/short_requests.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::actors {
namespace {

std::vector<scheduler::RequestSpec> longer_requests() {
  auto specs = mixed_requests(opened_model(kModel).config().vocab_size, 4);
  for (auto& spec : specs) {
    spec.prompt.resize(std::min<size_t>(spec.prompt.size(), 24));
    spec.max_tokens = 36;
  }
  return specs;
}

struct Moves {
  uint64_t resumed = 0, fetched_blocks = 0;
};

const std::vector<Stream>& alone(DType kv_dtype) {
  static const std::vector<Stream> kFloats = generated_alone(kModel, longer_requests());
  static const std::vector<Stream> kHalves =
      generated_alone(kModel, longer_requests(), DType::kBF16);
  return kv_dtype == DType::kF32 ? kFloats : kHalves;
}

/// Drains one router after the other while requests run; `lossy` cuts one off for a while, too.
Moves move_about(uint64_t seed, bool lossy) {
  const DType kv_dtype = seed % 4 < 2 ? DType::kF32 : DType::kBF16;
  VirtualCluster cluster(
      {.model = kModel,
       .num_routers = 2,
       .num_shards = 1,
       .scheduler = {.max_queued = 8, .max_running = 4, .min_fetch_tokens = 4, .max_context = 64},
       .batcher = {.max_step_tokens = 8, .max_running = 4},
       .kv_blocks = 64,
       .kv_block_tokens = 4,
       .kv_dtype = kv_dtype},
      {.seed = seed,
       .max_job_time = milliseconds(1),
       .max_frame_time = milliseconds(1),
       .duplicate = 0.2,
       .reorder = seed % 2 == 0});
  uint64_t draws = 0;
  const auto draw = [&](uint64_t end) { return random_bits(seed, draws++, 5) % end; };
  EXPECT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all(longer_requests());
  for (uint32_t move = 0; move < 6; ++move) {
    const std::string from = "router-" + std::to_string(move % 2);
    const std::string to = "router-" + std::to_string(1 - move % 2);
    cluster.run_for(milliseconds(100), 100 + draw(1500));
    cluster.nodes().client().drain(to, false);
    cluster.nodes().client().drain(from, true);
    if (!lossy) continue;
    // Long enough for a fetch to be given up, too short for the router to be.
    cluster.run_for(milliseconds(20), draw(200));
    cluster.world().network().cut(cluster.nodes().at(from).services.self);
    cluster.run_for(milliseconds(static_cast<int64_t>(draw(500))));
    cluster.world().network().mend_all();
  }
  EXPECT_TRUE(cluster.run_until_ended(streams));
  for (size_t i = 0; i < streams.size(); ++i) {
    expect_same(*streams[i], alone(kv_dtype)[i], "request " + std::to_string(i));
  }
  // A step may still wait for a frame that was lost, though its requests went elsewhere.
  cluster.run_for(experts::CombineOptions{}.timeout + seconds(1));
  EXPECT_EQ(cluster.left_over(), "");
  const ClusterStatus status = cluster.status();
  Moves moves{.resumed = status.counts.resumed_total};
  for (const NodeStatus& node : status.nodes) moves.fetched_blocks += node.num_fetched_blocks;
  return moves;
}

/// Of 100 seeds, unless one was asked for.
void expect_moves(bool loses_frames, uint64_t min_resumed, uint64_t min_fetched_blocks) {
  Moves all;
  for_each_seed(100, [&](uint64_t seed) {
    const Moves moves = move_about(seed, loses_frames);
    all.resumed += moves.resumed;
    all.fetched_blocks += moves.fetched_blocks;
  });
  testing::Test::RecordProperty("fetched_blocks", std::to_string(all.fetched_blocks));
  if (!usual_seeds()) return;
  EXPECT_GT(all.resumed, min_resumed);
  EXPECT_GT(all.fetched_blocks, min_fetched_blocks);
}

TEST(KvMoves, ChangeNoTokenThoughFramesAreDoubledAndOvertakeEachOther) {
  expect_moves(false, 500, 1000);
}

TEST(KvMoves, ChangeNoTokenThoughFramesGetLost) { expect_moves(true, 100, 150); }

/// Prompts that take a router many steps, one after the other.
std::vector<scheduler::RequestSpec> long_prompts() {
  std::vector<scheduler::RequestSpec> specs(8, greedy(4));
  for (size_t i = 0; i < specs.size(); ++i) {
    specs[i].prompt.clear();
    for (TokenId t = 0; t < 40; ++t) {
      specs[i].prompt.push_back((t * 7 + static_cast<TokenId>(i)) % 100);
    }
  }
  return specs;
}

/// All requests wait on one router when, at a time that the seed draws, the other one may be used.
/// @param begin and `open` let that happen
void expect_the_other_router_takes_over(const std::function<void(VirtualCluster&)>& begin,
                                        const std::function<void(VirtualCluster&)>& open) {
  static const std::vector<Stream> kAlone = generated_alone(kModel, long_prompts());
  uint64_t num_moved = 0;
  for_each_seed(30, [&](uint64_t seed) {
    VirtualCluster cluster({.model = kModel,
                            .num_routers = 2,
                            .num_shards = 2,
                            .scheduler = {.max_queued = 8,
                                          .max_running = 8,
                                          .min_fetch_tokens = 4,
                                          .min_gain_tokens = 16,
                                          .max_context = 64},
                            .batcher = {.max_step_tokens = 8, .max_running = 8},
                            .kv_blocks = 128,
                            .kv_block_tokens = 4},
                           {.seed = seed,
                            .max_job_time = milliseconds(1),
                            .max_frame_time = milliseconds(1),
                            .duplicate = 0.1});
    ASSERT_TRUE(cluster.run_until_serving());
    begin(cluster);
    const auto streams = cluster.submit_all(long_prompts());
    ASSERT_TRUE(cluster.run_until([&] { return streams.back()->admitted; }));
    cluster.run_for(milliseconds(50), random_bits(seed, 0) % 300);
    open(cluster);
    ASSERT_TRUE(cluster.run_until_ended(streams));
    for (size_t i = 0; i < streams.size(); ++i) {
      expect_same(*streams[i], kAlone[i], "request " + std::to_string(i));
    }
    cluster.run_for(experts::CombineOptions{}.timeout + seconds(1));
    EXPECT_EQ(cluster.left_over(), "");
    num_moved += cluster.status().counts.moved_to_begin_total;
  });
  if (!usual_seeds()) return;
  EXPECT_GE(num_moved, 60U);
}

TEST(RequestsThatHaveNotBegun, MoveToARouterThatIsDrainedNoMore) {
  expect_the_other_router_takes_over(
      [](VirtualCluster& cluster) { cluster.nodes().client().drain("router-1", true); },
      [](VirtualCluster& cluster) { cluster.nodes().client().drain("router-1", false); });
}

TEST(RequestsThatHaveNotBegun, AreSharedByTheRoutersOfANewEpoch) {
  // The first one that is up again is given all.
  expect_the_other_router_takes_over(
      [](VirtualCluster&) {}, [](VirtualCluster& cluster) { cluster.nodes().kill("shard-1"); });
}

}  // namespace
}  // namespace troupe::actors
