#pragma once

// What CudaOps asks of the device beside kernels: memory, uploads, the first error. The CUDA one is
// in cuda_runtime.cu; the tests have one over host memory for the emulator.

#include <span>

#include "kernels/cuda/simt.cuh"
#include "kernels/memory.hpp"

namespace troupe::kernels::cuda {

class Runtime : public Memory {
 public:
  [[nodiscard]] bool is_host() const override { return false; }
  /// The kind of device, as in its arithmetic class: "sm80", "sm90"...
  [[nodiscard]] virtual const char* target() const = 0;
  /// Blocks that run at the same time, if one fills a multiprocessor.
  [[nodiscard]] virtual unsigned num_multiprocessors() const = 0;
  virtual simt::Stream stream() = 0;

  /// Before the uploads of an operation, which must fit into half of the staging memory together.
  void begin_operation() { uploaded_ = 0; }
  /// Small host data on the device, for the kernels of this operation. Allocates nothing.
  /// On errors: nullptr, and kept.
  template <class T>
  const T* upload(std::span<const T> values) {
    constexpr size_t kAlignment = 16;
    const size_t bytes = (values.size_bytes() + kAlignment - 1) / kAlignment * kAlignment;
    if (bytes > half_of_staging() - uploaded_) {
      keep_error(
          "an operation uploads more than half of staging_bytes: raise it or limit the rows "
          "of a step");
    }
    if (failed() || bytes == 0) return nullptr;
    uploaded_ += bytes;
    return static_cast<const T*>(upload_bytes(values.data(), values.size_bytes()));
  }

  /// Keeps the first error for finish(). @param what nullptr: none
  virtual void keep_error(const char* what) = 0;
  [[nodiscard]] virtual bool failed() const = 0;

  template <class Kernel>
  void launch(const Kernel& kernel, simt::Grid grid) {
    if (failed() || grid.x == 0 || grid.y == 0) return;
    keep_error(simt::launch(stream(), kernel, grid));
  }

 private:
  [[nodiscard]] virtual size_t half_of_staging() const = 0;
  /// @param bytes > 0 @returns an address that is a multiple of 16, whose data stay until half of
  ///              the staging memory was uploaded after it
  virtual const void* upload_bytes(const void* from, size_t bytes) = 0;

  size_t uploaded_ = 0;  ///< by this operation
};

/// Memory::move_rows() as a kernel; as BF16 it is Ops::store_kv().
void launch_move_rows(Runtime& runtime, std::span<const float* const> from,
                      std::span<void* const> to, size_t cols, DType as);

}  // namespace troupe::kernels::cuda
