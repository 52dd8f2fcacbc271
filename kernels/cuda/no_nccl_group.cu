// What is said of several GPUs in one process where NCCL was not there to build with.

#include "kernels/cuda/cuda_ops.hpp"
#include "kernels/cuda/devices.hpp"

namespace troupe::kernels {

int nccl_version() { return 0; }

Result<Backend> make_cuda_group(const std::vector<int>& devices, const CudaOptions&) {
  return Error{Code::kUnsupported,
               std::to_string(devices.size()) +
                   " GPUs in one process need NCCL, and this troupe was built without: install "
                   "libnccl-dev of NVIDIA's repository for CUDA where it is built and build it "
                   "again (./run build), or name one GPU per node"};
}

}  // namespace troupe::kernels
