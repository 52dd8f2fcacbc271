#pragma once

// Where a checkpoint has the matrices that the layout asks for.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "model/layout.hpp"
#include "model/published_integers.hpp"
#include "model/tensor_store.hpp"

namespace troupe::model {

/// A matrix inside a stored tensor, its shapes and types checked.
struct LocatedMatrix {
  const StoredTensor* tensor = nullptr;
  FileRange bytes;
  DType dtype = DType::kF32;
  uint64_t out = 0;
  uint64_t in = 0;
  const StoredTensor* scales = nullptr;  ///< of F8_E4M3 and of integers
  FileRange scale_bytes;
  uint64_t group = 0;                   ///< integers: elements that share a scale
  const StoredTensor* zeros = nullptr;  ///< kI4 only, or nullptr
  /// Integers as others publish them: to be brought into panels.
  std::optional<PublishedFormat> published;
  /// Of integers whose columns are in another order: which group each column has, as others publish
  /// it, or which column is where (WeightView::columns).
  const StoredTensor* columns = nullptr;
  std::vector<const StoredTensor*> others;  ///< that belong to it and are only checked
};

/// kv_b_proj of one layer, in one of its two forms of storage.
struct LocatedKeyValue {
  std::optional<LocatedMatrix> whole;  ///< nothing: in halves
  LocatedMatrix key_t;
  LocatedMatrix value;
};

/// Finds tensors by name and compares them with what the layout asks for.
/// All methods: @errors kNotFound, kCorrupt, kUnsupported, each naming the tensor.
class TensorLocator {
 public:
  TensorLocator(const ModelConfig& config, const TensorStore& store)
      : config_(config), store_(store) {}

  /// Floating-point or integers.
  [[nodiscard]] Result<LocatedMatrix> matrix(const std::string& name, uint64_t out,
                                             uint64_t in) const;
  /// Floating-point only.
  [[nodiscard]] Result<LocatedMatrix> float_matrix(const std::string& name, uint64_t out,
                                                   uint64_t in) const;
  [[nodiscard]] Result<LocatedMatrix> stacked_matrix(const std::string& name,
                                                     const TensorVisitor::Slice& slice) const;
  [[nodiscard]] Result<LocatedKeyValue> key_value(const std::string& name,
                                                  const TensorVisitor::KeyValueShape& shape) const;
  /// A tensor of unquantised numbers.
  [[nodiscard]] Result<const StoredTensor*> numbers(const std::string& name,
                                                    const std::vector<uint64_t>& shape) const;

 private:
  [[nodiscard]] Result<const StoredTensor*> find(const std::string& name,
                                                 const std::vector<uint64_t>& shape) const;
  [[nodiscard]] Result<const StoredTensor*> scales(const std::string& name,
                                                   const StoredTensor& tensor) const;
  [[nodiscard]] Result<LocatedMatrix> integers(const std::string& name, const StoredTensor& tensor,
                                               DType dtype, uint64_t out, uint64_t in) const;
  /// Nothing if this matrix is not stored so.
  [[nodiscard]] Result<std::optional<LocatedMatrix>> published(const std::string& name,
                                                               uint64_t out, uint64_t in) const;

  const ModelConfig& config_;
  const TensorStore& store_;
};

/// A matrix of integers as others publish them, mapped.
struct MappedPublished {
  PublishedMatrix matrix;
  std::shared_ptr<const void> storage;
};
/// REQUIRES: located.published. @errors kCorrupt naming the tensor that gives columns impossible
/// groups; kUnsupported naming that by which they are in another order although config.json knows
/// nothing of it; those of mapping
Result<MappedPublished> map_published(const TensorStore& store, const LocatedMatrix& located);

/// Whether Troupe's own files can tell that a row of `in` has groups of so many.
bool is_stored_group(uint64_t in, uint64_t group);

}  // namespace troupe::model
