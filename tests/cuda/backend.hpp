#pragma once

// The CUDA backend as the tests of this folder see it: over a GPU in cuda_test (label gpu), over
// the emulator in simt_test. The tests are the same.

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <utility>

#include "kernels/cuda/cuda_ops.hpp"
#include "kernels/placed_weights.hpp"
#include "tests/kernels/support.hpp"

namespace troupe::kernels {

/// Defined once per executable. @errors kNotFound: there is no GPU to test on
Result<Backend> make_test_backend(const CudaOptions& options);

/// Devices that compute together. @errors likewise: there are fewer GPUs
Result<Backend> make_test_group(const CudaOptions& options, size_t num_devices);

/// One for a test: skips it where there is no GPU, fails it where there is one that cannot be used.
inline void start_test(Result<Backend> made, Backend& backend) {
  if (!made.ok() && made.error().code == Code::kNotFound) {
    GTEST_SKIP() << "skipped: no GPU: " << made.error().message;
  }
  ASSERT_TRUE(made.ok()) << made.error().message;
  backend = std::move(*made);
}
inline void start_test_backend(const CudaOptions& options, Backend& backend) {
  start_test(make_test_backend(options), backend);
}
/// Likewise; skips it, too, where there are fewer GPUs.
inline void start_test_group(const CudaOptions& options, size_t num_devices, Backend& group) {
  start_test(make_test_group(options, num_devices), group);
}

/// A checkpoint of tests/golden/models; of those in $TROUPE_TEST_MODELS where that is set, for
/// tests that were built elsewhere.
inline std::string test_model(const std::string& name) {
  const char* folder = std::getenv("TROUPE_TEST_MODELS");
  return (folder != nullptr ? folder : std::string(TROUPE_SOURCE_DIR) + "/tests/golden/models") +
         "/" + name;
}

/// Finite ones: memory that nobody wrote is NaN in the emulator, and bit_difference() takes any two
/// NaNs for the same.
inline void expect_same_numbers(const std::vector<float>& want, const std::vector<float>& got) {
  EXPECT_TRUE(std::ranges::all_of(want, [](float value) { return std::isfinite(value); }));
  EXPECT_EQ(bit_difference(want, got), "");
}

/// A backend of its own for each test; skipped where there is no GPU, failed where there is one
/// that cannot be used.
class Cuda : public testing::Test {
 protected:
  void SetUp() override { start({}); }
  /// Another one, without the arrays of the last. In a test, within ASSERT_NO_FATAL_FAILURE.
  void start(CudaOptions options) {
    if (options.workspace_bytes == CudaOptions().workspace_bytes) {
      options.workspace_bytes = size_t{64} << 20U;
    }
    drop();
    start_test_backend(options, backend_);
  }
  void TearDown() override { drop(); }

  Ops& ops() { return *backend_.ops; }
  Memory& memory() { return *backend_.memory; }
  Backend& backend() { return backend_; }

  /// A copy on the device, released with the backend.
  template <class T>
  T* put(const T* from, size_t count) {
    T* to = room<T>(count);
    memory().copy_in(to, from, count * sizeof(T));
    return to;
  }
  template <class T>
  T* put(const std::vector<T>& values) {
    return put(values.data(), values.size());
  }
  template <class T>
  T* room(size_t count) {
    Result<void*> memory_of = memory().allocate(std::max<size_t>(1, count * sizeof(T)));
    EXPECT_TRUE(memory_of.ok());
    arrays_.push_back(*memory_of);
    return static_cast<T*>(*memory_of);
  }
  template <class T>
  std::vector<T> get(const T* from, size_t count) {
    std::vector<T> values(count);
    memory().copy_out(values.data(), from, count * sizeof(T));
    const Result<void> done = memory().finish();
    EXPECT_TRUE(done.ok()) << done.error().message;
    return values;
  }
  /// The same matrix with its data on the device.
  WeightView put(const WeightView& w) {
    weights_.emplace_back(memory());
    Result<WeightView> placed = weights_.back().place(w);
    EXPECT_TRUE(placed.ok());
    return *placed;
  }

 private:
  void drop() {
    for (void* memory : arrays_) backend_.memory->release(memory);
    arrays_.clear();
    weights_.clear();
    backend_.sampler.reset();
    backend_.matrix_peak = nullptr;
    backend_.ops.reset();
  }

  Backend backend_;
  std::vector<void*> arrays_;
  std::vector<PlacedWeights> weights_;
};

/// float32 to BF16 and back.
inline float as_bf16(float value) { return from_bf16(to_bf16(value)); }

}  // namespace troupe::kernels
