#include "model/tensor_visitors.hpp"

#include <utility>

#include "model/dequantise.hpp"
#include "model/json.hpp"

namespace troupe::model {
namespace {

constexpr uint64_t kBlock = WeightView::kScaleBlock;

uint64_t blocks(uint64_t size) { return (size + kBlock - 1) / kBlock; }

FileRange whole(const StoredTensor& tensor) {
  return {tensor.file, tensor.header.begin, tensor.header.end};
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

Result<LocatedMatrix> TensorLocator::matrix(const std::string& name, uint64_t out,
                                            uint64_t in) const {
  const StoredTensor* tensor = TRY(find(name, {out, in}));
  const StoredTensor* scale_tensor = TRY(scales(name, *tensor));
  return LocatedMatrix{tensor,       whole(*tensor),
                       out,          in,
                       scale_tensor, scale_tensor != nullptr ? whole(*scale_tensor) : FileRange()};
}

Result<LocatedMatrix> TensorLocator::stacked_matrix(const std::string& name,
                                                    const TensorVisitor::Slice& slice) const {
  const StoredTensor* tensor = TRY(find(name, {slice.count, slice.rows, slice.in}));
  const StoredTensor* scale_tensor = TRY(scales(name, *tensor));
  const uint64_t row_bytes = slice.in * size_of(*tensor->header.dtype);
  const uint64_t begin =
      tensor->header.begin + (slice.index * slice.rows + slice.first) * row_bytes;
  LocatedMatrix located{tensor,       {tensor->file, begin, begin + slice.out * row_bytes},
                        slice.out,    slice.in,
                        scale_tensor, {}};
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

CheckingVisitor::CheckingVisitor(const ModelConfig& config, const TensorStore& store)
    : store_(store), locator_(config, store), expected_(store.tensors().size()) {}

void CheckingVisitor::note(const StoredTensor* tensor) {
  if (tensor != nullptr) {
    expected_[static_cast<size_t>(tensor - store_.tensors().data())] = true;
  }
}

Result<void> CheckingVisitor::matrix(const std::string& name, uint64_t out, uint64_t in,
                                     WeightView&) {
  const LocatedMatrix located = TRY(locator_.matrix(name, out, in));
  note(located.tensor);
  note(located.scales);
  return {};
}

Result<void> CheckingVisitor::stacked_matrix(const std::string& name, const Slice& slice,
                                             WeightView&) {
  const LocatedMatrix located = TRY(locator_.stacked_matrix(name, slice));
  note(located.tensor);
  note(located.scales);
  return {};
}

Result<void> CheckingVisitor::floats(const std::string& name, const std::vector<uint64_t>& shape,
                                     std::vector<float>&) {
  if (shape.size() == 2) {
    WeightView unused;
    return matrix(name, shape[0], shape[1], unused);
  }
  note(TRY(locator_.numbers(name, shape)));
  return {};
}

LoadingVisitor::LoadingVisitor(const ModelConfig& config, const TensorStore& store)
    : store_(store), locator_(config, store) {}

Result<std::vector<float>> LoadingVisitor::read_floats(const StoredTensor& tensor,
                                                       const FileRange& bytes) const {
  const DType dtype = *tensor.header.dtype;
  std::vector<float> values((bytes.end - bytes.begin) / size_of(dtype));
  to_float32(TRY(store_.read(bytes)), dtype, values);
  return values;
}

Result<void> LoadingVisitor::add(const LocatedMatrix& located, WeightView& view) {
  view.dtype = *located.tensor->header.dtype;
  view.out = located.out;
  view.in = located.in;
  if (located.scales != nullptr) {
    storage_->scales.push_back(TRY(read_floats(*located.scales, located.scale_bytes)));
    view.scales = storage_->scales.back().data();
  }
  views_.push_back(&view);
  ranges_.push_back(located.bytes);
  return {};
}

Result<void> LoadingVisitor::matrix(const std::string& name, uint64_t out, uint64_t in,
                                    WeightView& view) {
  return add(TRY(locator_.matrix(name, out, in)), view);
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
  const LocatedMatrix located = TRY(locator_.matrix(name, shape[0], shape[1]));
  values = TRY(read_floats(*located.tensor, located.bytes));
  if (located.scales != nullptr) {
    apply_block_scales(values, located.out, located.in,
                       TRY(read_floats(*located.scales, located.scale_bytes)));
  }
  return {};
}

Result<std::shared_ptr<const void>> LoadingVisitor::finish() {
  MappedRanges mapped = TRY(store_.map(ranges_));
  for (size_t i = 0; i < views_.size(); ++i) {
    views_[i]->data = mapped.addresses[i];
  }
  storage_->mappings = std::move(mapped.storage);
  return std::shared_ptr<const void>(std::move(storage_));
}

}  // namespace troupe::model
