// The emulated backend is as late as a GPU may be, so that the tests over it find who does not
// wait.

#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

using EmulatedBackend = Cuda;

TEST_F(EmulatedBackend, CopiesOutArriveAtFinishAndNotBefore) {
  const float* on_device = put(std::vector<float>{7});
  float value = 1;
  memory().copy_out(&value, on_device, sizeof value);
  EXPECT_EQ(value, 1);
  ASSERT_TRUE(memory().finish().ok());
  EXPECT_EQ(value, 7);
}

TEST_F(EmulatedBackend, CopiesInTakeWhatIsThereAtTheCall) {
  float value = 7;
  float* on_device = put(&value, 1);
  value = 1;
  EXPECT_EQ(get(on_device, 1), std::vector<float>{7});
}

TEST_F(EmulatedBackend, CopiesInFromPinnedMemoryTakeWhatIsThereWhenTheyAreDone) {
  const OwnedMemory pinned = allocate_on_host(memory(), sizeof(float)).value();
  auto* value = static_cast<float*>(pinned.get());
  *value = 7;
  float* on_device = room<float>(1);
  memory().copy_in(on_device, value, sizeof(float));
  *value = 1;
  EXPECT_EQ(get(on_device, 1), std::vector<float>{1});
}

}  // namespace
}  // namespace troupe::kernels
