// The host's memory behind the seam that backends share.

#include "kernels/memory.hpp"

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

TEST(HostMemory, MovesRowsInAnyOrder) {
  const std::unique_ptr<Memory> memory = make_host_memory();
  const std::vector<float> rows = {1, 2, 3, 4};
  std::vector<float> moved(4);
  memory->move_rows(std::vector<const float*>{&rows[2], &rows[0]},
                    std::vector<void*>{&moved[0], &moved[2]}, 2);
  EXPECT_EQ(moved, (std::vector<float>{3, 4, 1, 2}));
}

}  // namespace
}  // namespace troupe::kernels
