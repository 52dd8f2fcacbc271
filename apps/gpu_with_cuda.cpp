#include <vector>

#include "apps/gpu_backend.hpp"
#include "base/check.hpp"
#include "kernels/cuda/cuda_ops.hpp"

namespace troupe::apps {
namespace {

std::vector<int> numbers_of(const Device& device) {
  CHECK(device.has_gpus());
  return {device.gpus.begin(), device.gpus.end()};
}

}  // namespace

Result<kernels::Backend> open_gpus(const Device& device, bool graphs) {
  const std::vector<int> gpus = numbers_of(device);
  if (gpus.size() == 1) return kernels::make_cuda_backend({.device = gpus[0], .graphs = graphs});
  return kernels::make_cuda_group(gpus, {});
}

Result<kernels::Backend> open_joined_gpus(const Device& device) {
  const std::vector<int> gpus = numbers_of(device);
  if (gpus.size() == 1 && kernels::nccl_version() == 0) return open_gpus(device, /*graphs=*/false);
  return kernels::make_cuda_group(gpus, {});
}

std::optional<kernels::CudaSystem> cuda_here(bool with_free_memory) {
  return kernels::cuda_system(with_free_memory);
}

}  // namespace troupe::apps
