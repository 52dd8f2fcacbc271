// Which GPUs the CUDA backend takes.

#include "kernels/cuda/devices.hpp"

#include <gtest/gtest.h>

namespace troupe::kernels {
namespace {

TEST(CudaDevices, AreRefusedIfTheyAreOldOrTheirBlocksHaveLittleSharedMemory) {
  const CudaDevice a100{.name = "A100", .sm = 80, .block_shared_bytes = 166'912};
  EXPECT_EQ(why_refused(a100), "");
  CudaDevice old = a100;
  old.sm = 75;
  EXPECT_NE(why_refused(old).find("older than sm_80"), std::string::npos) << why_refused(old);
  CudaDevice small = a100;  // as sm_86, sm_89 and sm_120
  small.block_shared_bytes = 101'376;
  EXPECT_NE(
      why_refused(small).find("have 101376 bytes of shared memory and the kernels need 153600"),
      std::string::npos)
      << why_refused(small);
  CudaDevice silent = a100;
  silent.error = "unspecified launch failure";
  EXPECT_NE(why_refused(silent).find(silent.error), std::string::npos) << why_refused(silent);
}

TEST(CudaDevices, OfDifferentKindsDoNotComputeTogether) {
  const std::vector<CudaDevice> devices{{.name = "A100"}, {.name = "H100"}, {.name = "A100"}};
  EXPECT_EQ(why_not_together(devices, std::vector<int>{0, 2}), "");
  EXPECT_EQ(why_not_together(devices, std::vector<uint32_t>{1}), "");
  const std::string why = why_not_together(devices, std::vector<int>{2, 0, 1});
  EXPECT_NE(why.find("GPU 2 is of the kind A100 and GPU 1 of the kind H100"), std::string::npos)
      << why;
}

}  // namespace
}  // namespace troupe::kernels
