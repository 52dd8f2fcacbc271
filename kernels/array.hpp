#pragma once

// Memory of a backend that is released with the object.

#include <cstddef>
#include <memory>
#include <utility>

#include "base/result.hpp"
#include "kernels/memory.hpp"

namespace troupe::kernels {

struct Release {
  Memory* memory = nullptr;
  bool on_host = false;  ///< of Memory::allocate_on_host()
  void operator()(void* allocated) const {
    on_host ? memory->release_on_host(allocated) : memory->release(allocated);
  }
};
using OwnedMemory = std::unique_ptr<void, Release>;

/// @param bytes > 0 @errors kResourceExhausted
inline Result<OwnedMemory> allocate(Memory& memory, size_t bytes) {
  return OwnedMemory(TRY(memory.allocate(bytes)), Release{&memory});
}
inline Result<OwnedMemory> allocate_on_host(Memory& memory, size_t bytes) {
  return OwnedMemory(TRY(memory.allocate_on_host(bytes)), Release{&memory, /*on_host=*/true});
}

/// A buffer that is kept from step to step and grows to the largest one.
class Array {
 public:
  /// Room for `count` elements; what was there is lost if it grows. Always of the same Memory.
  /// Without room the process ends: a step that has begun cannot be computed anywhere else.
  template <class T>
  T* room(Memory& memory, size_t count) {
    return static_cast<T*>(or_end(reserve<T>(memory, count)));
  }
  /// The same on the host, for Memory::copy_out(). An array is always of one kind.
  template <class T>
  T* room_on_host(Memory& memory, size_t count) {
    return static_cast<T*>(or_end(reserve_on_host<T>(memory, count)));
  }
  /// Before the first step, which then finds its room there.
  /// @errors kResourceExhausted; the array has no room at all then
  template <class T>
  Result<void> reserve(Memory& memory, size_t count) {
    return grow(memory, count * sizeof(T), &allocate);
  }
  template <class T>
  Result<void> reserve_on_host(Memory& memory, size_t count) {
    return grow(memory, count * sizeof(T), &allocate_on_host);
  }
  /// That it takes now.
  [[nodiscard]] size_t bytes() const { return bytes_; }

 private:
  Result<void> grow(Memory& memory, size_t bytes,
                    Result<OwnedMemory> (*allocate)(Memory&, size_t)) {
    if (bytes <= bytes_) return {};
    data_.reset();
    bytes_ = 0;
    data_ = TRY(allocate(memory, bytes));
    bytes_ = bytes;
    return {};
  }
  void* or_end(const Result<void>& reserved) {
    if (!reserved.ok()) end_process(reserved.error());
    return data_.get();
  }

  OwnedMemory data_;
  size_t bytes_ = 0;
};

}  // namespace troupe::kernels
