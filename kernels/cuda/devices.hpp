#pragma once

// The GPUs of this machine.

#include <cstddef>
#include <string>
#include <utility>
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

/// What `troupe doctor` tells of CUDA. Versions are 1000 * major + 10 * minor: 13000 for 13.0.
struct CudaSystem {
  int driver_version = 0;  ///< the newest CUDA that the driver supports; 0 without a driver
  int runtime_version = 0;
  std::string error;  ///< CUDA's word for why no device can be counted; "" if they can
  std::vector<CudaDevice> devices;
  /// (a, b), places in `devices`: a cannot read the memory of b directly.
  std::vector<std::pair<size_t, size_t>> no_peer_access;
};

/// Creates no context on any GPU.
CudaSystem cuda_system();

}  // namespace troupe::kernels
