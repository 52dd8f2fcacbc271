#include "actors/kv_store.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <tuple>
#include <vector>

#include "kernels/backend.hpp"
#include "tests/kernels/other_memory.hpp"

namespace troupe::actors {
namespace {

// With a whole number of elements in a block that is no multiple of four bytes in BF16.
constexpr KvShape kShape{
    .num_layers = 3, .num_blocks = 5, .block_tokens = 5, .kv_dim = 11, .num_host_slots = 2};

/// The type of the elements, and whether the blocks lie in the host's memory.
using Where = std::tuple<DType, bool>;

class KvStoreOf : public testing::TestWithParam<Where> {
 protected:
  KvStoreOf() : memory_(make_memory()), store_(shape(), *memory_, kv_there()) {}

  static KvShape shape() {
    KvShape shape = kShape;
    shape.dtype = std::get<DType>(GetParam());
    return shape;
  }
  static std::unique_ptr<kernels::Memory> make_memory() {
    if (std::get<bool>(GetParam())) return kernels::make_host_memory();
    return std::make_unique<kernels::OtherMemory>();
  }
  KvOnDevice kv_there() {
    if (memory_->is_host()) return {};
    return allocate_kv(shape(), *memory_).value();
  }

  /// All bytes of a block become `value`.
  void fill(BlockId id, int value) {
    store_.write_block(id, std::vector(store_.block_bytes(), std::byte(value)).data());
  }
  std::vector<std::byte> bytes_of(BlockId id) {
    std::vector<std::byte> bytes(store_.block_bytes());
    store_.read_block(id, bytes.data());
    return bytes;
  }

  std::unique_ptr<kernels::Memory> memory_;
  KvStore store_;
};

TEST_P(KvStoreOf, TakesAsManyBytesAsItsElements) {
  const size_t element = std::get<DType>(GetParam()) == DType::kF32 ? 4 : 2;
  EXPECT_EQ(store_.block_bytes(), 3 * 5 * 11 * element);
  EXPECT_EQ(store_.size_bytes(), (5 + 2) * store_.block_bytes());
}

TEST_P(KvStoreOf, HoldsTheTokensOfALayerOneAfterTheOther) {
  const auto* begin = static_cast<std::byte*>(store_.row(0, BlockId{2}, 0));
  const size_t row = store_.block_bytes() / (3 * 5);
  EXPECT_EQ(store_.row(0, BlockId{2}, 3), begin + 3 * row);
  EXPECT_EQ(store_.row(2, BlockId{2}, 1), begin + (2 * 5 + 1) * row);
  EXPECT_EQ(store_.row(0, BlockId{3}, 0), begin + 3 * 5 * row);
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

INSTANTIATE_TEST_SUITE_P(Memories, KvStoreOf,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Bool()),
                         [](const auto& info) {
                           const std::string where = std::get<bool>(info.param) ? "Host" : "Device";
                           return std::string(to_string(std::get<DType>(info.param))) + where;
                         });

TEST(KvOnADevice, HasItsHostTierInMemoryThatCopiesAreFastestWith) {
  kernels::OtherMemory memory;
  {
    const auto kv = allocate_kv(kShape, memory);
    ASSERT_TRUE(kv.ok()) << kv.error().message;
    EXPECT_EQ(memory.bytes_held(), kShape.blocks_bytes());
    EXPECT_EQ(memory.bytes_held_on_host(), kShape.host_slots_bytes());
    KvShape without = kShape;
    without.num_host_slots = 0;
    EXPECT_EQ(allocate_kv(without, memory)->host_slots, nullptr);
  }
  EXPECT_EQ(memory.bytes_held() + memory.bytes_held_on_host(), 0U);
  memory.allocations_left_on_host = 0;
  const auto refused = allocate_kv(kShape, memory);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kResourceExhausted);
  EXPECT_EQ(memory.bytes_held(), 0U);
}

TEST(ArithmeticClass, TellsTheTypeOfTheKv) {
  const auto ops = kernels::make_scalar_ops();
  EXPECT_EQ(arithmetic_class(*ops, DType::kF32), "cpu-f32");
  EXPECT_EQ(arithmetic_class(*ops, DType::kBF16), "cpu-f32+kv-bf16");
}

}  // namespace
}  // namespace troupe::actors
