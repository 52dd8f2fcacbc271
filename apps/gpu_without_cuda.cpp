#include "apps/gpu_backend.hpp"
#include "base/check.hpp"

namespace troupe::apps {

Result<kernels::Backend> open_gpus(const Device& device, bool /*graphs*/) {
  CHECK(device.has_gpus());
  return Error{Code::kUnsupported, "device " + to_string(device) +
                                       ": this troupe has no CUDA backend; build it with "
                                       "./run build where nvcc is, or compute on the CPUs (cpu)"};
}

Result<kernels::Backend> open_joined_gpus(const Device& device) {
  return open_gpus(device, /*graphs=*/false);
}

std::optional<kernels::CudaSystem> cuda_here(bool /*with_free_memory*/) { return {}; }

}  // namespace troupe::apps
