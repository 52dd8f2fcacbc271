#pragma once

// The visitors of the layout: one compares a checkpoint's headers with it, one adds up the memory
// that loading takes, one loads.

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "model/layout.hpp"
#include "model/published_integers.hpp"
#include "model/tensor_locator.hpp"

namespace troupe::model {

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

/// Adds up the memory that LoadingVisitor takes for itself, and what it maps.
class BytesVisitor final : public TensorVisitor {
 public:
  BytesVisitor(const ModelConfig& config, const TensorStore& store, bool with_kv_b = false)
      : locator_(config, store), with_kv_b_(with_kv_b) {}

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in, WeightView&) override;
  Result<void> table(const std::string& name, uint64_t out, uint64_t in, WeightView&) override;
  Result<void> key_value(const std::string& name, const KeyValueShape& shape,
                         AttentionWeights&) override;
  Result<void> stacked_matrix(const std::string& name, const Slice& slice, WeightView&) override;
  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>&) override;

  [[nodiscard]] uint64_t own_bytes() const { return own_; }
  [[nodiscard]] uint64_t all_bytes() const { return own_ + mapped_; }
  /// Of these, what a visited view will show, but for its order of columns; all that is made of a
  /// kv_b for its uk_t.
  [[nodiscard]] uint64_t bytes_of(const WeightView& view) const;

 private:
  void add(const LocatedMatrix& located);
  /// Notes for which view all was added since `before`.
  void note(const WeightView& view, uint64_t before) { of_views_[&view] += all_bytes() - before; }

  TensorLocator locator_;
  bool with_kv_b_;
  uint64_t own_ = 0;
  uint64_t mapped_ = 0;
  std::map<const WeightView*, uint64_t> of_views_;
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
    std::deque<std::vector<uint32_t>> columns;
  };
  /// Where the address of a mapped range goes.
  struct Wanted {
    WeightView* view;
    enum class Part : uint8_t { kData, kScales, kZeros } part;
  };

  Result<void> add(const LocatedMatrix& located, WeightView& view);
  Result<const uint32_t*> read_columns(const StoredTensor& tensor);
  /// Where they stay. Those of the matrix before if they are equal, as those of gate and up:
  /// products know by it that they read the same.
  const uint32_t* keep_columns(std::vector<uint32_t> columns);
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
