#pragma once

// The two visitors of the layout: one compares a checkpoint's headers with it, one loads.

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/layout.hpp"
#include "model/tensor_store.hpp"

namespace troupe::model {

/// A matrix inside a stored tensor, its shapes and types checked.
struct LocatedMatrix {
  const StoredTensor* tensor = nullptr;
  FileRange bytes;
  uint64_t out = 0;
  uint64_t in = 0;
  const StoredTensor* scales = nullptr;  ///< F8_E4M3 only
  FileRange scale_bytes;
};

/// Finds tensors by name and compares them with what the layout asks for.
/// All methods: @errors kNotFound, kCorrupt, kUnsupported, each naming the tensor.
class TensorLocator {
 public:
  TensorLocator(const ModelConfig& config, const TensorStore& store)
      : config_(config), store_(store) {}

  [[nodiscard]] Result<LocatedMatrix> matrix(const std::string& name, uint64_t out,
                                             uint64_t in) const;
  [[nodiscard]] Result<LocatedMatrix> stacked_matrix(const std::string& name,
                                                     const TensorVisitor::Slice& slice) const;
  /// A tensor of unquantised numbers.
  [[nodiscard]] Result<const StoredTensor*> numbers(const std::string& name,
                                                    const std::vector<uint64_t>& shape) const;

 private:
  [[nodiscard]] Result<const StoredTensor*> find(const std::string& name,
                                                 const std::vector<uint64_t>& shape) const;
  [[nodiscard]] Result<const StoredTensor*> scales(const std::string& name,
                                                   const StoredTensor& tensor) const;

  const ModelConfig& config_;
  const TensorStore& store_;
};

/// Checks that a tensor is there, has its shape and a known type, and notes it as expected.
class CheckingVisitor final : public TensorVisitor {
 public:
  CheckingVisitor(const ModelConfig& config, const TensorStore& store);

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in, WeightView&) override;
  Result<void> stacked_matrix(const std::string& name, const Slice& slice, WeightView&) override;
  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>&) override;

  /// By position in store.tensors(): whether the layout asked for it.
  [[nodiscard]] const std::vector<bool>& expected() const { return expected_; }

 private:
  void note(const StoredTensor* tensor);

  const TensorStore& store_;
  TensorLocator locator_;
  std::vector<bool> expected_;
};

/// Copies what is wanted as float32 at once, and collects the matrices to map them together.
class LoadingVisitor final : public TensorVisitor {
 public:
  LoadingVisitor(const ModelConfig& config, const TensorStore& store);

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in,
                      WeightView& view) override;
  Result<void> stacked_matrix(const std::string& name, const Slice& slice,
                              WeightView& view) override;
  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>& values) override;

  /// Maps all matrices visited so far and fills their views. Call once, at the end.
  /// @returns what has to live as long as the views.
  Result<std::shared_ptr<const void>> finish();

 private:
  struct Storage {
    std::shared_ptr<const void> mappings;
    std::deque<std::vector<float>> scales;
  };

  Result<void> add(const LocatedMatrix& located, WeightView& view);
  Result<std::vector<float>> read_floats(const StoredTensor& tensor, const FileRange& bytes) const;

  const TensorStore& store_;
  TensorLocator locator_;
  std::vector<WeightView*> views_;
  std::vector<FileRange> ranges_;
  std::shared_ptr<Storage> storage_ = std::make_shared<Storage>();
};

}  // namespace troupe::model
