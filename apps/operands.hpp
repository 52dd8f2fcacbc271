#pragma once

// Where the operands of a measured operation lie: in the memory of the backend that computes it.

#include <cstddef>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "kernels/array.hpp"
#include "kernels/backend.hpp"

namespace troupe::apps {

/// So much memory does not stay in the caches: four times the CPU's last-level cache, 256 MiB at
/// least, which is more than four times the L2 cache of an A100 or H100.
size_t bytes_beyond_caches();

/// The operands of one case after the other. Arrays live until the next case; errors of memory are
/// kept for check().
class Operands {
 public:
  /// @param backend outlives the object
  /// @param cold_bytes for cold(); at least the largest piece that is asked for
  /// @errors kResourceExhausted
  static Result<std::unique_ptr<Operands>> make(const kernels::Backend& backend, size_t cold_bytes);

  [[nodiscard]] kernels::Ops& ops() const { return *backend_.ops; }
  [[nodiscard]] kernels::Memory& memory() const { return *backend_.memory; }
  /// REQUIRES: a device
  [[nodiscard]] kernels::RowSampler& sampler() const { return *backend_.sampler; }

  /// REQUIRES: a device that is joined with others, or a group of one
  [[nodiscard]] kernels::Collective& collective() const { return *backend_.collective; }

  /// [n], n > 0, numbers in [-0.5, 0.5), some of them equal.
  float* values(size_t n);
  /// [n], n > 0, for results.
  template <class T>
  T* room(size_t n) {
    return static_cast<T*>(array(n * sizeof(T)));
  }
  /// [n], n > 0, of the host, to which and from which a device copies fastest.
  float* on_host(size_t n);
  /// Another piece of memory beyond the caches, which each call takes as its weights or KV: aligned
  /// to 256 bytes, as long unread as possible. Every byte is 0x31: a small number in every type.
  const std::byte* cold(size_t bytes);

  /// Before a case: releases the arrays of the one before.
  void clear() { arrays_.clear(); }
  /// Before the first call of a case. @errors kResourceExhausted: it has no room, and nullptrs
  [[nodiscard]] Result<void> check() const { return state_; }

 private:
  using Allocate = Result<kernels::OwnedMemory>(kernels::Memory&, size_t);
  explicit Operands(const kernels::Backend& backend) : backend_(backend) {}
  void* array(size_t bytes, Allocate* allocate = &kernels::allocate);

  const kernels::Backend& backend_;
  kernels::OwnedMemory cold_;
  size_t cold_bytes_ = 0;
  size_t at_ = 0;  ///< in the cold memory
  std::vector<kernels::OwnedMemory> arrays_;
  Result<void> state_;
};

}  // namespace troupe::apps
