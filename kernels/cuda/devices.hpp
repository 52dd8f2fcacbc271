#pragma once

// The GPUs of this machine.

#include <cstddef>
#include <string>
#include <vector>

namespace troupe::kernels {

struct CudaDevice {
  std::string name;
  size_t memory_bytes = 0;
  int sm = 0;  ///< compute capability as 10 * major + minor: 80 for A100
};

/// Empty without a GPU, a driver, or a driver new enough: all mean that there is nothing to compute
/// on (a missing driver is reported by CUDA as one that is too old).
std::vector<CudaDevice> cuda_devices();

}  // namespace troupe::kernels
