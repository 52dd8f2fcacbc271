#pragma once

// The two visitors of the layout: one compares a checkpoint's headers with it, one loads.

#include <deque>
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
/// REQUIRES: located.published. @errors kUnsupported naming the tensor by which its columns are in
/// another order; those of mapping
Result<MappedPublished> map_published(const TensorStore& store, const LocatedMatrix& located);

/// Whether Troupe's own files can tell that a row of `in` has groups of so many.
bool is_stored_group(uint64_t in, uint64_t group);

/// What the layout makes of a stored tensor.
struct TensorUse {
  DType counted_as = DType::kF32;
  uint64_t parameters = 0;  ///< numbers of the model; 0 for scales and zeros
};

/// Checks that a tensor is there, has its shape and a known type, and notes what it is used as.
class CheckingVisitor final : public TensorVisitor {
 public:
  CheckingVisitor(const ModelConfig& config, const TensorStore& store);

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in, WeightView&) override;
  Result<void> table(const std::string& name, uint64_t out, uint64_t in, WeightView&) override;
  Result<void> key_value(const std::string& name, const KeyValueShape& shape,
                         AttentionWeights&) override;
  Result<void> stacked_matrix(const std::string& name, const Slice& slice, WeightView&) override;
  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>&) override;

  /// By position in store.tensors(): nothing where the layout did not ask for it.
  [[nodiscard]] const std::vector<std::optional<TensorUse>>& uses() const { return uses_; }

 private:
  void note(const StoredTensor& tensor, const TensorUse& use);
  void note(const LocatedMatrix& located, uint64_t parameters);

  const TensorStore& store_;
  TensorLocator locator_;
  std::vector<std::optional<TensorUse>> uses_;
};

/// Adds up the memory that LoadingVisitor takes for itself, beside what it maps.
class OwnBytesVisitor final : public TensorVisitor {
 public:
  OwnBytesVisitor(const ModelConfig& config, const TensorStore& store, bool with_kv_b = false)
      : locator_(config, store), with_kv_b_(with_kv_b) {}

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in, WeightView&) override;
  Result<void> table(const std::string& name, uint64_t out, uint64_t in, WeightView&) override;
  Result<void> key_value(const std::string& name, const KeyValueShape& shape,
                         AttentionWeights&) override;
  Result<void> stacked_matrix(const std::string& name, const Slice& slice, WeightView&) override;
  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>&) override;

  [[nodiscard]] uint64_t bytes() const { return bytes_; }

 private:
  TensorLocator locator_;
  bool with_kv_b_;
  uint64_t bytes_ = 0;
};

/// Copies what is wanted as float32 at once, and collects the matrices to map them together.
class LoadingVisitor final : public TensorVisitor {
 public:
  /// @param with_kv_b, num_threads see Checkpoint::load_router()
  LoadingVisitor(const ModelConfig& config, const TensorStore& store, bool with_kv_b = false,
                 size_t num_threads = 1);

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in,
                      WeightView& view) override;
  Result<void> table(const std::string& name, uint64_t out, uint64_t in, WeightView& view) override;
  Result<void> key_value(const std::string& name, const KeyValueShape& shape,
                         AttentionWeights& weights) override;
  Result<void> stacked_matrix(const std::string& name, const Slice& slice,
                              WeightView& view) override;
  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>& values) override;

  /// A vector in its stored type, as a matrix of one row.
  Result<void> vector(const std::string& name, uint64_t size, WeightView& view);

  /// Maps all matrices visited so far and fills their views. Call once, at the end.
  /// @returns what has to live as long as the views.
  Result<std::shared_ptr<const void>> finish();

 private:
  struct Storage {
    std::shared_ptr<const void> mappings;
    std::deque<std::vector<float>> scales;
    std::deque<std::vector<std::byte>> copies;
    std::deque<PanelMatrix> panels;
  };
  /// Where the address of a mapped range goes.
  struct Wanted {
    WeightView* view;
    enum class Part : uint8_t { kData, kScales, kZeros } part;
  };

  Result<void> add(const LocatedMatrix& located, WeightView& view);
  void want(const FileRange& range, WeightView& view, Wanted::Part part);
  Result<std::vector<float>> read_floats(const StoredTensor& tensor, const FileRange& bytes) const;
  Result<std::vector<float>> read_matrix(const LocatedMatrix& located) const;
  template <class T>
  void split_key_value(Bytes kv_b, const KeyValueShape& shape, DType dtype,
                       AttentionWeights& weights);

  const TensorStore& store_;
  TensorLocator locator_;
  bool with_kv_b_;
  size_t num_threads_;
  std::vector<Wanted> wanted_;
  std::vector<FileRange> ranges_;
  std::shared_ptr<Storage> storage_ = std::make_shared<Storage>();
};

}  // namespace troupe::model
