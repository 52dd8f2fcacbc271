#include "actors/memory_of_nodes.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::actors {
namespace {

using cluster::NodeMemory;
using cluster::Role;
using ::testing::ElementsAre;
using ::testing::Field;

/// Layer 0 is dense, 1 and 2 have four routed experts each; 24 elements of KV per token and layer.
const model::ModelConfig kModel{.num_layers = 3,
                                .kv_lora_rank = 16,
                                .qk_rope_head_dim = 8,
                                .num_routed_experts = 4,
                                .first_k_dense_replace = 1};
constexpr uint64_t kBlockBytes = uint64_t{3} * 16 * 24 * sizeof(float);

/// Expert e of a layer takes 1, 10, 100 or 1000 copied bytes in layer 1, twice that in layer 2, and
/// 7 mapped ones.
WeightBytes weights() {
  WeightBytes bytes{.router = {.own = 50, .all = 450},
                    .experts = std::vector<model::Checkpoint::Bytes>(4)};
  for (const uint64_t layer : {1, 2}) {
    for (const uint64_t expert : {1, 10, 100, 1000}) {
      bytes.experts.push_back({.own = layer * expert, .all = layer * expert + 7});
    }
  }
  return bytes;
}

cluster::ClusterConfig two_routers_and_two_shards() {
  return {.nodes = {{.name = "r0", .role = Role::kRouter},
                    {.name = "r1", .role = Role::kRouter},
                    {.name = "s0", .role = Role::kExperts},
                    {.name = "s1", .role = Role::kExperts}},
          .kv_blocks = 100,
          .kv_host_blocks = 10,
          .kv_block_tokens = 16};
}

cluster::MemoryNeeds needs_of(const cluster::ClusterConfig& config) {
  auto needs = memory_of_nodes(config, config.nodes, kModel, weights());
  EXPECT_TRUE(needs.ok()) << needs.error().message;
  return needs.ok() ? *needs : cluster::MemoryNeeds{};
}

auto takes(const std::string& node, uint64_t kv_blocks, uint64_t kv_host_blocks, uint64_t copies) {
  return AllOf(Field("node", &NodeMemory::node, node),
               Field("kv_blocks", &NodeMemory::kv_blocks, kv_blocks),
               Field("kv_host_blocks", &NodeMemory::kv_host_blocks, kv_host_blocks),
               Field("copies", &NodeMemory::copies, copies));
}

TEST(MemoryOfNodes, IsKvAndCopiesOfEachAndMappedWeightsOnce) {
  const auto needs = needs_of(two_routers_and_two_shards());
  EXPECT_THAT(needs.nodes, ElementsAre(takes("r0", 100 * kBlockBytes, 10 * kBlockBytes, 50),
                                       takes("r1", 100 * kBlockBytes, 10 * kBlockBytes, 50),
                                       takes("s0", 0, 0, 11 + 22), takes("s1", 0, 0, 1100 + 2200)));
  EXPECT_EQ(needs.mapped, 400 + 8 * 7) << "that of the routers is one and the same";
}

TEST(MemoryOfNodes, IsHalfTheKvInBF16) {
  cluster::ClusterConfig config = two_routers_and_two_shards();
  config.kv_dtype = DType::kBF16;
  EXPECT_EQ(needs_of(config).nodes[0].kv_blocks, 50 * kBlockBytes);
}

TEST(MemoryOfNodes, CountsCopiesOfRedundantExpertsAgainButTheirMappedPagesOnce) {
  cluster::ClusterConfig config = two_routers_and_two_shards();
  config.redundant_experts = 4;  // both shards hold all
  const auto needs = needs_of(config);
  EXPECT_EQ(needs.nodes[2].copies, 3 * 1111U);
  EXPECT_EQ(needs.nodes[3].copies, 3 * 1111U);
  EXPECT_EQ(needs.mapped, 400 + 8 * 7);
}

TEST(MemoryOfNodes, FollowsPins) {
  cluster::ClusterConfig config = two_routers_and_two_shards();
  config.pins = {{.node = "s1", .first_layer = 1, .last_layer = 2}};
  const auto needs = needs_of(config);
  EXPECT_EQ(needs.nodes[2].copies, 0U);
  EXPECT_EQ(needs.nodes[3].copies, 3 * 1111U);
  config.pins.push_back({.node = "s0", .first_layer = 2, .last_layer = 2});
  const auto refused = memory_of_nodes(config, config.nodes, kModel, weights());
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, testing::HasSubstr("the configuration's placement"));
}

TEST(MemoryOfNodes, OnAnotherMachineIsLeftOut) {
  const cluster::ClusterConfig config = two_routers_and_two_shards();
  const auto needs = memory_of_nodes(config, std::span(config.nodes).last(1), kModel, weights());
  ASSERT_TRUE(needs.ok());
  EXPECT_THAT(needs->nodes, ElementsAre(takes("s1", 0, 0, 1100 + 2200)));
  EXPECT_EQ(needs->mapped, 4 * 7U);
}

TEST(MemoryOfNodes, OnGpusIsTheHostTierAndWhatTheRoutersCopyOnTheWayThere) {
  cluster::ClusterConfig config = two_routers_and_two_shards();
  for (cluster::NodeConfig& node : config.nodes) node.device.gpus = {0};
  const auto needs = needs_of(config);
  EXPECT_THAT(needs.nodes, ElementsAre(takes("r0", 0, 10 * kBlockBytes, 50),
                                       takes("r1", 0, 10 * kBlockBytes, 50), takes("s0", 0, 0, 0),
                                       takes("s1", 0, 0, 0)));
  EXPECT_EQ(needs.mapped, 0U);
}

TEST(MemoryOfNodes, KnowsWhatACheckpointHas) {
  const auto checkpoint = model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/models/demo");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  const auto bytes = weight_bytes(*checkpoint);
  ASSERT_TRUE(bytes.ok()) << bytes.error().message;
  const model::ModelConfig& model = checkpoint->config();
  EXPECT_EQ(bytes->router.all, checkpoint->bytes_of_router()->all);
  ASSERT_EQ(bytes->experts.size(), model.num_layers * model.num_routed_experts);
  uint64_t matrices = 0, moe_layers = 0;
  for (const auto& expert : bytes->experts) {
    EXPECT_EQ(expert.own, 0U) << "BF16 is multiplied where it is mapped";
    matrices += expert.all;
  }
  for (LayerIdx l = 0; l < model.num_layers; ++l) moe_layers += model.is_moe_layer(l) ? 1 : 0;
  EXPECT_EQ(matrices, moe_layers * model.num_routed_experts * 3 * model.moe_intermediate_size *
                          model.hidden_size * sizeof(uint16_t));
}

}  // namespace
}  // namespace troupe::actors
