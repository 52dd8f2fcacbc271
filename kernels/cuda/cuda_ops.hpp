#pragma once

// The CUDA backend: the operations of kernels/ops.hpp over device memory of one GPU.
//
// Arithmetic class `cuda-sm80-bf16` and so on, for tensor cores of different generations may round
// sums differently; within it, a row has the same bits in every batch. What
// kernels/ops.hpp fixes for `cpu-f32` becomes: products with BF16, FP8 and integer weights as in
// kernels/cuda/gemm.cuh (activations rounded to BF16, float32 sums), attention as in
// kernels/cuda/attention.cuh, the sum of RMSNorm as in kernels/cuda/rows.cuh. All others, products
// with F32 and F16 weights among them, give the bits of `cpu-f32` (but for those of NaNs).
//
// Pointers are to device memory; weights are whole matrices as Memory::allocate() aligns them, or
// outputs of such. In host memory are spans (tokens, positions, frequencies, and those of pointers,
// which point to the device), FfnParams::x_rows and the pointers of CombineParams. Operations
// return before they are computed; they do not fail: the first error is kept and Memory::finish()
// returns it, at the end of a step at the latest. Unlike on CPUs, one thread at a time may call
// them. Expanded attention is computed through the absorbed form. What is computed at most:
// limits(), and zeros of kI4 up to kMaxZeroOfI4; both are refused when a model is loaded.

#include <cstddef>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "kernels/memory.hpp"
#include "kernels/ops.hpp"

namespace troupe::kernels {

struct CudaOptions {
  int device = 0;
  /// For what an operation needs while it runs: rounded activations, sums of splits. Products,
  /// FFNs and attention are cut between rows so that they fit; a single row is not, and an error if
  /// it does not.
  size_t workspace_bytes = size_t{1} << 30U;
  /// Pinned host memory (and as much on the device) for spans and descriptions of work; one
  /// operation, or one part of it as above, may use half. Nothing is cut to fit.
  size_t staging_bytes = size_t{32} << 20U;
  /// Whether launches of a section (Memory::begin_section) start together, as CUDA graphs; else all
  /// start as they are called. Not for GPUs that compute a router together.
  bool graphs = true;
};

/// @errors kNotFound without such a GPU, with CUDA's word for why; kInternal if CUDA cannot count
///         them; kUnsupported for a GPU that why_refused() names (devices.hpp); kResourceExhausted
Result<Backend> make_cuda_backend(const CudaOptions& options);

/// GPUs that compute a router together, rank 0 with the others (Backend::others), joined by NCCL.
/// The first of CUDA's calls in a process, so that all kernels are loaded at the start.
/// @param devices at least one, each once; as `options` for each
/// @errors those of make_cuda_backend(); kUnsupported if they are of different kinds, or NCCL was
///         not there to build with; kInternal in NCCL's words
Result<Backend> make_cuda_group(const std::vector<int>& devices, const CudaOptions& options);

namespace cuda {
class Runtime;
/// Of make_cuda_backend(), and of tests. @param runtime outlives the result
/// @errors kResourceExhausted without memory for the workspace
Result<std::unique_ptr<Ops>> make_cuda_ops(Runtime& runtime, const CudaOptions& options);
/// Likewise, for what nearly all steps ask.
Result<std::unique_ptr<RowSampler>> make_row_sampler(Runtime& runtime, const CudaOptions& options);
}  // namespace cuda

}  // namespace troupe::kernels
