#pragma once

// How the devices of one router exchange what each has computed a part of. Nothing is added up on
// the way, so the bits are those of whoever computed them. Rows of experts never go this way: who
// computes those may come, go and fail alone.

#include <cstddef>

namespace troupe::kernels {

/// One device's end of a fixed group. For one thread at a time, that of its operations.
class Collective {
 public:
  virtual ~Collective() = default;

  /// Of this device, in the order in which they were named. < num_ranks()
  [[nodiscard]] virtual size_t rank() const = 0;
  [[nodiscard]] virtual size_t num_ranks() const = 0;

  /// Every rank's `count` floats, in order of the ranks: parts[k * count, (k + 1) * count) are
  /// those at `part` of rank k. Both lie in the device's memory and do not overlap. Done in the
  /// order of the calls and of the operations; returns before, and the first error is kept for
  /// Memory::finish().
  /// REQUIRES: all ranks call it equally often with the same counts, each from a thread of its own.
  /// From the call to finish() nobody allocates or releases memory of the device: that may wait for
  /// another device, which waits for this one.
  virtual void all_gather(const float* part, size_t count, float* parts) = 0;
};

}  // namespace troupe::kernels
