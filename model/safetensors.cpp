#include "model/safetensors.hpp"

#include <algorithm>
#include <array>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <tuple>

#include "model/json.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxRank = 8;

struct StoredType {
  std::string_view name;
  uint64_t size;
  std::optional<DType> dtype;
};

constexpr auto kStoredTypes = std::to_array<StoredType>({
    {"F32", 4, DType::kF32},
    {"F16", 2, DType::kF16},
    {"BF16", 2, DType::kBF16},
    {"F8_E4M3", 1, DType::kF8E4M3},
    {"F8_E5M2", 1, {}},
    {"F8_E8M0", 1, {}},
    {"BOOL", 1, {}},
    {"U8", 1, {}},
    {"I8", 1, {}},
    {"U16", 2, {}},
    {"I16", 2, {}},
    {"U32", 4, {}},
    {"I32", 4, {}},
    {"U64", 8, {}},
    {"I64", 8, {}},
    {"F64", 8, {}},
});

std::string_view view_of(const json::string& text) { return {text.data(), text.size()}; }

Error corrupt(const std::string& what) { return Error{Code::kCorrupt, what}; }

/// A JSON array of non-negative integers.
Result<std::vector<uint64_t>> unsigned_list(const json::value& value, std::string_view key,
                                            size_t max_size) {
  if (!value.is_array() || value.get_array().size() > max_size) {
    return corrupt(std::string(key) + " must be a list of at most " + std::to_string(max_size) +
                   " integers");
  }
  std::vector<uint64_t> out;
  for (const json::value& item : value.get_array()) {
    if (item.is_int64() && item.get_int64() >= 0) {
      out.push_back(static_cast<uint64_t>(item.get_int64()));
    } else if (item.is_uint64()) {
      out.push_back(item.get_uint64());
    } else {
      return corrupt(std::string(key) + " holds " + describe(item) +
                     ", which is no unsigned integer");
    }
  }
  return out;
}

/// elements * size, or nothing on overflow.
std::optional<uint64_t> byte_size(const std::vector<uint64_t>& shape, uint64_t element_size) {
  uint64_t bytes = element_size;
  for (const uint64_t dim : shape) {
    if (__builtin_mul_overflow(bytes, dim, &bytes)) {
      return std::nullopt;
    }
  }
  return bytes;
}

/// Parses one entry; begin and end are still counted from the start of the data.
Result<TensorHeader> parse_entry(std::string_view name, const json::value& value,
                                 uint64_t data_size) {
  if (!value.is_object()) {
    return corrupt("its entry is " + describe(value) + ", not an object");
  }
  TensorHeader tensor;
  tensor.name = name;
  const json::object& entry = value.get_object();
  for (const json::key_value_pair& field : entry) {
    const std::string_view key(field.key().data(), field.key().size());
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return corrupt("unknown key " + quoted(key));
    }
  }
  const json::value* dtype = entry.if_contains("dtype");
  const json::value* shape = entry.if_contains("shape");
  const json::value* offsets = entry.if_contains("data_offsets");
  if (dtype == nullptr || shape == nullptr || offsets == nullptr) {
    return corrupt("its entry needs dtype, shape and data_offsets");
  }
  if (!dtype->is_string()) {
    return corrupt("dtype is " + describe(*dtype) + ", not a string");
  }
  const std::string_view type_name = view_of(dtype->get_string());
  const auto* type = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                                  [&](const StoredType& t) { return t.name == type_name; });
  if (type == kStoredTypes.end()) {
    return Error{Code::kUnsupported, "unknown dtype " + quoted(type_name)};
  }
  tensor.stored_dtype = type->name;
  tensor.dtype = type->dtype;
  tensor.shape = TRY(unsigned_list(*shape, "shape", kMaxRank));
  const std::vector<uint64_t> range = TRY(unsigned_list(*offsets, "data_offsets", 2));
  if (range.size() != 2 || range[0] > range[1] || range[1] > data_size) {
    return corrupt("data_offsets " + shape_text(range) + " lie outside the " +
                   std::to_string(data_size) + " bytes of data (is the file truncated?)");
  }
  const std::optional<uint64_t> bytes = byte_size(tensor.shape, type->size);
  if (!bytes || *bytes != range[1] - range[0]) {
    return corrupt("shape " + shape_text(tensor.shape) + " of " + std::string(type->name) +
                   " does not fit its " + std::to_string(range[1] - range[0]) + " bytes");
  }
  tensor.begin = range[0];
  tensor.end = range[1];
  return tensor;
}

Result<std::map<std::string, std::string>> parse_metadata(const json::value& value) {
  if (!value.is_object()) {
    return corrupt("__metadata__ is " + describe(value) + ", not an object");
  }
  std::map<std::string, std::string> metadata;
  for (const json::key_value_pair& field : value.get_object()) {
    const std::string_view key(field.key().data(), field.key().size());
    if (!field.value().is_string()) {
      return corrupt("__metadata__ key " + quoted(key) + " is " + describe(field.value()) +
                     ", not a string");
    }
    metadata.emplace(key, view_of(field.value().get_string()));
  }
  return metadata;
}

}  // namespace

uint64_t TensorHeader::num_elements() const {
  uint64_t count = 1;
  for (const uint64_t dim : shape) {
    count *= dim;  // byte_size() checked a larger product
  }
  return count;
}

std::string shape_text(const std::vector<uint64_t>& shape) {
  std::string text = "[";
  for (const uint64_t dim : shape) {
    text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  }
  return text + "]";
}

Result<uint64_t> safetensors_header_size(Bytes first_bytes, uint64_t file_size) {
  if (first_bytes.size() < kLengthBytes || file_size < kLengthBytes) {
    return corrupt("a safetensors file has at least 8 bytes, this one has " +
                   std::to_string(file_size));
  }
  const auto json_size = TRY(ByteReader(first_bytes).read<uint64_t>());
  if (json_size > kMaxSafetensorsHeader) {
    return corrupt("the header claims " + std::to_string(json_size) + " bytes, the limit is " +
                   std::to_string(kMaxSafetensorsHeader) + " (is this a safetensors file?)");
  }
  if (json_size > file_size - kLengthBytes) {
    return corrupt("the header claims " + std::to_string(json_size) + " bytes, the file has " +
                   std::to_string(file_size) + " (is it truncated?)");
  }
  return kLengthBytes + json_size;
}

Result<SafetensorsHeader> parse_safetensors(Bytes header, uint64_t file_size) {
  const uint64_t header_size = TRY(safetensors_header_size(header, file_size));
  if (header.size() < header_size) {
    return corrupt("needed " + std::to_string(header_size) + " bytes of header, got " +
                   std::to_string(header.size()));
  }
  const Bytes text = header.subspan(kLengthBytes, header_size - kLengthBytes);
  auto document =
      parse_json(std::string_view(reinterpret_cast<const char*>(text.data()), text.size()), 8);
  if (!document.ok()) {
    return std::move(document).error().with_context("header");
  }
  if (!document->is_object()) {
    return corrupt("the header is " + describe(*document) + ", not an object");
  }
  const uint64_t data_size = file_size - header_size;
  SafetensorsHeader parsed;
  std::vector<TensorHeader>& tensors = parsed.tensors;
  tensors.reserve(document->get_object().size());
  for (const json::key_value_pair& entry : document->get_object()) {
    const std::string_view name(entry.key().data(), entry.key().size());
    if (name == "__metadata__") {
      parsed.metadata = TRY(parse_metadata(entry.value()));
      continue;
    }
    auto tensor = parse_entry(name, entry.value(), data_size);
    if (!tensor.ok()) {
      return std::move(tensor).error().with_context("tensor " + quoted(name));
    }
    tensors.push_back(std::move(*tensor));
  }
  std::sort(tensors.begin(), tensors.end(), [](const TensorHeader& a, const TensorHeader& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  uint64_t expected = 0;
  for (TensorHeader& tensor : tensors) {
    if (tensor.begin != expected) {
      return corrupt("tensor " + quoted(tensor.name) + ": data_offsets start at " +
                     std::to_string(tensor.begin) + ", but the tensor before ends at " +
                     std::to_string(expected) + "; the format allows no gap and no overlap");
    }
    expected = tensor.end;
    tensor.begin += header_size;
    tensor.end += header_size;
  }
  if (expected != data_size) {
    return corrupt("the tensors fill " + std::to_string(expected) +
                   " bytes of data, the file has " + std::to_string(data_size));
  }
  return parsed;
}

}  // namespace troupe::model
