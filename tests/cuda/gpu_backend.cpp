#include "kernels/cuda/devices.hpp"
#include "tests/cuda/backend.hpp"

namespace troupe::kernels {

Backend make_test_backend(const CudaOptions& options) {
  if (cuda_devices().empty()) return {};
  Result<Backend> backend = make_cuda_backend(options);
  EXPECT_TRUE(backend.ok()) << backend.error().message;
  return backend.ok() ? std::move(*backend) : Backend();
}

}  // namespace troupe::kernels
