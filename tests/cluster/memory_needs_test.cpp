#include "cluster/memory_needs.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::cluster {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = 1U << 20;

/// Two routers and a shard that need 300 MiB.
MemoryNeeds three_nodes() {
  return {.nodes = {{.node = "r0", .kv_blocks = 100 * kMiB, .copies = 10 * kMiB},
                    {.node = "r1", .kv_blocks = 100 * kMiB, .copies = 10 * kMiB},
                    {.node = "s0", .copies = 80 * kMiB}},
          .mapped = 5000 * kMiB};
}

TEST(MemoryNeeds, AreThoseOfAllNodesTogetherWithoutWhatIsMapped) {
  EXPECT_EQ(three_nodes().total(), 300 * kMiB);
  EXPECT_EQ(MemoryNeeds{.mapped = kMiB}.total(), 0U);
  const NodeMemory node{.kv_blocks = 1, .kv_host_blocks = 20, .copies = 300};
  EXPECT_EQ(node.total(), 321U);
}

TEST(MemoryNeeds, AreMetByWhatIsAvailableAndNoByteLess) {
  const ClusterConfig config;
  EXPECT_TRUE(check_memory_needs(config, three_nodes(), 300 * kMiB).ok());
  EXPECT_TRUE(
      check_memory_needs(config, three_nodes(), Error{Code::kUnavailable, "no /proc"}).ok());
  const auto refused = check_memory_needs(config, three_nodes(), 300 * kMiB - 1);
  ASSERT_FALSE(refused.ok()) << "each node alone would fit";
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
}

TEST(MemoryNeeds, AreToldForEachNodeBesideWhatThereIsAndWhatToDo) {
  MemoryNeeds needs = three_nodes();
  needs.nodes[1].kv_host_blocks = 50 * kMiB;
  needs.nodes.push_back({.node = "s1"});
  const auto refused = check_memory_needs({}, needs, 200 * kMiB);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message,
            "the nodes of this machine together need 350.00 MiB of memory, and 200.00 MiB are "
            "available; lower limits.kv_blocks, lower limits.kv_host_blocks, set limits.kv_dtype: "
            "bf16, serve weights that `troupe quantize` wrote, which need few copies or run "
            "fewer nodes on this machine\n"
            "  r0: 110.00 MiB (KV blocks 100.00 MiB, copies of weights 10.00 MiB)\n"
            "  r1: 160.00 MiB (KV blocks 100.00 MiB, host tier 50.00 MiB, copies of weights 10.00 "
            "MiB)\n"
            "  s0: 80.00 MiB (copies of weights 80.00 MiB)\n"
            "  s1: 0 B\n"
            "Mapped weights (4.88 GiB, once for all nodes) are not counted: they lie in the page "
            "cache.");
}

TEST(MemoryNeeds, NameOnlyWaysThatHelp) {
  ClusterConfig config{.kv_dtype = DType::kBF16};
  EXPECT_THAT(how_to_need_less(config, {.nodes = {{.node = "r", .kv_blocks = 1}}}),
              AllOf(HasSubstr("limits.kv_blocks"), Not(HasSubstr("bf16")),
                    Not(HasSubstr("quantize")), Not(HasSubstr("nodes"))));
  config.kv_dtype = DType::kF32;
  const MemoryNeeds on_gpus{.nodes = {{.node = "r", .kv_host_blocks = 1}, {.node = "s"}}};
  EXPECT_THAT(how_to_need_less(config, on_gpus),
              AllOf(HasSubstr("limits.kv_host_blocks"), HasSubstr("bf16"), HasSubstr("fewer nodes"),
                    Not(HasSubstr("limits.kv_blocks"))));
  const MemoryNeeds little{.nodes = {{.node = "r", .kv_blocks = 91, .copies = 9}}};
  EXPECT_THAT(how_to_need_less(config, little), Not(HasSubstr("quantize")));
  EXPECT_THAT(how_to_need_less(config, {.nodes = {{.node = "s", .copies = 1}}}),
              AllOf(HasSubstr("quantize"), Not(HasSubstr("kv"))));
}

}  // namespace
}  // namespace troupe::cluster
