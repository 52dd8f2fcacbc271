#include "model/tensor_locator.hpp"

#include <span>
#include <utility>

#include "base/panels.hpp"
#include "model/dequantise.hpp"
#include "model/json.hpp"

namespace troupe::model {
namespace {

constexpr uint64_t kBlock = WeightView::kScaleBlock;

uint64_t blocks(uint64_t size) { return WeightView::num_scale_blocks(size); }

/// Elements that share a scale if a row of `in` has `num_groups` scales; nothing if none does.
std::optional<uint64_t> scale_group(uint64_t in, uint64_t num_groups) {
  if (num_groups == 1) return in;
  for (const uint64_t group : {32, 64, 128, 256}) {
    if ((in + group - 1) / group == num_groups) return group;
  }
  return std::nullopt;
}

}  // namespace

Result<const StoredTensor*> TensorLocator::find(const std::string& name,
                                                const std::vector<uint64_t>& shape) const {
  const StoredTensor* tensor = store_.find(name);
  if (tensor == nullptr) {
    return Error{Code::kNotFound, "tensor " + quoted(name) +
                                      " is missing; config.json asks for it with shape " +
                                      shape_text(shape)};
  }
  if (tensor->header.shape != shape) {
    return Error{Code::kCorrupt, store_.name_of(*tensor) + " has shape " +
                                     shape_text(tensor->header.shape) +
                                     ", but config.json asks for " + shape_text(shape)};
  }
  if (!tensor->header.dtype) {
    return Error{Code::kUnsupported, store_.name_of(*tensor) + " has dtype " +
                                         std::string(tensor->header.stored_dtype) +
                                         "; Troupe computes with F32, F16, BF16 and F8_E4M3"};
  }
  if (*tensor->header.dtype == DType::kF8E4M3 && !config_.fp8) {
    return Error{Code::kUnsupported,
                 store_.name_of(*tensor) +
                     " has dtype F8_E4M3, but config.json has no quantization_config that "
                     "tells its scales"};
  }
  return tensor;
}

Result<const StoredTensor*> TensorLocator::numbers(const std::string& name,
                                                   const std::vector<uint64_t>& shape) const {
  const StoredTensor* tensor = TRY(find(name, shape));
  if (*tensor->header.dtype == DType::kF8E4M3) {
    return Error{Code::kUnsupported, store_.name_of(*tensor) +
                                         " has dtype F8_E4M3, which only weight matrices may have"};
  }
  return tensor;
}

/// The scales of an F8_E4M3 matrix or stack of matrices; nullptr for other types.
Result<const StoredTensor*> TensorLocator::scales(const std::string& name,
                                                  const StoredTensor& tensor) const {
  if (*tensor.header.dtype != DType::kF8E4M3) {
    return static_cast<const StoredTensor*>(nullptr);
  }
  std::vector<uint64_t> shape = tensor.header.shape;
  shape[shape.size() - 2] = blocks(shape[shape.size() - 2]);
  shape[shape.size() - 1] = blocks(shape[shape.size() - 1]);
  return numbers(name + "_scale_inv", shape);
}

Result<LocatedMatrix> TensorLocator::float_matrix(const std::string& name, uint64_t out,
                                                  uint64_t in) const {
  const StoredTensor* tensor = TRY(find(name, {out, in}));
  const StoredTensor* scale_tensor = TRY(scales(name, *tensor));
  return LocatedMatrix{
      .tensor = tensor,
      .bytes = tensor->whole(),
      .dtype = *tensor->header.dtype,
      .out = out,
      .in = in,
      .scales = scale_tensor,
      .scale_bytes = scale_tensor != nullptr ? scale_tensor->whole() : FileRange()};
}

Result<LocatedMatrix> TensorLocator::matrix(const std::string& name, uint64_t out,
                                            uint64_t in) const {
  if (store_.find(name) == nullptr) {
    if (const StoredTensor* tensor = store_.find(name + "_i8")) {
      return integers(name, *tensor, DType::kI8, out, in);
    }
    if (const StoredTensor* tensor = store_.find(name + "_i4")) {
      return integers(name, *tensor, DType::kI4, out, in);
    }
  }
  if (auto located = TRY(published(name, out, in))) {
    return *std::move(located);
  }
  return float_matrix(name, out, in);
}

Result<std::optional<LocatedMatrix>> TensorLocator::published(const std::string& name, uint64_t out,
                                                              uint64_t in) const {
  if (!config_.published) return std::optional<LocatedMatrix>();
  const PublishedFormat format = config_.published->format;
  const DType integers = config_.published->dtype;
  const bool int8 = format == PublishedFormat::kCompressedInt8;
  const bool compressed = int8 || format == PublishedFormat::kCompressedPacked;
  // "x.weight" is "x.weight_packed" or "x.qweight" there, but "x.weight" again if it is I8.
  const std::string stem = name.substr(0, name.size() - std::string_view("weight").size());
  const std::string weight = int8 ? name : compressed ? name + "_packed" : stem + "qweight";
  const StoredTensor* tensor = store_.find(weight);
  if (tensor == nullptr || (int8 && tensor->header.stored_dtype != "I8")) {
    return std::optional<LocatedMatrix>();
  }
  if (!fits_panels(out, in)) {
    return Error{Code::kUnsupported,
                 store_.name_of(*tensor) + " is a matrix " + shape_text({out, in}) +
                     "; integers must be multiples of 16 rows of multiples of 32"};
  }
  const uint64_t per_word = 32 / bits_of(integers);
  const uint64_t group = config_.published->group == 0 ? in : config_.published->group;
  const uint64_t groups = (in + group - 1) / group;
  using Shape = std::vector<uint64_t>;
  const auto part = [&](const std::string& part_name, std::string_view dtype,
                        const Shape& shape) -> Result<const StoredTensor*> {
    const StoredTensor* found = store_.find(part_name);
    if (found == nullptr) {
      return Error{Code::kNotFound, "tensor " + quoted(part_name) + " is missing; " +
                                        store_.name_of(*tensor) + " needs it"};
    }
    const bool type_fits =
        dtype.empty() ? found->header.dtype.has_value() && *found->header.dtype != DType::kF8E4M3
                      : found->header.stored_dtype == dtype;
    if (!type_fits || found->header.shape != shape) {
      return Error{Code::kCorrupt,
                   store_.name_of(*found) + " is " + std::string(found->header.stored_dtype) + " " +
                       shape_text(found->header.shape) + "; " + std::string(to_string(format)) +
                       " asks for " +
                       (dtype.empty() ? "a floating-point type" : std::string(dtype)) + " " +
                       shape_text(shape)};
    }
    return found;
  };
  LocatedMatrix located{
      .dtype = integers, .out = out, .in = in, .group = group, .published = format};
  const auto optional_part = [&](const std::string& part_name, std::string_view dtype,
                                 const Shape& shape) -> Result<void> {
    if (store_.find(part_name) != nullptr) {
      located.others.push_back(TRY(part(part_name, dtype, shape)));
    }
    return {};
  };
  const std::string group_index = compressed ? name + "_g_idx" : stem + "g_idx";
  if (config_.published->reordered && groups > 1) {
    located.columns = TRY(part(group_index, "I32", {in}));
  } else {
    TRY(optional_part(group_index, "I32", {in}));
  }
  if (int8) {
    located.tensor = TRY(part(weight, "I8", {out, in}));
  } else if (compressed) {
    located.tensor = TRY(part(weight, "I32", {out, in / per_word}));
    if (config_.published->zeros) {
      located.zeros = TRY(part(name + "_zero_point", "I32", {out / per_word, groups}));
    }
    TRY(optional_part(name + "_shape", "I64", {2}));
  } else {
    const bool awq = format == PublishedFormat::kAwq;
    located.tensor =
        TRY(part(weight, "I32", awq ? Shape{in, out / per_word} : Shape{in / per_word, out}));
    located.zeros = TRY(part(stem + "qzeros", "I32", {groups, out / per_word}));
  }
  located.scales = compressed ? TRY(part(name + "_scale", "", {out, groups}))
                              : TRY(part(stem + "scales", "", {groups, out}));
  located.bytes = located.tensor->whole();
  located.scale_bytes = located.scales->whole();
  return std::optional(std::move(located));
}

Result<LocatedMatrix> TensorLocator::integers(const std::string& name, const StoredTensor& tensor,
                                              DType dtype, uint64_t out, uint64_t in) const {
  const auto corrupt = [&](const StoredTensor& which, const std::string& what) {
    return Error{Code::kCorrupt, store_.name_of(which) + " " + what};
  };
  if (!config_.quantised) {
    return Error{Code::kUnsupported,
                 store_.name_of(tensor) +
                     " is a matrix of integers in panels, but config.json has no "
                     "quantization_config with quant_method \"troupe\""};
  }
  const std::vector<uint64_t> matrix_shape = {out, in};
  if (!fits_panels(out, in)) {
    return corrupt(tensor, "is in panels of integers, which a matrix " + shape_text(matrix_shape) +
                               " does not fit");
  }
  const std::string_view stored = dtype == DType::kI8 ? "I8" : "U8";
  if (tensor.header.stored_dtype != stored) {
    return corrupt(tensor, "has dtype " + std::string(tensor.header.stored_dtype) + ", not " +
                               std::string(stored));
  }
  const std::vector<uint64_t> shape =
      dtype == DType::kI8
          ? std::vector<uint64_t>{out / kPanelRows, in / kPanelQuad, kPanelRows, kPanelQuad}
          : std::vector<uint64_t>{out / kPanelRows, in / kPanelBlock, kPanelBlock / kPanelQuad / 2,
                                  kPanelRows, kPanelQuad};
  if (tensor.header.shape != shape) {
    return corrupt(tensor, "has shape " + shape_text(tensor.header.shape) +
                               ", but config.json asks for a matrix " + shape_text(matrix_shape) +
                               ", in panels " + shape_text(shape));
  }
  const StoredTensor* scales = store_.find(name + "_scale");
  if (scales == nullptr) {
    return Error{Code::kNotFound, "tensor " + quoted(name + "_scale") + " is missing; " +
                                      store_.name_of(tensor) + " needs it"};
  }
  const std::vector<uint64_t>& scale_shape = scales->header.shape;
  const std::optional<uint64_t> group =
      scale_shape.size() == 3 && scale_shape[0] == out / kPanelRows && scale_shape[2] == kPanelRows
          ? scale_group(in, scale_shape[1])
          : std::nullopt;
  if (!group) {
    return corrupt(*scales, "has shape " + shape_text(scale_shape) + ", which fits no scales of " +
                                "groups of 32, 64, 128 or 256 or of whole rows for a matrix " +
                                shape_text(matrix_shape));
  }
  if (scales->header.dtype != DType::kF32 && scales->header.dtype != DType::kBF16) {
    return corrupt(*scales, "has dtype " + std::string(scales->header.stored_dtype) +
                                "; scales of integers are BF16 or F32");
  }
  const StoredTensor* zeros = dtype == DType::kI4 ? store_.find(name + "_zero") : nullptr;
  if (zeros != nullptr &&
      (zeros->header.shape != scale_shape || zeros->header.stored_dtype != "U8")) {
    return corrupt(*zeros, "is " + std::string(zeros->header.stored_dtype) + " " +
                               shape_text(zeros->header.shape) + "; it must be U8 and, as " +
                               quoted(scales->header.name) + ", " + shape_text(scale_shape));
  }
  const StoredTensor* columns = store_.find(name + "_columns");
  if (columns != nullptr && (columns->header.shape != std::vector<uint64_t>{in} ||
                             columns->header.stored_dtype != "I32")) {
    return corrupt(*columns, "is " + std::string(columns->header.stored_dtype) + " " +
                                 shape_text(columns->header.shape) + "; it must be I32 " +
                                 shape_text({in}));
  }
  return LocatedMatrix{.tensor = &tensor,
                       .bytes = tensor.whole(),
                       .dtype = dtype,
                       .out = out,
                       .in = in,
                       .scales = scales,
                       .scale_bytes = scales->whole(),
                       .group = *group,
                       .zeros = zeros,
                       .columns = columns};
}

Result<LocatedKeyValue> TensorLocator::key_value(const std::string& name,
                                                 const TensorVisitor::KeyValueShape& s) const {
  LocatedKeyValue located;
  const std::string key_t = name + ".key_t.weight";
  if (store_.find(key_t) == nullptr && store_.find(key_t + "_i8") == nullptr &&
      store_.find(key_t + "_i4") == nullptr) {
    const uint64_t rows = s.heads * (s.nope + s.v);
    located.whole = TRY(published(name + ".weight", rows, s.latent));
    if (!located.whole) located.whole = TRY(float_matrix(name + ".weight", rows, s.latent));
    return located;
  }
  located.key_t = TRY(matrix(key_t, s.heads * s.latent, s.nope));
  located.value = TRY(matrix(name + ".value.weight", s.heads * s.v, s.latent));
  const auto splits = [](const LocatedMatrix& m, uint64_t rows_of_head) {
    return is_integer(m.dtype) ? rows_of_head % kPanelRows == 0 : m.dtype != DType::kF8E4M3;
  };
  for (const auto& [half, rows] :
       {std::pair(&located.key_t, s.latent), std::pair(&located.value, s.v)}) {
    if (!splits(*half, rows)) {
      return Error{Code::kCorrupt, store_.name_of(*half->tensor) + " cannot be cut into heads of " +
                                       std::to_string(rows) + " rows as it is stored"};
    }
  }
  return located;
}

Result<LocatedMatrix> TensorLocator::stacked_matrix(const std::string& name,
                                                    const TensorVisitor::Slice& slice) const {
  const StoredTensor* tensor = TRY(find(name, {slice.count, slice.rows, slice.in}));
  const StoredTensor* scale_tensor = TRY(scales(name, *tensor));
  const uint64_t row_bytes = slice.in * size_of(*tensor->header.dtype);
  const uint64_t begin =
      tensor->header.begin + (slice.index * slice.rows + slice.first) * row_bytes;
  LocatedMatrix located{.tensor = tensor,
                        .bytes = {tensor->file, begin, begin + slice.out * row_bytes},
                        .dtype = *tensor->header.dtype,
                        .out = slice.out,
                        .in = slice.in,
                        .scales = scale_tensor};
  if (scale_tensor == nullptr) {
    return located;
  }
  if (slice.first % kBlock != 0) {
    return Error{Code::kUnsupported, store_.name_of(*tensor) + " has matrices that begin at row " +
                                         std::to_string(slice.first) +
                                         ", inside a 128x128 block of scales"};
  }
  const uint64_t scale_row_bytes = blocks(slice.in) * size_of(*scale_tensor->header.dtype);
  const uint64_t scale_begin =
      scale_tensor->header.begin +
      (slice.index * blocks(slice.rows) + slice.first / kBlock) * scale_row_bytes;
  located.scale_bytes = {scale_tensor->file, scale_begin,
                         scale_begin + blocks(slice.out) * scale_row_bytes};
  return located;
}

bool is_stored_group(uint64_t in, uint64_t group) {
  const std::optional<uint64_t> told = scale_group(in, (in + group - 1) / group);
  return group >= in || told == group;
}

namespace {

/// Their order, or nothing if it is their own.
Result<std::vector<uint32_t>> order_of_columns(const TensorStore& store,
                                               const LocatedMatrix& located,
                                               const StoredTensor& groups) {
  auto columns = columns_by_group(TRY(store.read(groups.whole())), located.in, located.group);
  if (!columns.ok()) return std::move(columns).error().with_context(store.name_of(groups));
  return columns;
}

}  // namespace

Result<MappedPublished> map_published(const TensorStore& store, const LocatedMatrix& located) {
  for (const StoredTensor* other : located.others) {
    if (!other->header.name.ends_with("g_idx")) continue;
    if (!TRY(order_of_columns(store, located, *other)).empty()) {
      return Error{Code::kUnsupported,
                   store.name_of(*other) +
                       " puts its columns in another order, but config.json has neither "
                       "desc_act nor actorder \"group\""};
    }
  }
  struct Storage {
    std::vector<uint32_t> columns;
    std::shared_ptr<const void> mappings;
  };
  const auto storage = std::make_shared<Storage>();
  if (located.columns != nullptr) {
    storage->columns = TRY(order_of_columns(store, located, *located.columns));
  }
  std::vector<FileRange> ranges = {located.bytes, located.scale_bytes};
  if (located.zeros != nullptr) ranges.push_back(located.zeros->whole());
  MappedRanges mapped = TRY(store.map(ranges));
  storage->mappings = std::move(mapped.storage);
  const auto bytes = [&](size_t i) {
    return Bytes(mapped.addresses[i], ranges[i].end - ranges[i].begin);
  };
  return MappedPublished{.matrix = {.format = *located.published,
                                    .dtype = located.dtype,
                                    .weight = bytes(0),
                                    .scales = bytes(1),
                                    .scale_dtype = *located.scales->header.dtype,
                                    .zeros = located.zeros == nullptr ? Bytes() : bytes(2),
                                    .out = located.out,
                                    .in = located.in,
                                    .group = located.group,
                                    .columns = storage->columns},
                         .storage = storage};
}

}  // namespace troupe::model
