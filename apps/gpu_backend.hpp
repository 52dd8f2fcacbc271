#pragma once

// What a binary computes on beside CPUs: decided when it is linked, with gpu_with_cuda.cpp,
// gpu_without_cuda.cpp, or the emulated GPUs of the tests (tests/simt/emulated_gpus.cpp).

#include <optional>

#include "base/device.hpp"
#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "kernels/cuda/devices.hpp"

namespace troupe::apps {

/// @param graphs CudaOptions::graphs
/// REQUIRES: device.has_gpus()
/// @errors kUnsupported if this binary has no CUDA backend, or none for several GPUs together, or a
///         GPU cannot compute, or they are of different kinds; kNotFound without such a GPU;
///         kResourceExhausted. Messages say what to do
Result<kernels::Backend> open_gpus(const Device& device, bool graphs);

/// Likewise, without graphs; a single GPU is joined with itself where NCCL is there.
Result<kernels::Backend> open_joined_gpus(const Device& device);

/// @param with_free_memory of kernels::cuda_system()
/// @returns none if this binary has no CUDA backend
std::optional<kernels::CudaSystem> cuda_here(bool with_free_memory);

}  // namespace troupe::apps
