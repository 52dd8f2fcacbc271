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

}  // namespace
}  // namespace troupe::kernels
