#pragma once

// Which tensors a checkpoint to be written has, and where in which file each lies: pure, no file is
// touched here.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/checkpoint_writer.hpp"
#include "model/layout.hpp"

namespace troupe::model {

/// One tensor of a file to be written.
struct OutputTensor {
  std::string name;
  std::string_view dtype;  ///< as safetensors names it
  std::vector<uint64_t> shape;
  uint64_t bytes = 0;
  uint64_t begin = 0;  ///< counted from the start of its file
};

/// One matrix (or vector, of one row) and how it is stored.
struct OutputMatrix {
  uint64_t out = 0;
  uint64_t in = 0;
  Scheme scheme;  ///< dtype may be kF32, too
  OutputTensor data;
  OutputTensor scales;   ///< of integers and FP8
  OutputTensor zeros;    ///< scheme.zeros only
  OutputTensor columns;  ///< of integers whose columns are in another order
};

/// What one tensor of the source becomes.
struct OutputUnit {
  std::string source;  ///< its name
  uint64_t out = 0;
  uint64_t in = 0;
  std::vector<OutputMatrix> matrices;  ///< one; or kv_b_proj's halves, keys first
  bool kept = false;                   ///< the source has its panels
  std::optional<TensorVisitor::KeyValueShape> key_value;  ///< if they are halves
};

struct OutputFile {
  std::string name;
  std::vector<OutputUnit> units;
  std::string header;  ///< length prefix and JSON, a multiple of 64 bytes; names the run
  uint64_t size = 0;   ///< header included
};

struct OutputFiles {
  std::vector<OutputFile> files;
  std::string index_json;  ///< empty for one file
  uint64_t bytes = 0;      ///< of the tensors
  uint64_t quantised = 0;  ///< matrices in panels
  uint64_t kept = 0;       ///< matrices that were to be in panels and do not fit
};

/// Walks the layout. @errors kInvalidArgument if panels were asked for and nothing fits them.
Result<OutputFiles> plan_output(const ModelConfig& config, const TensorSource& source,
                                const SavePlan& plan);

}  // namespace troupe::model
