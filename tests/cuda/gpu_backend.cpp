#include "kernels/cuda/devices.hpp"
#include "tests/cuda/backend.hpp"

namespace troupe::kernels {

CudaBackend make_test_backend(const CudaOptions& options) {
  if (cuda_devices().empty()) return {};
  Result<CudaBackend> backend = make_cuda_backend(options);
  EXPECT_TRUE(backend.ok()) << backend.error().message;
  return backend.ok() ? std::move(*backend) : CudaBackend();
}

}  // namespace troupe::kernels
