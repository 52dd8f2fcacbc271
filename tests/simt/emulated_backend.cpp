// The CUDA backend over host memory and the emulator. Launches take turns at the orders of threads,
// so two computations of the same numbers are computed in different ones.

#include <cstring>
#include <deque>
#include <string>

#include "kernels/cuda/runtime.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/simt/emulator.hpp"
#include "tests/simt/on_device.hpp"

namespace troupe::kernels {
namespace {

class EmulatedRuntime final : public cuda::Runtime {
 public:
  explicit EmulatedRuntime(size_t staging_bytes) : staging_bytes_(staging_bytes) {}

  const char* target() const override { return "emulated"; }
  /// Few, so that small batches use one block for all splits of a row, and single rows do not.
  unsigned num_multiprocessors() const override { return 2; }
  simt::Stream stream() override {
    const uint64_t turn = launches_++ % 3;
    simt::set_thread_order({.falling = turn == 1, .shuffle_seed = turn == 2 ? launches_ : 0});
    return nullptr;
  }
  void keep_error(const char* what) override {
    if (what != nullptr && error_.empty()) error_ = what;
  }
  bool failed() const override { return !error_.empty(); }

  Result<void*> allocate(size_t bytes) override {
    void* memory = TRY(host_->allocate(bytes));
    std::memset(memory, 0xff, bytes);  // NaNs, so that nothing counts on zeros
    device_.add(memory, bytes);
    return memory;
  }
  void release(void* memory) override {
    device_.remove(memory);
    host_->release(memory);
  }
  void copy_in(void* to, const void* from, size_t bytes) override {
    device_.check(to, bytes);
    host_->copy_in(to, from, bytes);
  }
  void copy_out(void* to, const void* from, size_t bytes) override {
    device_.check(from, bytes);
    host_->copy_out(to, from, bytes);
  }
  void copy(void* to, const void* from, size_t bytes) override {
    device_.check(to, bytes);
    device_.check(from, bytes);
    host_->copy(to, from, bytes);
  }
  void copy_rows(Rows to, ConstRows from) override {
    device_.check(to);
    device_.check(from);
    host_->copy_rows(to, from);
  }
  void move_rows(std::span<const float* const> from, std::span<void* const> to,
                 size_t cols) override {
    for (const float* row : from) device_.check(row, cols * sizeof(float));
    for (const void* row : to) device_.check(row, cols * sizeof(float));
    cuda::launch_move_rows(*this, from, to, cols, DType::kF32);
  }
  [[nodiscard]] const DeviceRanges& device() const { return device_; }
  Result<void> finish() override {
    uploads_.clear();
    if (failed()) return Error{Code::kInternal, error_};
    return {};
  }

 private:
  size_t half_of_staging() const override { return staging_bytes_ / 2; }
  const void* upload_bytes(const void* from, size_t bytes) override {
    uploads_.emplace_back(bytes / sizeof(simt::Words<4>) + 1);
    std::memcpy(uploads_.back().data(), from, bytes);
    return uploads_.back().data();
  }

  std::unique_ptr<Memory> host_ = make_host_memory();
  DeviceRanges device_;
  size_t staging_bytes_;
  uint64_t launches_ = 0;
  std::deque<std::vector<simt::Words<4>>> uploads_;
  std::string error_;
};

}  // namespace

Result<Backend> make_test_backend(const CudaOptions& options) {
  auto runtime = std::make_unique<EmulatedRuntime>(options.staging_bytes);
  std::unique_ptr<Ops> ops = TRY(cuda::make_cuda_ops(*runtime, options));
  auto checked = std::make_unique<OnDevice>(std::move(ops), runtime->device());
  return Backend{.memory = std::move(runtime), .ops = std::move(checked)};
}

}  // namespace troupe::kernels
