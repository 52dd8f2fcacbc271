#include "apps/gpu_backend.hpp"
#include "base/check.hpp"
#include "kernels/cuda/cuda_ops.hpp"

namespace troupe::apps {

Result<kernels::Backend> open_gpu(const Device& device) {
  CHECK(device.gpu.has_value());
  return kernels::make_cuda_backend({.device = static_cast<int>(*device.gpu)});
}

std::optional<kernels::CudaSystem> cuda_here() { return kernels::cuda_system(); }

}  // namespace troupe::apps
