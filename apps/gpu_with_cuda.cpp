#include <vector>

#include "apps/gpu_backend.hpp"
#include "base/check.hpp"
#include "kernels/cuda/cuda_ops.hpp"

namespace troupe::apps {

Result<kernels::Backend> open_gpus(const Device& device, bool graphs) {
  CHECK(device.has_gpus());
  const std::vector<int> gpus(device.gpus.begin(), device.gpus.end());
  if (gpus.size() == 1) return kernels::make_cuda_backend({.device = gpus[0], .graphs = graphs});
  return kernels::make_cuda_group(gpus, {});
}

std::optional<kernels::CudaSystem> cuda_here(bool with_free_memory) {
  return kernels::cuda_system(with_free_memory);
}

}  // namespace troupe::apps
