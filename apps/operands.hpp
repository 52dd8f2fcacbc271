#pragma once

// Where the operands of a measured operation lie: in the memory of the backend that computes it.

#include <cstddef>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "kernels/array.hpp"
#include "kernels/ops.hpp"

namespace troupe::apps {

/// So much memory does not stay in the caches: four times the CPU's last-level cache, 256 MiB at
/// least, which is more than four times the L2 cache of an A100 or H100.
size_t bytes_beyond_caches();

/// The operands of one case after the other. Arrays live until the next case; errors of memory are
/// kept for check().
class Operands {
 public:
  /// @param memory of the backend of `ops`; both outlive the object
  /// @param cold_bytes for cold(); at least the largest piece that is asked for
  /// @errors kResourceExhausted
  static Result<std::unique_ptr<Operands>> make(kernels::Ops& ops, kernels::Memory& memory,
                                                size_t cold_bytes);

  [[nodiscard]] kernels::Ops& ops() const { return ops_; }

  /// [n], n > 0, numbers in [-0.5, 0.5), some of them equal.
  float* values(size_t n);
  /// [n], n > 0, for results.
  template <class T>
  T* room(size_t n) {
    return static_cast<T*>(array(n * sizeof(T)));
  }
  /// Another piece of memory beyond the caches, which each call takes as its weights or KV: aligned
  /// to 256 bytes, as long unread as possible. Every byte is 0x31: a small number in every type.
  const std::byte* cold(size_t bytes);

  /// Before a case: releases the arrays of the one before.
  void clear() { arrays_.clear(); }
  /// Before the first call of a case. @errors kResourceExhausted: it has no room, and nullptrs
  [[nodiscard]] Result<void> check() const { return state_; }

 private:
  Operands(kernels::Ops& ops, kernels::Memory& memory) : ops_(ops), memory_(memory) {}
  void* array(size_t bytes);

  kernels::Ops& ops_;
  kernels::Memory& memory_;
  kernels::OwnedMemory cold_;
  size_t cold_bytes_ = 0;
  size_t at_ = 0;  ///< in the cold memory
  std::vector<kernels::OwnedMemory> arrays_;
  Result<void> state_;
};

}  // namespace troupe::apps
