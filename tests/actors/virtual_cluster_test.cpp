// The real actors under virtual time: whatever order things happen in, the tokens are those of one
// process. Each seed is another order.

#include <gtest/gtest.h>

#include <set>

#include "tests/support/requests.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {
namespace {

const std::string kModel = golden_model("v3-groups");

std::vector<scheduler::RequestSpec> few_requests() {
  auto specs = mixed_requests(opened_model(kModel).config().vocab_size, 4);
  for (auto& spec : specs) {
    spec.prompt.resize(std::min<size_t>(spec.prompt.size(), 20));
    spec.max_tokens = std::min(spec.max_tokens, 6U);
  }
  return specs;
}

/// Runs the requests together and compares each with what one process generates.
void expect_the_tokens_of_one_process(VirtualCluster& cluster) {
  static const std::vector<Stream> kExpected = generated_alone(kModel, few_requests());
  ASSERT_TRUE(cluster.run_until_serving());
  const auto streams = cluster.submit_all(few_requests());
  ASSERT_TRUE(cluster.run_until_ended(streams));
  for (size_t i = 0; i < streams.size(); ++i) {
    expect_same(*streams[i], kExpected[i], "request " + std::to_string(i));
  }
  EXPECT_EQ(cluster.left_over(), "");
}

TEST(VirtualCluster, GivesTheTokensOfOneProcessWhateverTheOrderOfEvents) {
  for_each_seed(100, [](uint64_t seed) {
    // Small steps and few blocks, so that prompts are chunked and requests wait for each other.
    VirtualCluster cluster({.model = kModel,
                            .num_routers = 1 + static_cast<uint32_t>(seed % 2),
                            .num_shards = 1 + static_cast<uint32_t>(seed % 4),
                            .batcher = {.max_step_tokens = 8, .max_running = 3},
                            .kv_blocks = 4},
                           {.seed = seed,
                            .max_job_time = milliseconds(static_cast<int64_t>(seed % 3)),
                            .max_frame_time = milliseconds(static_cast<int64_t>(seed % 5))});
    expect_the_tokens_of_one_process(cluster);
  });
}

TEST(VirtualCluster, MicroBatchesThatOvertakeEachOtherOnTheWireChangeNothing) {
  for_each_seed(100, [](uint64_t seed) {
    // One step takes a whole prompt, cut in its middle: the second half needs the KV of the first
    // in every layer, however early its rows come back from the shards.
    VirtualCluster cluster(
        {.model = kModel, .num_shards = 1 + static_cast<uint32_t>(seed % 2), .micro_batches = 2},
        {.seed = seed, .max_frame_time = milliseconds(3), .reorder = true});
    expect_the_tokens_of_one_process(cluster);
  });
}

TEST(VirtualCluster, AScoredPromptMayBeCachedOrPreempted) {
  std::vector<scheduler::RequestSpec> specs(3, greedy(60));
  specs[0].prompt.resize(4);
  specs[1].max_tokens = specs[2].max_tokens = 3;
  for (TokenId t = 0; t < 60; ++t) specs[1].prompt.push_back(t * 7 % 100);
  specs[1].prompt.resize(60);
  specs[2].prompt = specs[1].prompt;
  specs[2].sampling.num_prompt_logprobs = 2;
  const std::vector<Stream> alone = generated_alone(kModel, specs);
  ASSERT_EQ(alone[2].prompt_logprobs.size(), 59U);
  uint64_t num_preempted = 0;
  for_each_seed(20, [&](uint64_t seed) {
    // Room for 80 tokens: the answer of the first outgrows it while the prompt is computed.
    VirtualCluster cluster({.model = kModel,
                            .batcher = {.max_step_tokens = 4, .max_running = 3},
                            .kv_blocks = 20,
                            .kv_block_tokens = 4},
                           {.seed = seed, .max_frame_time = milliseconds(1)});
    ASSERT_TRUE(cluster.run_until_serving());
    const auto cached = cluster.submit(specs[1]);
    ASSERT_TRUE(cluster.run_until_ended({cached}));
    const auto scored = cluster.submit(specs[2]);
    ASSERT_TRUE(cluster.run_until_ended({scored}));
    expect_same(*scored, alone[2], "the prompt is cached");
    const auto first = cluster.submit(specs[0]);
    ASSERT_TRUE(cluster.run_until([&] { return !first->tokens.empty(); }));
    const auto again = cluster.submit(specs[2]);
    ASSERT_TRUE(cluster.run_until_ended({first, again}));
    expect_same(*first, alone[0], "the long answer");
    expect_same(*again, alone[2], "the prompt gives its blocks up");
    EXPECT_EQ(cluster.left_over(), "");
    const ClusterStatus status = cluster.status();
    for (const NodeStatus& node : status.nodes) num_preempted += node.num_preempted;
  });
  if (usual_seeds()) {
    EXPECT_GE(num_preempted, 20U);
  }
}

TEST(VirtualCluster, PromptsThatNeedManyCopiesComeBackFromTheHost) {
  // Three prompts, of which two fill the device: the third one's come and go, two copies at once.
  std::vector<scheduler::RequestSpec> specs(4, greedy(3));
  for (size_t i = 0; i < specs.size(); ++i) {
    specs[i].prompt.clear();
    for (TokenId t = 0; t < 40; ++t) {
      specs[i].prompt.push_back((t * 7 + static_cast<TokenId>(i % 3)) % 100);
    }
  }
  const std::vector<Stream> alone = generated_alone(kModel, specs);
  for_each_seed(20, [&](uint64_t seed) {
    VirtualCluster cluster({.model = kModel,
                            .batcher = {.max_step_tokens = 8, .max_running = 3},
                            .kv_blocks = 22,
                            .kv_host_blocks = 40,
                            .kv_block_tokens = 4,
                            .kv_max_copies = 2},
                           {.seed = seed});
    ASSERT_TRUE(cluster.run_until_serving());
    for (size_t i = 0; i < specs.size(); ++i) {
      const auto streams = cluster.submit_all({specs[i]});
      ASSERT_TRUE(cluster.run_until_ended(streams));
      expect_same(*streams[0], alone[i], "request " + std::to_string(i));
    }
    EXPECT_GT(cluster.status().nodes.at(0).prefix_cache.host_hit_tokens, 0U);
    const auto together = cluster.submit_all(specs);
    ASSERT_TRUE(cluster.run_until_ended(together));
    for (size_t i = 0; i < specs.size(); ++i) {
      expect_same(*together[i], alone[i], "request " + std::to_string(i) + " beside the others");
    }
    EXPECT_EQ(cluster.left_over(), "");
  });
}

TEST(VirtualCluster, DuplicatedAndReorderedFramesChangeNothing) {
  for_each_seed(60, [](uint64_t seed) {
    VirtualCluster cluster(
        {.model = kModel},
        {.seed = seed, .max_frame_time = milliseconds(2), .duplicate = 0.4, .reorder = true});
    expect_the_tokens_of_one_process(cluster);
  });
}

struct Course {
  uint64_t steps = 0;
  uint64_t digest = 0;
  Instant end;
  friend bool operator==(const Course&, const Course&) = default;
};

Course course_of(uint64_t seed) {
  VirtualCluster cluster({.model = kModel}, {.seed = seed,
                                             .max_job_time = milliseconds(3),
                                             .max_frame_time = milliseconds(2),
                                             .duplicate = 0.1,
                                             .reorder = true,
                                             .networked = seed % 2 == 1});
  expect_the_tokens_of_one_process(cluster);
  VirtualWorld& world = cluster.world();
  return {world.num_steps(), world.digest(), world.now()};
}

TEST(VirtualWorld, TheSameSeedIsTheSameRunAndAnotherIsAnother) {
  std::set<uint64_t> digests;
  for_each_seed(10, [&](uint64_t seed) {
    const Course first = course_of(seed);
    EXPECT_EQ(first, course_of(seed));
    EXPECT_TRUE(digests.insert(first.digest).second) << "two seeds gave one order";
  });
}

TEST(VirtualCluster, FramesOfAnEarlierEpochAreDropped) {
  for_each_seed(50, [](uint64_t seed) {
    VirtualCluster cluster(
        {.model = kModel},
        {.seed = seed, .max_job_time = milliseconds(1), .max_frame_time = milliseconds(1)});
    cluster.world().network().keep_copies();
    expect_the_tokens_of_one_process(cluster);
    cluster.nodes().kill("shard-1");
    ASSERT_TRUE(cluster.run_until([&] { return !cluster.nodes().client().serving(); }));
    ASSERT_TRUE(cluster.run_until_serving());
    ASSERT_GT(cluster.world().network().num_copies(), 0U);
    // Those of the first epoch name the same steps and layers as the frames of the second.
    cluster.world().network().send_again();
    expect_the_tokens_of_one_process(cluster);
    EXPECT_EQ(cluster.status().epoch, Epoch{2});
  });
}

}  // namespace
}  // namespace troupe::actors
