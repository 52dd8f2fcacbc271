#include "actors/kv_store.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "kernels/backend.hpp"

namespace troupe::actors {
namespace {

constexpr KvShape kShape{
    .num_layers = 3, .num_blocks = 5, .block_tokens = 4, .kv_dim = 10, .num_host_slots = 2};

class KvStoreOf : public testing::TestWithParam<DType> {
 protected:
  KvStoreOf()
      : store_(
            [] {
              KvShape shape = kShape;
              shape.dtype = GetParam();
              return shape;
            }(),
            *memory_) {}

  /// All bytes of a block become `value`.
  void fill(BlockId id, int value) {
    store_.write_block(id, std::vector(store_.block_bytes(), std::byte(value)).data());
  }
  std::vector<std::byte> bytes_of(BlockId id) {
    std::vector<std::byte> bytes(store_.block_bytes());
    store_.read_block(id, bytes.data());
    return bytes;
  }

  std::unique_ptr<kernels::Memory> memory_ = kernels::make_host_memory();
  KvStore store_;
};

TEST_P(KvStoreOf, TakesAsManyBytesAsItsElements) {
  const size_t element = GetParam() == DType::kF32 ? 4 : 2;
  EXPECT_EQ(store_.block_bytes(), 3 * 4 * 10 * element);
  EXPECT_EQ(store_.size_bytes(), (5 + 2) * store_.block_bytes());
}

TEST_P(KvStoreOf, HoldsTheTokensOfALayerOneAfterTheOther) {
  const auto* begin = static_cast<std::byte*>(store_.row(0, BlockId{2}, 0));
  const size_t row = store_.block_bytes() / (3 * 4);
  EXPECT_EQ(store_.row(0, BlockId{2}, 3), begin + 3 * row);
  EXPECT_EQ(store_.row(2, BlockId{2}, 1), begin + (2 * 4 + 1) * row);
  EXPECT_EQ(store_.row(0, BlockId{3}, 0), begin + 3 * 4 * row);
}

TEST_P(KvStoreOf, CopiesWholeBlocksToTheHostTierAndBack) {
  fill(BlockId{0}, 1);
  fill(BlockId{1}, 2);
  fill(BlockId{2}, 3);
  store_.copy({kvcache::CopyToHost{BlockId{1}, kvcache::HostSlot{1}}});
  fill(BlockId{1}, 0);
  store_.copy({kvcache::CopyToDevice{kvcache::HostSlot{1}, BlockId{1}}});
  for (uint32_t b = 0; b < 3; ++b) {
    for (const std::byte byte : bytes_of(BlockId{b})) ASSERT_EQ(byte, std::byte(b + 1));
  }
}

TEST_P(KvStoreOf, CopiesABlockToAnother) {
  fill(BlockId{1}, 7);
  fill(BlockId{4}, 9);
  store_.copy({kvcache::CopyBlock{BlockId{1}, BlockId{4}}});
  EXPECT_EQ(bytes_of(BlockId{4}), bytes_of(BlockId{1}));
}

INSTANTIATE_TEST_SUITE_P(DTypes, KvStoreOf, testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST(ArithmeticClass, TellsTheTypeOfTheKv) {
  const auto ops = kernels::make_scalar_ops();
  EXPECT_EQ(arithmetic_class(*ops, DType::kF32), "cpu-f32");
  EXPECT_EQ(arithmetic_class(*ops, DType::kBF16), "cpu-f32+kv-bf16");
}

}  // namespace
}  // namespace troupe::actors
