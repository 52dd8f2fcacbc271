#pragma once

// The operations that `troupe bench kernels` measures: those of kernels/ops.hpp that a forward pass
// runs, at the shapes of a model, with weights and KV that come from memory as in decoding.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/ops.hpp"
#include "model/config.hpp"

namespace troupe::apps {

/// What one call does, by count.
struct KernelWork {
  uint64_t bytes = 0;  ///< read and written at least, see docs/benchmarking.md
  uint64_t float_multiply_adds = 0;
  uint64_t integer_multiply_adds = 0;
};

/// Memory beyond the caches, of which each call takes the next piece as its weights or KV. Every
/// byte is 0x31: a small number in every type.
class ColdMemory {
 public:
  /// Another piece of that size, 64 bytes aligned, as long unread as possible.
  const std::byte* next(size_t bytes);

 private:
  std::vector<std::byte> bytes_;
  size_t at_ = 0;
};

struct KernelCase {
  std::string op;      ///< as in kernels/ops.hpp: "gemm"
  std::string what;    ///< of the model: "q_a 1536x7168"
  std::string dtype;   ///< of the weights: "bf16", "f8", "i8", "i4-g32-asym"...; "" without
  size_t rows = 0;     ///< rows of activations; of each expert for the routed ones
  size_t context = 0;  ///< positions that attention sees; else 0
  KernelWork work;
  /// Makes inputs and outputs; what it returns is one call. `ops` and `memory` outlive that.
  std::function<std::function<void()>(kernels::Ops& ops, ColdMemory& memory)> prepare;

  [[nodiscard]] std::string name() const;  ///< "gemm q_a 1536x7168 bf16 16"
};

/// Every case, the operations in the order of a forward pass.
std::vector<KernelCase> kernel_cases(const model::ModelConfig& shape,
                                     std::span<const uint32_t> rows, uint32_t context);

}  // namespace troupe::apps
