#include "scheduler/router_pool.hpp"

#include <gtest/gtest.h>

namespace troupe::scheduler {
namespace {

using Tokens = std::vector<TokenId>;

constexpr NodeId kA{1}, kB{2};

class RouterPoolTest : public ::testing::Test {
 protected:
  void open(RouterPoolOptions options) {
    options.index.chunk_tokens = 4;
    pool.emplace(options);
    pool->up(kA, {});
    pool->up(kB, {});
  }
  RouterShare start(const Tokens& known) {
    const auto share = pool->choose("", known);
    EXPECT_TRUE(share.has_value());
    pool->start(*share, "", known);
    shares.push_back(*share);
    EXPECT_EQ(pool->check(shares), "");
    return *share;
  }
  static Tokens prompt(TokenId first, size_t count) {
    Tokens tokens(count, 5);
    tokens.front() = first;
    return tokens;
  }

  std::optional<RouterPool> pool;
  std::vector<RouterShare> shares;
};

TEST_F(RouterPoolTest, GoesWhereTheFewestTokensAreBeforeIt) {
  open({.max_running = 4});
  EXPECT_EQ(start(prompt(1, 100)).router, kA);
  EXPECT_EQ(start(prompt(2, 10)).router, kB);
  EXPECT_EQ(start(prompt(3, 10)).router, kB) << "74 before it there, 164 on the other one";
}

TEST_F(RouterPoolTest, GoesWhereItsPrefixIsUnlessTheWaitIsLonger) {
  open({.max_running = 9, .running_cost = 64});
  RouterShare first = start(prompt(1, 200));
  EXPECT_EQ(first.router, kA);
  pool->emitted(first, 1, 0);
  shares = {first};
  const RouterShare second = start(prompt(1, 200));
  EXPECT_EQ(second.router, kA);
  EXPECT_EQ(second.num_prefill, 1U) << "the last token is computed in any case";
  EXPECT_EQ(second.num_kv, 2U);
  EXPECT_EQ(start(prompt(1, 200)).router, kA);
  EXPECT_EQ(start(prompt(1, 200)).router, kA) << "3 run there: 192 tokens, and 3 for the prompts";
  EXPECT_EQ(start(prompt(1, 200)).router, kB) << "4 run there";
}

TEST_F(RouterPoolTest, SharesNoPrefixAcrossNamespaces) {
  open({.max_running = 9, .running_cost = 1});
  start(prompt(1, 200));
  const auto share = pool->choose("salt", prompt(1, 200));
  ASSERT_TRUE(share);
  EXPECT_EQ(share->router, kB);
  EXPECT_EQ(share->num_guessed, 0U);
}

TEST_F(RouterPoolTest, LeavesOutRoutersThatAreFullOrDrained) {
  open({.max_running = 1});
  start(prompt(1, 10));
  start(prompt(2, 10));
  EXPECT_FALSE(pool->any_place());
  EXPECT_FALSE(pool->choose("", prompt(3, 10)));
  pool->leave(shares.back());
  shares.pop_back();
  EXPECT_TRUE(pool->choose("", prompt(3, 10)));
  EXPECT_FALSE(pool->choose("", prompt(3, 10), kB));
  pool->drain(kB, true);
  EXPECT_FALSE(pool->choose("", prompt(3, 10)));
}

TEST_F(RouterPoolTest, KeepsRequestsOffRoutersWhoseBlocksTheyWouldOverrun) {
  open({.max_running = 9, .kv_tokens = 100});
  start(prompt(1, 80));
  start(prompt(2, 80));
  EXPECT_FALSE(pool->choose("", prompt(3, 30)));
  EXPECT_TRUE(pool->choose("", prompt(3, 18)));
  pool->leave(shares.back());
  shares.pop_back();
  const auto share = pool->choose("", prompt(3, 500));
  ASSERT_TRUE(share) << "one that is too large for everybody runs alone";
  EXPECT_EQ(share->router, kB);
}

TEST_F(RouterPoolTest, TellsWhereRequestsGrewBeyondTheBlocks) {
  open({.max_running = 9, .kv_tokens = 100, .running_cost = 1});
  RouterShare first = start(prompt(1, 40));
  pool->emitted(first, 1, 0);
  shares = {first};
  RouterShare second = start(prompt(1, 40));
  ASSERT_EQ(first.router, second.router);
  EXPECT_TRUE(pool->overcommitted().empty());
  pool->emitted(second, 1, 0);  // nothing was cached after all
  pool->emitted(first, 20, 0);
  EXPECT_EQ(pool->overcommitted(), std::vector<NodeId>{first.router});
  pool->leave(second);
  pool->emitted(first, 100, 0);
  EXPECT_TRUE(pool->overcommitted().empty()) << "one alone has nobody to give away";
  pool->start(second, "", prompt(1, 40));
}

TEST_F(RouterPoolTest, PrefersTheRouterWithFewerRequestsWhereTheWorkIsEqual) {
  open({.max_running = 9, .running_cost = 0});
  RouterShare first = start(prompt(1, 10));
  pool->emitted(first, 1, 0);
  shares = {first};
  EXPECT_EQ(start(prompt(2, 10)).router, kB);
}

/// A and B have prefixes of different lengths; C has none, and is the only one with places.
class FetchFromTest : public RouterPoolTest {
 protected:
  static constexpr NodeId kC{3};
  void open_three(uint32_t min_fetch_tokens) {
    open({.max_running = 9, .min_fetch_tokens = min_fetch_tokens});
    pool->up(kC, {});
    pool->computed(kA, "", prompt(1, 40));
    pool->computed(kB, "", prompt(1, 80));
    pool->drain(kA, true);
    pool->drain(kB, true);
  }
  [[nodiscard]] std::optional<NodeId> source() const {
    const auto share = pool->choose("", prompt(1, 100));
    EXPECT_TRUE(share && share->router == kC);
    return share ? share->fetch_from : std::nullopt;
  }
};

TEST_F(FetchFromTest, IsTheRouterWithMostOfThePrefixDrainedOrNot) {
  open_three(16);
  EXPECT_EQ(source(), kB);
}

TEST_F(FetchFromTest, IsNoneThatIsDown) {
  open_three(16);
  pool->down(kB);
  EXPECT_EQ(source(), kA);
  pool->forget(kA);
  EXPECT_EQ(source(), std::nullopt);
}

TEST_F(FetchFromTest, IsNoneWithoutEnoughToBeWorthIt) {
  open_three(80);
  EXPECT_EQ(source(), kB);
  open_three(81);
  EXPECT_EQ(source(), std::nullopt);
}

TEST_F(FetchFromTest, IsNeverTheRouterItself) {
  open_three(16);
  pool->drain(kB, false);
  const auto share = pool->choose("", prompt(1, 100));
  ASSERT_TRUE(share);
  EXPECT_EQ(share->router, kB);
  EXPECT_EQ(share->fetch_from, std::nullopt);
}

}  // namespace
}  // namespace troupe::scheduler
