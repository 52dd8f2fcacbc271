#include "model/tensor_visitors.hpp"

#include <cstring>
#include <span>
#include <utility>

#include "base/panels.hpp"
#include "model/dequantise.hpp"
#include "model/json.hpp"

namespace troupe::model {
namespace {

constexpr uint64_t kBlock = WeightView::kScaleBlock;

uint64_t blocks(uint64_t size) { return WeightView::num_scale_blocks(size); }

FileRange whole(const StoredTensor& tensor) {
  return {tensor.file, tensor.header.begin, tensor.header.end};
}

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
  return LocatedMatrix{.tensor = tensor,
                       .bytes = whole(*tensor),
                       .dtype = *tensor->header.dtype,
                       .out = out,
                       .in = in,
                       .scales = scale_tensor,
                       .scale_bytes = scale_tensor != nullptr ? whole(*scale_tensor) : FileRange()};
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
  if (int8) {
    located.tensor = TRY(part(weight, "I8", {out, in}));
  } else if (compressed) {
    located.tensor = TRY(part(weight, "I32", {out, in / per_word}));
    if (config_.published->zeros) {
      located.zeros = TRY(part(name + "_zero_point", "I32", {out / per_word, groups}));
    }
    TRY(optional_part(name + "_shape", "I64", {2}));
    TRY(optional_part(name + "_g_idx", "I32", {in}));
  } else {
    const bool awq = format == PublishedFormat::kAwq;
    located.tensor =
        TRY(part(weight, "I32", awq ? Shape{in, out / per_word} : Shape{in / per_word, out}));
    located.zeros = TRY(part(stem + "qzeros", "I32", {groups, out / per_word}));
    if (!awq) TRY(optional_part(stem + "g_idx", "I32", {in}));
  }
  located.scales = compressed ? TRY(part(name + "_scale", "", {out, groups}))
                              : TRY(part(stem + "scales", "", {groups, out}));
  located.bytes = whole(*located.tensor);
  located.scale_bytes = whole(*located.scales);
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
  return LocatedMatrix{.tensor = &tensor,
                       .bytes = whole(tensor),
                       .dtype = dtype,
                       .out = out,
                       .in = in,
                       .scales = scales,
                       .scale_bytes = whole(*scales),
                       .group = *group,
                       .zeros = zeros};
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

/// Refuses columns that are not stored in their own order.
Result<void> check_column_order(const TensorStore& store, const LocatedMatrix& located) {
  for (const StoredTensor* other : located.others) {
    if (!other->header.name.ends_with("g_idx")) continue;
    const std::vector<std::byte> bytes = TRY(store.read(whole(*other)));
    for (uint64_t i = 0; i < located.in; ++i) {
      int32_t group;
      std::memcpy(&group, bytes.data() + i * sizeof group, sizeof group);
      if (group != static_cast<int32_t>(i / located.group)) {
        return Error{Code::kUnsupported, store.name_of(*other) +
                                             " puts its columns in another order (desc_act), "
                                             "which Troupe does not read"};
      }
    }
  }
  return {};
}

}  // namespace

Result<MappedPublished> map_published(const TensorStore& store, const LocatedMatrix& located) {
  TRY(check_column_order(store, located));
  std::vector<FileRange> ranges = {located.bytes, located.scale_bytes};
  if (located.zeros != nullptr) ranges.push_back(whole(*located.zeros));
  MappedRanges mapped = TRY(store.map(ranges));
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
                                    .group = located.group},
                         .storage = std::move(mapped.storage)};
}

CheckingVisitor::CheckingVisitor(const ModelConfig& config, const TensorStore& store)
    : store_(store), locator_(config, store), uses_(store.tensors().size()) {}

void CheckingVisitor::note(const StoredTensor& tensor, const TensorUse& use) {
  uses_[static_cast<size_t>(&tensor - store_.tensors().data())] = use;
}

void CheckingVisitor::note(const LocatedMatrix& located, uint64_t parameters) {
  note(*located.tensor, {located.dtype, parameters});
  if (located.scales != nullptr) note(*located.scales, {*located.scales->header.dtype, 0});
  if (located.zeros != nullptr) note(*located.zeros, {DType::kI4, 0});
  for (const StoredTensor* other : located.others) note(*other, {DType::kI4, 0});
}

Result<void> CheckingVisitor::matrix(const std::string& name, uint64_t out, uint64_t in,
                                     WeightView&) {
  note(TRY(locator_.matrix(name, out, in)), out * in);
  return {};
}

Result<void> CheckingVisitor::table(const std::string& name, uint64_t out, uint64_t in,
                                    WeightView&) {
  note(TRY(locator_.float_matrix(name, out, in)), out * in);
  return {};
}

Result<void> CheckingVisitor::key_value(const std::string& name, const KeyValueShape& shape,
                                        AttentionWeights&) {
  const LocatedKeyValue located = TRY(locator_.key_value(name, shape));
  if (located.whole) {
    note(*located.whole, located.whole->out * located.whole->in);
    return {};
  }
  for (const LocatedMatrix* half : {&located.key_t, &located.value}) {
    note(*half, half->out * half->in);
  }
  return {};
}

Result<void> CheckingVisitor::stacked_matrix(const std::string& name, const Slice& slice,
                                             WeightView&) {
  const LocatedMatrix located = TRY(locator_.stacked_matrix(name, slice));
  note(located, located.tensor->header.num_elements());
  return {};
}

Result<void> CheckingVisitor::floats(const std::string& name, const std::vector<uint64_t>& shape,
                                     std::vector<float>&) {
  if (shape.size() == 2) {
    WeightView unused;
    return table(name, shape[0], shape[1], unused);
  }
  const StoredTensor* tensor = TRY(locator_.numbers(name, shape));
  note(*tensor, {*tensor->header.dtype, tensor->header.num_elements()});
  return {};
}

namespace {

/// Of a matrix that is loaded as a view.
uint64_t own_bytes(const LocatedMatrix& m) {
  if (m.published) {
    const uint64_t num_scales = m.out * ((m.in + m.group - 1) / m.group);
    const bool int4 = m.dtype == DType::kI4;
    return m.out * m.in / (int4 ? 2 : 1) + num_scales * (sizeof(float) + (int4 ? 1 : 0));
  }
  if (is_integer(m.dtype) || m.scales == nullptr) return 0;
  return (m.scale_bytes.end - m.scale_bytes.begin) / size_of(*m.scales->header.dtype) *
         sizeof(float);
}

bool in_16_bits(const LocatedMatrix& m) {
  return m.dtype == DType::kBF16 || m.dtype == DType::kF16;
}

/// Its halves stay in FP8. Blocks of scales that cross from one half or head into another cannot be
/// split.
bool in_8_bits(const LocatedMatrix& kv_b, const TensorVisitor::KeyValueShape& shape) {
  return kv_b.dtype == DType::kF8E4M3 && shape.nope % kBlock == 0 && shape.v % kBlock == 0 &&
         shape.latent % kBlock == 0;
}

}  // namespace

Result<void> OwnBytesVisitor::matrix(const std::string& name, uint64_t out, uint64_t in,
                                     WeightView&) {
  bytes_ += own_bytes(TRY(locator_.matrix(name, out, in)));
  return {};
}

Result<void> OwnBytesVisitor::table(const std::string& name, uint64_t out, uint64_t in,
                                    WeightView&) {
  bytes_ += own_bytes(TRY(locator_.float_matrix(name, out, in)));
  return {};
}

Result<void> OwnBytesVisitor::key_value(const std::string& name, const KeyValueShape& shape,
                                        AttentionWeights&) {
  const LocatedKeyValue located = TRY(locator_.key_value(name, shape));
  if (!located.whole) {
    bytes_ += own_bytes(located.key_t) + own_bytes(located.value);
    return {};
  }
  const uint64_t elements = located.whole->out * located.whole->in;
  const bool keeps_8_bits = in_8_bits(*located.whole, shape);
  bytes_ += elements * (keeps_8_bits ? 1 : in_16_bits(*located.whole) ? 2 : sizeof(float));
  if (with_kv_b_) bytes_ += elements * sizeof(float);
  return {};
}

Result<void> OwnBytesVisitor::stacked_matrix(const std::string& name, const Slice& slice,
                                             WeightView&) {
  bytes_ += own_bytes(TRY(locator_.stacked_matrix(name, slice)));
  return {};
}

Result<void> OwnBytesVisitor::floats(const std::string&, const std::vector<uint64_t>& shape,
                                     std::vector<float>&) {
  uint64_t elements = 1;
  for (const uint64_t dim : shape) elements *= dim;
  bytes_ += elements * sizeof(float);
  return {};
}

LoadingVisitor::LoadingVisitor(const ModelConfig& config, const TensorStore& store, bool with_kv_b,
                               size_t num_threads)
    : store_(store), locator_(config, store), with_kv_b_(with_kv_b), num_threads_(num_threads) {}

Result<std::vector<float>> LoadingVisitor::read_floats(const StoredTensor& tensor,
                                                       const FileRange& bytes) const {
  const DType dtype = *tensor.header.dtype;
  std::vector<float> values((bytes.end - bytes.begin) / size_of(dtype));
  to_float32(TRY(store_.read(bytes)), dtype, values);
  return values;
}

Result<std::vector<float>> LoadingVisitor::read_matrix(const LocatedMatrix& located) const {
  if (located.published) {
    const MappedPublished published = TRY(map_published(store_, located));
    return to_floats(published.matrix, 0, located.out / kPanelRows);
  }
  std::vector<float> values = TRY(read_floats(*located.tensor, located.bytes));
  if (located.scales != nullptr) {
    const auto scales = TRY(read_floats(*located.scales, located.scale_bytes));
    apply_block_scales(values, 0, located.in, scales.data());
  }
  return values;
}

void LoadingVisitor::want(const FileRange& range, WeightView& view, Wanted::Part part) {
  wanted_.push_back({&view, part});
  ranges_.push_back(range);
}

Result<void> LoadingVisitor::add(const LocatedMatrix& located, WeightView& view) {
  if (located.published) {
    const MappedPublished published = TRY(map_published(store_, located));
    auto panels = to_panels(published.matrix, num_threads_);
    if (!panels.ok()) {
      return std::move(panels).error().with_context(store_.name_of(*located.zeros));
    }
    storage_->panels.push_back(std::move(*panels));
    view = storage_->panels.back().view(published.matrix);
    return {};
  }
  view.dtype = located.dtype;
  view.out = located.out;
  view.in = located.in;
  want(located.bytes, view, Wanted::Part::kData);
  if (is_integer(located.dtype)) {
    view.group_scales.dtype = *located.scales->header.dtype;
    view.group_scales.group = located.group;
    want(located.scale_bytes, view, Wanted::Part::kScales);
    if (located.zeros != nullptr) want(whole(*located.zeros), view, Wanted::Part::kZeros);
  } else if (located.scales != nullptr) {
    storage_->scales.push_back(TRY(read_floats(*located.scales, located.scale_bytes)));
    view.scales = storage_->scales.back().data();
  }
  return {};
}

Result<void> LoadingVisitor::matrix(const std::string& name, uint64_t out, uint64_t in,
                                    WeightView& view) {
  return add(TRY(locator_.matrix(name, out, in)), view);
}

Result<void> LoadingVisitor::table(const std::string& name, uint64_t out, uint64_t in,
                                   WeightView& view) {
  return add(TRY(locator_.float_matrix(name, out, in)), view);
}

Result<void> LoadingVisitor::key_value(const std::string& name, const KeyValueShape& shape,
                                       AttentionWeights& weights) {
  const LocatedKeyValue located = TRY(locator_.key_value(name, shape));
  if (!located.whole) {
    if (with_kv_b_) {
      return Error{Code::kUnsupported,
                   store_.name_of(*located.key_t.tensor) +
                       " was made for the absorbed form of attention; the expanded form needs a "
                       "checkpoint with kv_b_proj.weight"};
    }
    TRY(add(located.key_t, weights.uk_t));
    return add(located.value, weights.uv);
  }
  const LocatedMatrix& kv_b = *located.whole;
  const bool splits_8_bits = in_8_bits(kv_b, shape);
  std::vector<float> values;
  if ((!in_16_bits(kv_b) && !splits_8_bits) || with_kv_b_) values = TRY(read_matrix(kv_b));
  if (in_16_bits(kv_b)) {
    const std::vector<std::byte> bytes = TRY(store_.read(kv_b.bytes));
    split_key_value<uint16_t>(bytes, shape, kv_b.dtype, weights);
  } else if (splits_8_bits) {
    const std::vector<std::byte> bytes = TRY(store_.read(kv_b.bytes));
    split_key_value<uint8_t>(bytes, shape, kv_b.dtype, weights);
    if (kv_b.scales != nullptr) {
      const std::vector<float> scales = TRY(read_floats(*kv_b.scales, kv_b.scale_bytes));
      AttentionWeights halves;  // the scales of blocks are split as their elements are
      split_key_value<float>(std::as_bytes(std::span(scales)),
                             {.heads = shape.heads,
                              .nope = shape.nope / kBlock,
                              .v = shape.v / kBlock,
                              .latent = shape.latent / kBlock},
                             DType::kF32, halves);
      weights.uk_t.scales = static_cast<const float*>(halves.uk_t.data);
      weights.uv.scales = static_cast<const float*>(halves.uv.data);
    }
  } else {
    split_key_value<float>(std::as_bytes(std::span(values)), shape, DType::kF32, weights);
  }
  if (with_kv_b_) weights.kv_b = std::move(values);
  return {};
}

/// [H, dn+dv, kl] -> uk_t [H, kl, dn] and uv [H, dv, kl].
template <class T>
void LoadingVisitor::split_key_value(Bytes kv_b, const KeyValueShape& s, DType dtype,
                                     AttentionWeights& weights) {
  const auto copy_of = [&](WeightView& view, uint64_t out, uint64_t in) {
    std::vector<std::byte>& bytes = storage_->copies.emplace_back(out * in * sizeof(T));
    view = {.data = bytes.data(), .dtype = dtype, .out = out, .in = in};
    return bytes.data();
  };
  std::byte* keys = copy_of(weights.uk_t, s.heads * s.latent, s.nope);
  std::byte* values = copy_of(weights.uv, s.heads * s.v, s.latent);
  const uint64_t value_bytes = s.v * s.latent * sizeof(T);
  for (uint64_t head = 0; head < s.heads; ++head) {
    const std::byte* from = kv_b.data() + head * (s.nope + s.v) * s.latent * sizeof(T);
    std::byte* to = keys + head * s.latent * s.nope * sizeof(T);
    for (uint64_t row = 0; row < s.nope; ++row) {
      for (uint64_t column = 0; column < s.latent; ++column) {
        std::memcpy(to + (column * s.nope + row) * sizeof(T),
                    from + (row * s.latent + column) * sizeof(T), sizeof(T));
      }
    }
    std::memcpy(values + head * value_bytes, from + s.nope * s.latent * sizeof(T), value_bytes);
  }
}

Result<void> LoadingVisitor::stacked_matrix(const std::string& name, const Slice& slice,
                                            WeightView& view) {
  return add(TRY(locator_.stacked_matrix(name, slice)), view);
}

Result<void> LoadingVisitor::floats(const std::string& name, const std::vector<uint64_t>& shape,
                                    std::vector<float>& values) {
  if (shape.size() != 2) {
    const StoredTensor* tensor = TRY(locator_.numbers(name, shape));
    values = TRY(read_floats(*tensor, whole(*tensor)));
    return {};
  }
  values = TRY(read_matrix(TRY(locator_.float_matrix(name, shape[0], shape[1]))));
  return {};
}

Result<void> LoadingVisitor::vector(const std::string& name, uint64_t size, WeightView& view) {
  const StoredTensor* tensor = TRY(locator_.numbers(name, {size}));
  return add({.tensor = tensor,
              .bytes = whole(*tensor),
              .dtype = *tensor->header.dtype,
              .out = 1,
              .in = size},
             view);
}

Result<std::shared_ptr<const void>> LoadingVisitor::finish() {
  MappedRanges mapped = TRY(store_.map(ranges_));
  for (size_t i = 0; i < wanted_.size(); ++i) {
    const std::byte* address = mapped.addresses[i];
    WeightView& view = *wanted_[i].view;
    switch (wanted_[i].part) {
      case Wanted::Part::kData: view.data = address; break;
      case Wanted::Part::kScales: view.group_scales.data = address; break;
      case Wanted::Part::kZeros:
        view.group_scales.zeros = reinterpret_cast<const uint8_t*>(address);
        break;
    }
  }
  storage_->mappings = std::move(mapped.storage);
  return std::shared_ptr<const void>(std::move(storage_));
}

}  // namespace troupe::model
