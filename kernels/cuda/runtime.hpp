#pragma once

// What CudaOps asks of the device beside kernels: memory, uploads, the first error. The CUDA one is
// in cuda_runtime.cu; the tests have one over host memory for the emulator.

#include <span>

#include "kernels/cuda/simt.cuh"
#include "kernels/memory.hpp"

namespace troupe::kernels::cuda {

class Runtime : public Memory {
 public:
  /// "sm_80", "sm_90"...
  [[nodiscard]] virtual const char* target() const = 0;
  /// Blocks that run at the same time, if one fills a multiprocessor.
  [[nodiscard]] virtual unsigned num_multiprocessors() const = 0;
  virtual simt::Stream stream() = 0;

  /// Small host data on the device, aligned to 16 bytes, for kernels that are launched before the
  /// next upload of half the staging memory. Allocates nothing. On errors: nullptr, and kept.
  virtual const void* upload_bytes(const void* from, size_t bytes) = 0;

  /// Keeps the first error for finish(). @param what nullptr: none
  virtual void keep_error(const char* what) = 0;
  [[nodiscard]] virtual bool failed() const = 0;

  template <class T>
  const T* upload(std::span<const T> values) {
    return static_cast<const T*>(upload_bytes(values.data(), values.size_bytes()));
  }

  template <class Kernel>
  void launch(const Kernel& kernel, simt::Grid grid) {
    if (failed() || grid.x == 0 || grid.y == 0) return;
    keep_error(simt::launch(stream(), kernel, grid));
  }
};

/// Memory::move_rows() as a kernel.
void launch_move_rows(Runtime& runtime, std::span<const float* const> from,
                      std::span<void* const> to, size_t cols, DType as);

}  // namespace troupe::kernels::cuda
