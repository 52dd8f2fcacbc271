#pragma once

// What `troupe bench kernels` measures: the operations of kernels/ops.hpp, kernels/memory.hpp and
// kernels/collective.hpp that a forward pass runs, and on a device how tokens are chosen, at the
// shapes of a model, with weights and KV that come from memory as in decoding.

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "apps/operands.hpp"
#include "model/config.hpp"

namespace troupe::apps {

/// What one call does, by count.
struct KernelWork {
  uint64_t bytes = 0;  ///< read and written at least, see docs/benchmarking.md
  uint64_t float_multiply_adds = 0;
  uint64_t integer_multiply_adds = 0;
};

struct KernelCase {
  std::string op;     ///< as in kernels/ops.hpp, memory.hpp or collective.hpp: "gemm"; "sample"
  std::string what;   ///< of the model: "q_a 1536x7168"
  std::string dtype;  ///< of the weights: "bf16", "f8", "i8", "i4-g32-asym"...; "" without
  /// Of activations; of each expert for "experts", of the layer for "routed"; or KV blocks.
  size_t rows = 0;
  size_t context = 0;  ///< positions that attention sees; else 0
  KernelWork work;
  size_t cold_bytes = 0;  ///< of Operands::cold() that it needs at least
  /// Calls of all ranks belong together, each from a thread of its own; else the first calls alone.
  bool on_all_ranks = false;
  /// Makes inputs and outputs; what it returns is one call. Valid while the operands are.
  std::function<std::function<void()>(Operands& operands)> prepare;

  [[nodiscard]] std::string name() const;  ///< "gemm q_a 1536x7168 bf16 16"
};

struct KernelCaseOptions {
  std::span<const uint32_t> rows;
  uint32_t context = 0;
  bool routed = false;     ///< FFNs of a layer's experts that rows choose by themselves
  bool on_device = false;  ///< copies to and from the host; choosing tokens
  size_t num_ranks = 0;    ///< that share attention and gather, which divide it; 0: nobody gathers
};

/// Every case, the operations in the order of a forward pass.
std::vector<KernelCase> kernel_cases(const model::ModelConfig& shape,
                                     const KernelCaseOptions& options);

}  // namespace troupe::apps
