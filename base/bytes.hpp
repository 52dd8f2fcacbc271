#pragma once

// Bounds-checked reading of little-endian bytes from outside.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/result.hpp"

namespace troupe {

using Bytes = std::span<const std::byte>;

/// Reads a byte span from front to back; every read that would pass the end is an Error.
class ByteReader {
 public:
  explicit ByteReader(Bytes bytes) : bytes_(bytes) {}

  [[nodiscard]] size_t remaining() const { return bytes_.size(); }

  /// The next `n` bytes in place. @errors kCorrupt if fewer remain.
  Result<Bytes> take(size_t n) {
    if (n > bytes_.size()) {
      return Error{Code::kCorrupt, "needed " + std::to_string(n) + " bytes, only " +
                                       std::to_string(bytes_.size()) + " remain"};
    }
    const Bytes head = bytes_.first(n);
    bytes_ = bytes_.subspan(n);
    return head;
  }

  /// The next little-endian unsigned integer. @errors kCorrupt if too few bytes remain.
  template <class T>
  Result<T> read() {
    const Bytes raw = TRY(take(sizeof(T)));
    T value;
    std::memcpy(&value, raw.data(), sizeof(T));
    return value;
  }

 private:
  Bytes bytes_;
};

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are read in place");

}  // namespace troupe
