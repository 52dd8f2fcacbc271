#include "model/tensor_visitors.hpp"

#include <cstring>
#include <span>
#include <utility>

#include "base/panels.hpp"
#include "model/dequantise.hpp"

namespace troupe::model {
namespace {

constexpr uint64_t kBlock = WeightView::kScaleBlock;

}  // namespace

CheckingVisitor::CheckingVisitor(const ModelConfig& config, const TensorStore& store)
    : store_(store), locator_(config, store), uses_(store.tensors().size()) {}

void CheckingVisitor::note(const StoredTensor& tensor, const TensorUse& use) {
  uses_[static_cast<size_t>(&tensor - store_.tensors().data())] = use;
}

void CheckingVisitor::note(const LocatedMatrix& located, uint64_t parameters) {
  note(*located.tensor, {located.dtype, parameters});
  if (located.scales != nullptr) note(*located.scales, {*located.scales->header.dtype, 0});
  if (located.zeros != nullptr) note(*located.zeros, {DType::kI4, 0});
  if (located.columns != nullptr) note(*located.columns, {DType::kI4, 0});
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

/// Of the order of columns, which whoever has a part of the outputs needs whole.
uint64_t column_bytes(const LocatedMatrix& m) {
  return m.columns == nullptr ? 0 : m.in * sizeof(uint32_t);
}

/// Of a matrix that is loaded as a view.
uint64_t copied_bytes(const LocatedMatrix& m) {
  const uint64_t columns = column_bytes(m);
  if (m.published) {
    const uint64_t num_scales = m.out * ((m.in + m.group - 1) / m.group);
    const bool int4 = m.dtype == DType::kI4;
    return m.out * m.in / (int4 ? 2 : 1) + num_scales * (sizeof(float) + (int4 ? 1 : 0)) + columns;
  }
  if (is_integer(m.dtype) || m.scales == nullptr) return columns;
  return (m.scale_bytes.end - m.scale_bytes.begin) / size_of(*m.scales->header.dtype) *
         sizeof(float);
}

/// The rest of it.
uint64_t mapped_bytes(const LocatedMatrix& m) {
  if (m.published) return 0;
  uint64_t bytes = m.bytes.end - m.bytes.begin;
  if (is_integer(m.dtype)) bytes += m.scale_bytes.end - m.scale_bytes.begin;
  if (m.zeros != nullptr) bytes += m.zeros->header.end - m.zeros->header.begin;
  return bytes;
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

void BytesVisitor::add(const LocatedMatrix& located) {
  own_ += copied_bytes(located);
  mapped_ += mapped_bytes(located);
}

uint64_t BytesVisitor::bytes_of(const WeightView& view) const {
  const auto found = of_views_.find(&view);
  return found == of_views_.end() ? 0 : found->second;
}

Result<void> BytesVisitor::matrix(const std::string& name, uint64_t out, uint64_t in,
                                  WeightView& view) {
  const LocatedMatrix located = TRY(locator_.matrix(name, out, in));
  const uint64_t before = all_bytes() + column_bytes(located);
  add(located);
  note(view, before);
  return {};
}

Result<void> BytesVisitor::table(const std::string& name, uint64_t out, uint64_t in,
                                 WeightView& view) {
  const uint64_t before = all_bytes();
  add(TRY(locator_.float_matrix(name, out, in)));
  note(view, before);
  return {};
}

Result<void> BytesVisitor::key_value(const std::string& name, const KeyValueShape& shape,
                                     AttentionWeights& weights) {
  const LocatedKeyValue located = TRY(locator_.key_value(name, shape));
  const uint64_t before = all_bytes();
  if (!located.whole) {
    add(located.key_t);
    add(located.value);
    note(weights.uk_t, before);
    return {};
  }
  const uint64_t elements = located.whole->out * located.whole->in;
  const bool keeps_8_bits = in_8_bits(*located.whole, shape);
  own_ += elements * (keeps_8_bits ? 1 : in_16_bits(*located.whole) ? 2 : sizeof(float));
  if (with_kv_b_) own_ += elements * sizeof(float);
  note(weights.uk_t, before);
  return {};
}

Result<void> BytesVisitor::stacked_matrix(const std::string& name, const Slice& slice,
                                          WeightView&) {
  add(TRY(locator_.stacked_matrix(name, slice)));
  return {};
}

Result<void> BytesVisitor::floats(const std::string&, const std::vector<uint64_t>& shape,
                                  std::vector<float>&) {
  uint64_t elements = 1;
  for (const uint64_t dim : shape) elements *= dim;
  own_ += elements * sizeof(float);
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

Result<const uint32_t*> LoadingVisitor::read_columns(const StoredTensor& tensor) {
  const std::vector<std::byte> bytes = TRY(store_.read(tensor.whole()));
  std::vector<uint32_t> columns(bytes.size() / sizeof(uint32_t));
  std::memcpy(columns.data(), bytes.data(), bytes.size());
  std::vector<bool> seen(columns.size());
  for (const uint32_t column : columns) {
    if (column >= seen.size() || seen[column]) {
      return Error{Code::kCorrupt, store_.name_of(tensor) + " is no order of " +
                                       std::to_string(seen.size()) + " columns: it has " +
                                       std::to_string(column) +
                                       (column < seen.size() ? " twice" : "")};
    }
    seen[column] = true;
  }
  return keep_columns(std::move(columns));
}

const uint32_t* LoadingVisitor::keep_columns(std::vector<uint32_t> columns) {
  if (columns.empty()) return nullptr;
  std::deque<std::vector<uint32_t>>& kept = storage_->columns;
  if (kept.empty() || kept.back() != columns) kept.push_back(std::move(columns));
  return kept.back().data();
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
    const std::span<const uint32_t> columns = published.matrix.columns;
    view.columns = keep_columns({columns.begin(), columns.end()});
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
    if (located.zeros != nullptr) want(located.zeros->whole(), view, Wanted::Part::kZeros);
    if (located.columns != nullptr) view.columns = TRY(read_columns(*located.columns));
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
    values = TRY(read_floats(*tensor, tensor->whole()));
    return {};
  }
  values = TRY(read_matrix(TRY(locator_.float_matrix(name, shape[0], shape[1]))));
  return {};
}

Result<void> LoadingVisitor::vector(const std::string& name, uint64_t size, WeightView& view) {
  const StoredTensor* tensor = TRY(locator_.numbers(name, {size}));
  return add({.tensor = tensor,
              .bytes = tensor->whole(),
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
