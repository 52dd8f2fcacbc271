// The bytes are a whole safetensors file, or, if they begin with a brace, an index of shards.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/check.hpp"
#include "model/safetensors.hpp"
#include "model/weight_map.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0 && data[0] == '{') {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    if (const auto files = troupe::model::parse_weight_map(text); files.ok()) {
      for (const auto& [file, tensors] : *files) {
        CHECK(file.find('/') == std::string::npos && file != "..");
        CHECK(!tensors.empty());
      }
    }
    return 0;
  }
  const auto header = troupe::model::parse_safetensors(std::as_bytes(std::span(data, size)), size);
  if (!header.ok()) {
    CHECK(!header.error().message.empty());
    return 0;
  }
  for (const troupe::model::TensorHeader& tensor : header->tensors) {
    CHECK_LE(tensor.begin, tensor.end);
    CHECK_LE(tensor.end, size);
    if (tensor.dtype) {
      CHECK_EQ(tensor.num_elements() * troupe::size_of(*tensor.dtype), tensor.end - tensor.begin);
    }
  }
  return 0;
}
