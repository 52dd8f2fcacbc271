#pragma once

// A checkpoint's own tensors as a source for writing it anew.

#include <map>
#include <memory>
#include <string>

#include "model/checkpoint_writer.hpp"
#include "model/tensor_locator.hpp"
#include "model/weights.hpp"

namespace troupe::model {

/// Maps the whole checkpoint; of its numbers it holds only FP8's scales and orders of columns.
/// Experts that are stored fused are read one by one. Integers as others publish them can be kept,
/// and nothing else be made of them.
class CheckpointSource final : public TensorSource {
 public:
  /// @param keep for SavePlan::keep
  /// @errors as Checkpoint::load_router(); kUnsupported if it is quantised to integers already, or
  ///         to be kept and not as others publish them, or in groups that Troupe does not store
  static Result<std::unique_ptr<const CheckpointSource>> open(const Checkpoint& checkpoint,
                                                              bool keep = false);

  /// F32 for F16 and integers, so that nothing is lost; BF16 for FP8.
  [[nodiscard]] DType kept_type(const std::string& name) const override;
  Result<void> read(const std::string& name, uint64_t in, uint64_t first, uint64_t count,
                    float* values) const override;
  [[nodiscard]] std::optional<Integers> integers(const std::string& name) const override;
  Result<void> read_panel(const std::string& name, uint64_t panel,
                          const PanelPart& to) const override;

 private:
  CheckpointSource() = default;

  std::map<std::string, WeightView> tensors_;  ///< vectors as matrices of one row
  std::map<std::string, MappedPublished> published_;
  std::shared_ptr<const void> storage_;
};

}  // namespace troupe::model
