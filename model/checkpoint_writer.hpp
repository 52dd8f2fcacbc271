#pragma once

// Writes a checkpoint directory tensor by tensor from a source of float32 rows, in the schemes
// asked for: `troupe quantize` reads the rows from another checkpoint, `troupe make-model` draws
// them. Which tensors there are, the layout says (layout.hpp).

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/config.hpp"
#include "model/published_integers.hpp"
#include "model/quantise.hpp"

namespace troupe::model {

/// In a directory that is not complete: what the run that writes it was asked for.
inline constexpr std::string_view kUnfinishedFile = "troupe-unfinished.json";

/// Where the numbers come from. Names are those of the layout with an expert's own matrices, and
/// kv_b_proj is whole: "model.layers.1.self_attn.kv_b_proj.weight".
class TensorSource {
 public:
  TensorSource() = default;
  TensorSource(const TensorSource&) = delete;
  TensorSource& operator=(const TensorSource&) = delete;
  virtual ~TensorSource() = default;

  /// The type in which a tensor that is not quantised is stored: kF32 or kBF16.
  [[nodiscard]] virtual DType kept_type(const std::string& name) const = 0;

  /// Rows [first, first + count) of a matrix with rows of `in`; a vector is a matrix of one row.
  /// May be called by several threads at once. @errors are passed on, with the tensor's name.
  virtual Result<void> read(const std::string& name, uint64_t in, uint64_t first, uint64_t count,
                            float* values) const = 0;

  /// For SavePlan::keep: how a matrix is stored if the source has it as integers. Its scales are
  /// read as float32 and stored as scale_dtype, BF16 or F32, which loses nothing.
  struct Integers {
    Scheme scheme;
    DType scale_dtype = DType::kF32;
    std::span<const uint32_t> columns = {};  ///< WeightView::columns; or empty
  };
  [[nodiscard]] virtual std::optional<Integers> integers(const std::string&) const { return {}; }

  /// Panel number `panel` of such a matrix. Threads as read(). @errors as read()
  virtual Result<void> read_panel(const std::string& name, uint64_t panel,
                                  const PanelPart& to) const;
};

struct SavePlan {
  std::string directory;    ///< made if it is missing
  std::string config_json;  ///< written last: without it nothing can be loaded
  Scheme experts, rest;     ///< of the routed experts and of the other matrices
  /// Instead of these schemes: integers as the source has them, everything else in its kept_type().
  bool keep = false;
  /// What the content depends on besides, for people, too: "troupe 0.1.0 make-model, seed 7". An
  /// interrupted run goes on only if it is the same; it stands in the files' metadata.
  std::string identity;
  std::vector<std::string> copied_files;  ///< paths, copied under their own names
  uint64_t shard_bytes = uint64_t{4} << 30;
  size_t num_threads = 1;
  bool verify = true;  ///< read each file again and compare
  /// Called often, by one thread at a time.
  std::function<void(uint64_t bytes_done, uint64_t bytes_total)> progress;
};

struct SaveSummary {
  uint64_t bytes = 0;  ///< of all tensors
  uint64_t num_files = 0;
  uint64_t files_kept = 0;     ///< complete from an interrupted run
  uint64_t matrices_kept = 0;  ///< that fit no panels and stay floating-point
};

/// Writes model-0000x-of-0000n.safetensors with their index (or model.safetensors alone), each
/// under a temporary name until it is complete, then config.json. Panels start at multiples of 64
/// bytes. Memory: about 10 MiB per thread (FP8: 1.5 KiB for each column of the widest matrix, if
/// that is more). Cost: that of quantise_panel() or quantise_f8() and of the disk.
///
/// If it is interrupted, the same call goes on after the last complete file of its own; the name of
/// the run in each file tells (kRunKey).
/// @errors kInvalidArgument for a directory with other content or no matrix that fits panels;
///         kUnavailable while another run writes there; kResourceExhausted without room on the disk
///         or in memory; kCorrupt naming the tensor for numbers that are not finite, or a file that
///         reads back otherwise; those of the source.
Result<SaveSummary> save_checkpoint(const ModelConfig& config, const TensorSource& source,
                                    const SavePlan& plan);

}  // namespace troupe::model
