#pragma once

// The one place that knows whether this binary has a CUDA backend.

#include "base/device.hpp"
#include "base/result.hpp"
#include "kernels/backend.hpp"

namespace troupe::apps {

/// REQUIRES: device.gpu
/// @errors kUnsupported if this binary has no CUDA backend, or the GPU cannot compute; kNotFound
///         without such a GPU; kResourceExhausted. Messages say what to do
Result<kernels::Backend> open_gpu(const Device& device);

}  // namespace troupe::apps
