#include "kvcache/blocks.hpp"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/random.hpp"

namespace troupe::kvcache {
namespace {

constexpr RequestId kA{1}, kB{2}, kC{3};

TEST(BlockPool, RoundsTokensUpToBlocks) {
  const BlockPool pool(8, 16);
  EXPECT_EQ(pool.blocks_for(0), 0U);
  EXPECT_EQ(pool.blocks_for(1), 1U);
  EXPECT_EQ(pool.blocks_for(16), 1U);
  EXPECT_EQ(pool.blocks_for(17), 2U);
  EXPECT_EQ(pool.blocks_for(UINT32_MAX), 1U << 28);
}

TEST(BlockPool, GivesEachBlockToOneRequestAndTakesItBack) {
  BlockPool pool(4, 16);
  const auto a = pool.reserve(kA, 33);
  ASSERT_TRUE(a.has_value());
  EXPECT_EQ(*a, (std::vector<BlockId>{BlockId{0}, BlockId{1}, BlockId{2}}));
  EXPECT_EQ(pool.table(kA), *a);
  EXPECT_EQ(pool.num_free(), 1U);
  EXPECT_EQ(pool.reserve(kB, 1), (std::vector<BlockId>{BlockId{3}}));
  pool.release(kA);
  EXPECT_EQ(pool.num_free(), 3U);
  EXPECT_TRUE(pool.table(kA).empty());
  EXPECT_EQ(pool.reserve(kC, 48), *a) << "freed blocks come out in the same order";
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, RefusesWholeWhatDoesNotFitAndKeepsNothingOfIt) {
  BlockPool pool(4, 16);
  ASSERT_TRUE(pool.reserve(kA, 32));
  EXPECT_FALSE(pool.reserve(kB, 33));
  EXPECT_TRUE(pool.table(kB).empty());
  EXPECT_EQ(pool.num_free(), 2U);
  EXPECT_TRUE(pool.reserve(kB, 32)) << "exactly the rest fits";
  EXPECT_FALSE(pool.reserve(kC, 1));
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, IgnoresAReleaseOfARequestThatHoldsNothing) {
  BlockPool pool(2, 1);
  ASSERT_TRUE(pool.reserve(kA, 2));
  pool.release(kB);
  pool.release(kA);
  pool.release(kA);
  EXPECT_EQ(pool.num_free(), 2U);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, AReservationOfNothingHoldsNothing) {
  BlockPool pool(1, 1);
  EXPECT_EQ(pool.reserve(kA, 0), std::vector<BlockId>{});
  EXPECT_EQ(pool.reserve(kA, 1), std::vector<BlockId>{BlockId{0}});
}

TEST(BlockPoolDeathTest, StopsTheProcessWhenARequestReservesTwice) {
  BlockPool pool(4, 1);
  ASSERT_TRUE(pool.reserve(kA, 1));
  EXPECT_DEATH((void)pool.reserve(kA, 1), "tables_.contains");
}

TEST(BlockPool, CountsReferencesAndFreesABlockAfterTheLast) {
  BlockPool pool(1, 16);
  const BlockId block = *pool.allocate();
  EXPECT_FALSE(pool.allocate());
  pool.share(block);
  pool.release(block);
  EXPECT_EQ(pool.references(block), 1U);
  EXPECT_EQ(pool.num_free(), 0U);
  pool.release(block);
  EXPECT_EQ(pool.num_free(), 1U);
}

TEST(BlockPool, KeepsABlockIdleUntilItIsDropped) {
  BlockPool pool(2, 16);
  const BlockId block = *pool.allocate();
  pool.keep(block);
  EXPECT_EQ(pool.num_idle(), 0U) << "still in use";
  pool.release(block);
  EXPECT_EQ(pool.num_idle(), 1U);
  EXPECT_EQ(pool.num_free(), 1U);
  pool.share(block);
  EXPECT_EQ(pool.num_idle(), 0U);
  pool.drop(block);
  EXPECT_EQ(pool.num_free(), 1U) << "it is in use again";
  pool.release(block);
  EXPECT_EQ(pool.num_free(), 2U);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, MayHaveNoBlocks) {
  BlockPool pool(0, 16);
  EXPECT_FALSE(pool.allocate());
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, FindsOwnersThatDoNotMatchItsCounts) {
  BlockPool pool(2, 16);
  const BlockId block = *pool.allocate();
  EXPECT_EQ(block, BlockId{0});
  EXPECT_EQ(pool.check(std::vector<uint32_t>{1, 0}), "");
  EXPECT_NE(pool.check(std::vector<uint32_t>{2, 0}), "");
  EXPECT_NE(pool.check(std::vector<uint32_t>{1, 1}), "");
}

TEST(BlockPoolDeathTest, StopsTheProcessAtAReferenceToAFreeBlock) {
  BlockPool pool(1, 1);
  EXPECT_DEATH(pool.share(BlockId{0}), "kept_");
  EXPECT_DEATH(pool.release(BlockId{0}), "references_");
}

// The twin knows nothing of stacks or references: a set of free numbers and who has which.
TEST(BlockPool, AgreesWithANaiveTwinUnderRandomUse) {
  constexpr uint64_t kSeed = 20'261'123;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  constexpr uint32_t kBlocks = 50, kTokens = 7;
  BlockPool pool(kBlocks, kTokens);
  std::map<RequestId, std::set<BlockId>> owned;
  uint32_t num_owned = 0;
  for (uint64_t i = 0; i < 100'000; ++i) {
    const RequestId request{random_bits(kSeed, i, 0) % 20};
    if (random_bits(kSeed, i, 1) % 2 == 0 && !owned.contains(request)) {
      const auto num_tokens = static_cast<uint32_t>(1 + random_bits(kSeed, i, 2) % 120);
      const uint32_t needed = (num_tokens + kTokens - 1) / kTokens;
      const auto blocks = pool.reserve(request, num_tokens);
      ASSERT_EQ(blocks.has_value(), num_owned + needed <= kBlocks);
      if (!blocks) continue;
      ASSERT_EQ(blocks->size(), needed);
      owned[request] = {blocks->begin(), blocks->end()};
      num_owned += needed;
    } else {
      num_owned -= static_cast<uint32_t>(owned[request].size());
      owned.erase(request);
      pool.release(request);
    }
    ASSERT_EQ(pool.num_free(), kBlocks - num_owned);
    ASSERT_EQ(pool.check(), "");
    if (i % 64 != 0) continue;
    std::set<BlockId> all;
    for (const auto& [owner, blocks] : owned) {
      all.insert(blocks.begin(), blocks.end());
      ASSERT_EQ(std::set(pool.table(owner).begin(), pool.table(owner).end()), blocks);
    }
    ASSERT_EQ(all.size(), num_owned) << "a block has two owners";
  }
}

}  // namespace
}  // namespace troupe::kvcache
