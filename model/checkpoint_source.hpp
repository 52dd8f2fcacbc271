#pragma once

// A checkpoint's own tensors as a source for writing it anew.

#include <map>
#include <memory>
#include <string>

#include "model/checkpoint_writer.hpp"
#include "model/weights.hpp"

namespace troupe::model {

/// Maps the whole checkpoint; of its numbers it holds only FP8's scales. Experts that are stored
/// fused are read one by one.
class CheckpointSource final : public TensorSource {
 public:
  /// @errors as Checkpoint::load_router(); kUnsupported if it is quantised to integers already.
  static Result<std::unique_ptr<const CheckpointSource>> open(const Checkpoint& checkpoint);

  /// F32 for F16, so that nothing is lost; BF16 for FP8.
  [[nodiscard]] DType kept_type(const std::string& name) const override;
  Result<void> read(const std::string& name, uint64_t in, uint64_t first, uint64_t count,
                    float* values) const override;

 private:
  CheckpointSource() = default;

  std::map<std::string, WeightView> tensors_;  ///< vectors as matrices of one row
  std::shared_ptr<const void> storage_;
};

}  // namespace troupe::model
