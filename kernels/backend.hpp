#pragma once

// Choice of a backend at run time.

#include <memory>

#include "kernels/memory.hpp"
#include "kernels/ops.hpp"
#include "kernels/thread_pool.hpp"

namespace troupe::kernels {

/// Operations, and the memory that their operands lie in; `ops` ends before `memory`.
struct Backend {
  std::unique_ptr<Memory> memory;
  std::unique_ptr<Ops> ops;
};

struct KernelSet;

/// The specification: plain loops in one thread.
std::unique_ptr<Ops> make_scalar_ops();

/// The fastest CPU version for this machine; same bits as the scalar one.
/// @param pool outlives the result; nullptr: everything in the calling thread.
std::unique_ptr<Ops> make_cpu_ops(ThreadPool* pool);
/// One version of kernels/kernel_set.hpp.
std::unique_ptr<Ops> make_cpu_ops(ThreadPool* pool, const KernelSet& kernels);

}  // namespace troupe::kernels
