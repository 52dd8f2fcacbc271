#pragma once

// Which tensors a DeepSeek checkpoint consists of: names, shapes and the place of each in the
// weights (models.md section 1.2). Said once; checking and loading are two visitors of it.

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "model/config.hpp"
#include "model/weights.hpp"

namespace troupe::model {

/// Receives every tensor of the layout it walks. Returning an Error ends the walk.
class TensorVisitor {
 public:
  TensorVisitor() = default;
  TensorVisitor(const TensorVisitor&) = delete;
  TensorVisitor& operator=(const TensorVisitor&) = delete;
  virtual ~TensorVisitor() = default;

  /// A weight matrix [out, in] in its stored type; integers lie in tensors named `name` + "_i8"...
  virtual Result<void> matrix(const std::string& name, uint64_t out, uint64_t in,
                              WeightView& view) = 0;

  /// A matrix whose rows are looked up, in its stored type; never integers.
  virtual Result<void> table(const std::string& name, uint64_t out, uint64_t in,
                             WeightView& view) = 0;

  /// kv_b_proj of one layer, stored as one matrix (`name`.weight) or as its two halves, made ready
  /// for the absorbed form (`name`.key_t.weight and `name`.value.weight, as AttentionWeights says).
  struct KeyValueShape {
    uint64_t heads, nope, v, latent;
  };
  virtual Result<void> key_value(const std::string& name, const KeyValueShape& shape,
                                 AttentionWeights& weights) = 0;

  /// Rows [first, first + out) of matrix `index` of a stack [count, rows, in].
  struct Slice {
    uint64_t count, rows, in;
    uint64_t index, first, out;
  };
  virtual Result<void> stacked_matrix(const std::string& name, const Slice& slice,
                                      WeightView& view) = 0;

  /// A tensor of any floating-point type, wanted as float32.
  virtual Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                              std::vector<float>& values) = 0;
};

/// Every tensor but the routed experts; sizes weights.layers.
Result<void> visit_router(const ModelConfig& config, TensorVisitor& visitor,
                          RouterWeights& weights);

/// How a layer stores its routed experts.
enum class ExpertLayout : uint8_t { kPerExpert, kFused };

/// The first tensor of a layer with fused experts: its presence tells the ExpertLayout.
std::string fused_experts_name(LayerIdx layer);

/// REQUIRES: config.is_moe_layer(layer), expert < config.num_routed_experts.
Result<void> visit_expert(const ModelConfig& config, ExpertLayout layout, LayerIdx layer,
                          ExpertIdx expert, TensorVisitor& visitor, FfnWeights& ffn);

}  // namespace troupe::model
