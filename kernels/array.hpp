#pragma once

// Memory of a backend that is released with the object.

#include <cstddef>
#include <memory>

#include "base/check_ok.hpp"
#include "base/result.hpp"
#include "kernels/memory.hpp"

namespace troupe::kernels {

struct Release {
  Memory* memory = nullptr;
  void operator()(void* allocated) const { memory->release(allocated); }
};
using OwnedMemory = std::unique_ptr<void, Release>;

/// @param bytes > 0 @errors kResourceExhausted
inline Result<OwnedMemory> allocate(Memory& memory, size_t bytes) {
  return OwnedMemory(TRY(memory.allocate(bytes)), Release{&memory});
}

/// A buffer that is kept from step to step and grows to the largest one.
class Array {
 public:
  /// Room for `count` elements; what was there is lost if it grows. Always of the same Memory.
  /// Without room the process ends: a step that has begun cannot be computed anywhere else.
  template <class T>
  T* room(Memory& memory, size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > bytes_) {
      data_.reset();
      data_ = CHECK_OK(allocate(memory, bytes));
      bytes_ = bytes;
    }
    return static_cast<T*>(data_.get());
  }

 private:
  OwnedMemory data_;
  size_t bytes_ = 0;
};

}  // namespace troupe::kernels
