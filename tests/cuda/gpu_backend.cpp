// The backend of the tests on a GPU, and what it says where there is none.

#include <numeric>
#include <vector>

#include "kernels/cuda/devices.hpp"
#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

TEST(CudaBackend, IsNotFoundWithoutSuchADeviceAndSaysWhy) {
  const CudaSystem system = cuda_system();
  const Result<Backend> backend = make_cuda_backend({.device = 1 << 20});
  ASSERT_FALSE(backend.ok());
  EXPECT_EQ(backend.error().code, Code::kNotFound);
  const std::string word = system.error.empty() ? "invalid device ordinal" : system.error;
  EXPECT_NE(backend.error().message.find(word), std::string::npos) << backend.error().message;
}

}  // namespace

Result<Backend> make_test_backend(const CudaOptions& options) { return make_cuda_backend(options); }

Result<Backend> make_test_group(const CudaOptions& options, size_t num_devices) {
  if (nccl_version() == 0) return Error{Code::kNotFound, "built without NCCL"};
  std::vector<int> devices(num_devices);
  std::iota(devices.begin(), devices.end(), 0);
  return make_cuda_group(devices, options);
}

}  // namespace troupe::kernels
