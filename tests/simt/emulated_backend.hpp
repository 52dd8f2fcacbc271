#pragma once

// The CUDA backend over host memory and the emulator, on a device that may fail or be full.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda/cuda_ops.hpp"

namespace troupe::kernels {

struct EmulatedDevice {
  /// Asked at each launch. @returns "", or what is wrong with the device from there on: the host
  /// hears of it when the stream has got there, as CUDA tells of a kernel that failed
  std::function<std::string()> fault = nullptr;
  std::optional<uint64_t> memory_bytes = {};  ///< what it has; none: as much as the host
};

Result<Backend> make_emulated_backend(const CudaOptions& options, EmulatedDevice device = {});

}  // namespace troupe::kernels
