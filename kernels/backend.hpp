#pragma once

// Choice of a backend at run time.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/collective.hpp"
#include "kernels/memory.hpp"
#include "kernels/ops.hpp"
#include "kernels/row_sampler.hpp"
#include "kernels/thread_pool.hpp"

namespace troupe::kernels {

/// For benchmarks: runs nothing but products of BF16 matrices on the registers of the whole device,
/// longer with more rounds, and waits. @returns how many multiply-adds, as their sums say
/// @errors those of Memory::finish()
using MatrixPeakRun = std::function<Result<uint64_t>(unsigned rounds)>;

/// Operations, and the memory that their operands lie in, which ends last; assigned to only when
/// empty.
struct Backend {
  std::unique_ptr<Memory> memory;
  std::unique_ptr<Ops> ops;
  // Of devices only.
  std::string device;  ///< "NVIDIA A100-SXM4-80GB"
  /// Of its memory: taken when it was opened, for what operations need while they run. No more is
  /// taken but what Memory::allocate() gives.
  uint64_t reserved_bytes = 0;
  MatrixPeakRun matrix_peak = {};            ///< at most 2^19 rounds
  std::unique_ptr<RowSampler> sampler = {};  ///< or null: rows of logits have to come to the host
  /// Its end of what joins it with others; null: it computes alone.
  std::unique_ptr<Collective> collective = {};
  /// The devices that compute with this one, which is rank 0: ranks 1, 2... in order. They are of
  /// one kind and have no others.
  std::vector<Backend> others = {};

  [[nodiscard]] size_t num_devices() const { return 1 + others.size(); }
  [[nodiscard]] const Backend& of_rank(size_t rank) const {
    return rank == 0 ? *this : others[rank - 1];
  }
};

struct KernelSet;

/// The specification: plain loops in one thread.
std::unique_ptr<Ops> make_scalar_ops();

/// The fastest CPU version for this machine; same bits as the scalar one.
/// @param pool outlives the result; nullptr: everything in the calling thread.
std::unique_ptr<Ops> make_cpu_ops(ThreadPool* pool);
/// One version of kernels/kernel_set.hpp.
std::unique_ptr<Ops> make_cpu_ops(ThreadPool* pool, const KernelSet& kernels);

/// The host's memory and make_cpu_ops().
inline Backend make_cpu_backend(ThreadPool* pool) {
  return {.memory = make_host_memory(), .ops = make_cpu_ops(pool)};
}

}  // namespace troupe::kernels
