// Host side of kernels/cuda/peak.cuh. Also compiled as C++ by the tests.

#include "kernels/cuda/peak.cuh"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/array.hpp"
#include "kernels/cuda/runtime.hpp"

namespace troupe::kernels::cuda {

namespace {

/// Several times what is resident, so that no multiprocessor waits long for the last one.
constexpr unsigned kBlocksPerMultiprocessor = 4 * MatrixPeak::kBlocksPerSm;

/// A class and no lambda: cudafe++ of CUDA 13.0 crashes at TRY() in one.
struct Run {
  Runtime* runtime;
  unsigned blocks;
  std::shared_ptr<void> on_device;
  std::vector<float> counts;

  Result<uint64_t> operator()(unsigned rounds) {
    runtime->launch(MatrixPeak{.rounds = std::clamp(rounds, 1U, MatrixPeak::kMaxRounds),
                               .counts = static_cast<float*>(on_device.get())},
                    {blocks, 1});
    runtime->copy_out(counts.data(), on_device.get(), counts.size() * sizeof(float));
    TRY(runtime->finish());
    uint64_t sum = 0;
    for (const float count : counts) sum += static_cast<uint64_t>(count);
    return sum;
  }
};

}  // namespace

Result<MatrixPeakRun> make_matrix_peak(Runtime& runtime) {
  const unsigned blocks = kBlocksPerMultiprocessor * runtime.num_multiprocessors();
  const size_t num_counts = size_t{blocks} * MatrixPeak::kWarps;
  OwnedMemory memory = TRY(allocate(runtime, num_counts * sizeof(float)));
  return MatrixPeakRun(Run{.runtime = &runtime,
                           .blocks = blocks,
                           .on_device = std::move(memory),
                           .counts = std::vector<float>(num_counts)});
}

}  // namespace troupe::kernels::cuda
