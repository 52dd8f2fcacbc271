// The loop of products that benchmarks compare a device with does what it says it does.

#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

using CudaPeak = Cuda;

TEST_F(CudaPeak, CountsTheMultiplyAddsThatItDid) {
  constexpr uint64_t kOfAWarp = 8 * 16 * 8 * 16;  // eight products [16, 16] [16, 8] a round
  constexpr uint64_t kWarps = 8;
  const auto once = backend().matrix_peak(1);
  ASSERT_TRUE(once.ok()) << once.error().message;
  EXPECT_GT(*once, 0U);
  EXPECT_EQ(*once % (kWarps * kOfAWarp), 0U) << *once;
  const auto thrice = backend().matrix_peak(3);
  ASSERT_TRUE(thrice.ok()) << thrice.error().message;
  EXPECT_EQ(*thrice, 3 * *once);
}

}  // namespace
}  // namespace troupe::kernels
