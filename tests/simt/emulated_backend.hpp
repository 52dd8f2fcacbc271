#pragma once

// The CUDA backend over host memory and the emulator, on a device that may fail or be full, and
// several that exchange what they computed.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda/cuda_ops.hpp"

namespace troupe::kernels {

struct EmulatedDevice {
  /// Asked at each launch. @returns "", or what is wrong with the device from there on: the host
  /// hears of it when the stream has got there, as CUDA tells of a kernel that failed
  std::function<std::string()> fault = nullptr;
  std::optional<uint64_t> memory_bytes = {};  ///< what it has; none: as much as the host
  uint64_t bytes_for_others = 0;  ///< of memory_bytes: taken when Memory::bytes_left() was asked
  bool has_no_room_for_graphs = false;
};

Result<Backend> make_emulated_backend(const CudaOptions& options, EmulatedDevice device = {});

/// Devices that compute together, as make_cuda_group() makes them of GPUs. A gather is done when
/// the streams of all have got there: one that does not come, or comes with another count, is an
/// error after a minute where GPUs would wait forever. So is memory of a device that is allocated
/// or released while a gather is under way there.
Result<Backend> make_emulated_group(CudaOptions options, std::vector<EmulatedDevice> devices);

}  // namespace troupe::kernels
