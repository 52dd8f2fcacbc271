#pragma once

// The safetensors header: an 8-byte little-endian length, then JSON
// {name: {"dtype", "shape", "data_offsets"}, "__metadata__"?: {...}}, then the tensors' bytes
// without gap or overlap. Pure parsing of bytes from outside; no file is touched here.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"
#include "base/tensor_view.hpp"

namespace troupe::model {

/// The format's own limit on the JSON of a header.
inline constexpr uint64_t kMaxSafetensorsHeader = 100'000'000;

/// One tensor as a header announces it, checked: the bytes lie in the file and are as many as dtype
/// and shape say.
struct TensorHeader {
  std::string name;
  std::string_view stored_dtype;  ///< as written, "BF16"; static storage
  std::optional<DType> dtype;     ///< set if Troupe computes with this type
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  ///< first byte, counted from the start of the file
  uint64_t end = 0;    ///< one past the last byte

  [[nodiscard]] uint64_t num_elements() const;
};

/// "[64, 32]", for messages.
std::string shape_text(const std::vector<uint64_t>& shape);

/// Bytes of length prefix and JSON together, from the first 8 bytes of a file of `file_size`.
/// @errors kCorrupt if the file is too short for them or the JSON exceeds kMaxSafetensorsHeader.
Result<uint64_t> safetensors_header_size(Bytes first_bytes, uint64_t file_size);

struct SafetensorsHeader {
  std::vector<TensorHeader> tensors;            ///< in the order of their bytes
  std::map<std::string, std::string> metadata;  ///< `__metadata__`
};

/// Parses the whole header (length prefix included).
/// @errors kCorrupt, naming the tensor; kUnsupported for an unknown dtype.
Result<SafetensorsHeader> parse_safetensors(Bytes header, uint64_t file_size);

}  // namespace troupe::model
