#include "kvcache/blocks.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace troupe::kvcache {
namespace {

TEST(BlockPool, RoundsTokensUpToBlocks) {
  const BlockPool pool(8, 16);
  EXPECT_EQ(pool.blocks_for(0), 0U);
  EXPECT_EQ(pool.blocks_for(1), 1U);
  EXPECT_EQ(pool.blocks_for(16), 1U);
  EXPECT_EQ(pool.blocks_for(17), 2U);
  EXPECT_EQ(pool.blocks_for(UINT32_MAX), 1U << 28);
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
  EXPECT_EQ(pool.check(std::vector<uint32_t>{0, 0}), "");
}

TEST(BlockPool, MayHaveNoBlocks) {
  BlockPool pool(0, 16);
  EXPECT_FALSE(pool.allocate());
  EXPECT_EQ(pool.check({}), "");
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

}  // namespace
}  // namespace troupe::kvcache
