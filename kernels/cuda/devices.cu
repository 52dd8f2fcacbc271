#include <cuda_runtime.h>

#include "kernels/cuda/devices.hpp"

namespace troupe::kernels {

std::vector<CudaDevice> cuda_devices() {
  int count = 0;  // left untouched on errors
  if (cudaGetDeviceCount(&count) != cudaSuccess) return {};
  std::vector<CudaDevice> devices;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) continue;
    devices.push_back(
        {properties.name, properties.totalGlobalMem, properties.major * 10 + properties.minor});
  }
  return devices;
}

}  // namespace troupe::kernels
