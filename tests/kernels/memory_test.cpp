// The host's memory behind the seam that backends share.

#include "kernels/memory.hpp"

#include <limits>

#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

TEST(HostMemory, AllocatesAlignedMemoryAndCopiesRowsWithStrides) {
  const std::unique_ptr<Memory> memory = make_host_memory();
  Result<void*> room = memory->allocate(8 * sizeof(float));
  ASSERT_TRUE(room.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(*room) % 256, 0U);
  const std::vector<float> from = {1, 2, 3, 4, 5, 6};
  auto* to = static_cast<float*>(*room);
  memory->copy_in(to, std::vector<float>(8).data(), 8 * sizeof(float));
  memory->copy_rows({to + 1, 2, 2, 4}, {from.data(), 2, 2, 3});
  std::vector<float> got(8);
  memory->copy_out(got.data(), to, 8 * sizeof(float));
  EXPECT_TRUE(memory->finish().ok());
  EXPECT_EQ(got, (std::vector<float>{0, 1, 2, 0, 0, 4, 5, 0}));
  memory->release(*room);
}

TEST(HostMemory, MovesRowsAsFloatsAndAsBf16TiesToEven) {
  const std::unique_ptr<Memory> memory = make_host_memory();
  const std::vector<float> a = {1.00390625F, -1.01171875F};  // both half-way
  const std::vector<float> b = {std::numeric_limits<float>::quiet_NaN(),
                                std::numeric_limits<float>::max()};
  std::vector<float> same(2);
  std::vector<uint16_t> narrow(4);
  memory->move_rows(std::vector<const float*>{a.data()}, std::vector<void*>{same.data()}, 2,
                    DType::kF32);
  memory->move_rows(std::vector<const float*>{b.data(), a.data()},
                    std::vector<void*>{narrow.data() + 2, narrow.data()}, 2, DType::kBF16);
  EXPECT_EQ(same, a);
  EXPECT_EQ(narrow, (std::vector<uint16_t>{0x3f80, 0xbf82, 0x7fff, 0x7f80}));
}

}  // namespace
}  // namespace troupe::kernels
