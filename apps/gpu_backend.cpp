#include "apps/gpu_backend.hpp"

#include "base/check.hpp"
#ifdef TROUPE_CUDA
#include "kernels/cuda/cuda_ops.hpp"
#endif

namespace troupe::apps {

Result<kernels::Backend> open_gpu(const Device& device) {
  CHECK(device.gpu.has_value());
#ifdef TROUPE_CUDA
  return kernels::make_cuda_backend({.device = static_cast<int>(*device.gpu)});
#else
  return Error{Code::kUnsupported, "device " + to_string(device) +
                                       ": this troupe has no CUDA backend; build one with "
                                       "./run build cuda, or compute on the CPUs (cpu)"};
#endif
}

}  // namespace troupe::apps
