#pragma once

// The GPUs of this machine.

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace troupe::kernels {

struct CudaDevice {
  std::string name;
  size_t memory_bytes = 0;
  int sm = 0;                     ///< compute capability as 10 * major + minor: 80 for A100
  size_t block_shared_bytes = 0;  ///< shared memory that a block may ask for
  std::string error = {};         ///< CUDA's word for why it tells nothing of this GPU, or ""
  /// Of memory_bytes, what no process has taken, or CUDA's word for why that is not known; none: it
  /// was not asked.
  std::optional<Result<size_t>> free_bytes = {};
};

inline constexpr int kOldestSm = 80;
/// Shared memory that a block of the largest kernel asks for (AttendSplit in attention.cuh). sm_80
/// and sm_90 have more; sm_86, sm_89 and sm_120 have about 99 KB.
inline constexpr size_t kBlockSharedBytes = 153'600;

/// Why the CUDA backend cannot compute on a device; "" if it can.
inline std::string why_refused(const CudaDevice& device) {
  if (!device.error.empty()) return "CUDA cannot tell what it is: " + device.error;
  if (device.sm < kOldestSm) {
    return "it is older than sm_" + std::to_string(kOldestSm) + " (A100)";
  }
  if (device.block_shared_bytes < kBlockSharedBytes) {
    return "its blocks have " + std::to_string(device.block_shared_bytes) +
           " bytes of shared memory and the kernels need " + std::to_string(kBlockSharedBytes) +
           ", as A100 and H100 have";
  }
  return "";
}

/// Why devices cannot compute a router together; "" if they can, and for a single one.
/// @param numbers places in `devices`
template <class Numbers>
std::string why_not_together(const std::vector<CudaDevice>& devices, const Numbers& numbers) {
  for (const auto number : numbers) {
    const CudaDevice& first = devices[static_cast<size_t>(numbers[0])];
    const CudaDevice& other = devices[static_cast<size_t>(number)];
    if (other.name == first.name) continue;
    return "GPU " + std::to_string(numbers[0]) + " is of the kind " + first.name + " and GPU " +
           std::to_string(number) + " of the kind " + other.name +
           "; what they compute may differ in its last bits, so devices of a node are of one kind";
  }
  return "";
}

/// All that CUDA counts, in its order, so that an index is the number of the device.
/// @errors in CUDA's own words: kNotFound without a GPU or a driver (a missing driver is one that
///         is too old to CUDA); kInternal if there is a driver, and it cannot be used
Result<std::vector<CudaDevice>> cuda_devices();

/// What `troupe doctor` tells of CUDA. Versions are 1000 * major + 10 * minor: 13000 for 13.0.
struct CudaSystem {
  int driver_version = 0;  ///< the newest CUDA that the driver supports; 0 without a driver
  int runtime_version = 0;
  int nccl_version = 0;  ///< as NCCL counts, 22809 for 2.28.9; 0: not there to build with
  std::string error;     ///< CUDA's word for why no device can be counted; "" if they can
  std::vector<CudaDevice> devices;
  /// (a, b), places in `devices`: a cannot read the memory of b directly.
  std::vector<std::pair<size_t, size_t>> no_peer_access;
};

/// @param with_free_memory asks for CudaDevice::free_bytes, too. CUDA tells it only to who has a
///        context on the GPU, so each gets one that stays as long as the process and takes some
///        hundred megabytes there; else no context is created
CudaSystem cuda_system(bool with_free_memory = false);

/// CudaSystem::nccl_version
int nccl_version();

}  // namespace troupe::kernels
