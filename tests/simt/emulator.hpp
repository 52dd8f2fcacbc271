#pragma once

// Runs kernels written against kernels/cuda/simt.cuh on the CPU, for tests: every thread of a block
// is a fiber, blocks run one after the other, and barriers, shuffles and matrix products wait for
// all threads that take part, as on a GPU.
//
// A launch ends with a report when threads wait at different places or one has ended, when shared
// memory is left, when a load is not aligned. Shared memory begins as NaNs, and an asynchronous
// copy arrives only when it is waited for. What is not found: races that no order of threads tried
// here brings out. Products of a matrix add 16 elements in ascending order in float32; those of a
// GPU may round differently.

#include <cstdint>

namespace troupe::kernels::simt {

/// In which order threads that could go on do. Results of a correct kernel do not depend on it.
struct ThreadOrder {
  bool falling = false;
  uint64_t shuffle_seed = 0;  ///< 0: as they are numbered
};

void set_thread_order(ThreadOrder order);

}  // namespace troupe::kernels::simt
