#pragma once

// The tensors of a checkpoint, mapped, checked against the config and ready for the kernels.
// A router loads RouterWeights; an expert shard loads single experts and maps nothing else.

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/tensor_view.hpp"
#include "model/config.hpp"

namespace troupe::model {

class TensorVisitor;

/// A gated FFN. gate and up [inner, hidden], down [hidden, inner].
struct FfnWeights {
  WeightView gate;
  WeightView up;
  WeightView down;
};

/// MLA of one layer. Dims: D hidden, H heads, dn/dr/dv nope/rope/v, kl/ql LoRA ranks.
/// @tparam Floats std::vector<float>, or const float* (nullptr if empty) where a backend computes
template <class Floats>
struct AttentionWeightsOf {
  Floats input_norm;  ///< [D]
  WeightView q;       ///< [H*(dn+dr), D]; only without q_lora_rank
  WeightView q_a;     ///< [ql, D]
  Floats q_a_bias;    ///< [ql] or empty
  Floats q_a_norm;    ///< [ql]
  WeightView q_b;     ///< [H*(dn+dr), ql]
  WeightView kv_a;    ///< [kl+dr, D]: latent rows, then rope rows
  Floats kv_a_bias;   ///< [kl+dr] or empty
  Floats kv_a_norm;   ///< [kl]
  WeightView uk_t;    ///< [H*kl, dn]: K rows of kv_b, those of each head transposed
  WeightView uv;      ///< [H*dv, kl]: V rows of kv_b
  Floats kv_b;        ///< [H, dn+dv, kl]: K rows, then V rows; if asked for
  WeightView o;       ///< [D, H*dv]
  Floats o_bias;      ///< [D] or empty
  Floats post_norm;   ///< [D], before the FFN
};

/// One decoder layer as the router holds it: everything but the routed experts.
template <class Floats>
struct LayerWeightsOf {
  AttentionWeightsOf<Floats> attention;
  FfnWeights dense;   ///< dense layers only
  Floats gate;        ///< [E, D] float32, MoE layers only
  Floats gate_bias;   ///< [E], noaux_tc only
  FfnWeights shared;  ///< inner = num_shared * moe_intermediate_size; may be empty
};

/// eps of q_a_layernorm and kv_a_layernorm, whatever rms_norm_eps says (models.md section 1.3).
inline constexpr float kLoraNormEps = 1e-6F;

template <class Floats>
struct RouterWeightsOf {
  WeightView embedding;  ///< [V, D]
  Floats final_norm;     ///< [D]
  WeightView head;       ///< [V, D]
  std::vector<LayerWeightsOf<Floats>> layers;
  std::shared_ptr<const void> storage;  ///< keeps the mappings alive
};

using AttentionWeights = AttentionWeightsOf<std::vector<float>>;
using LayerWeights = LayerWeightsOf<std::vector<float>>;
using RouterWeights = RouterWeightsOf<std::vector<float>>;

/// A routed expert with what keeps its memory alive.
struct ExpertWeights {
  FfnWeights ffn;
  std::shared_ptr<const void> storage;
};

/// Reads a byte of every page of a matrix and its scales, so that nobody who computes waits for a
/// disk. An empty one has none.
void read_ahead(const WeightView& weights);

/// An opened checkpoint directory: config and the index of all tensors. Opening reads headers and,
/// for the digest, samples. Cheap to copy (shared and immutable); all methods may run concurrently.
///
/// Every tensor has to be accounted for. Left out and counted: layers beyond the last (multi-token
/// prediction), rotary_emb.inv_freq buffers, a head of its own beside a tied one, tensors of a
/// shard that the index does not list. Any other unknown tensor is an error: a model computed
/// without some of its weights would answer, wrongly.
///
/// Files stay open, so replacing them by rename is safe. Truncating one in place is noticed at the
/// next load, but touching pages already mapped then raises SIGBUS.
class Checkpoint {
 public:
  /// Checks names, shapes and types of all tensors against the config.
  /// @errors kNotFound, kInvalidArgument, kCorrupt, kUnsupported; messages name file and tensor.
  static Result<Checkpoint> open(const std::string& directory);

  [[nodiscard]] const ModelConfig& config() const;
  [[nodiscard]] const std::string& directory() const;

  /// Maps all but the routed experts; norms, biases and gates are copied as float32, and kv_b_proj
  /// unless it is stored in halves: as it is from 16 bits, from others as float32.
  /// @param with_kv_b the expanded form of attention is wanted too: AttentionWeights::kv_b
  /// @param num_threads that bring integers as others publish them into panels
  /// @errors kCorrupt if a file has changed; kResourceExhausted if it cannot be mapped;
  ///         kUnsupported if kv_b is wanted and stored in halves.
  [[nodiscard]] Result<std::shared_ptr<const RouterWeights>> load_router(
      bool with_kv_b = false, size_t num_threads = 1) const;

  /// Maps the pages of one routed expert and no others (per-expert or fused tensors).
  /// @errors as load_router(); kInvalidArgument if there is no such expert.
  [[nodiscard]] Result<ExpertWeights> load_expert(LayerIdx layer, ExpertIdx expert,
                                                  size_t num_threads = 1) const;

  /// Of weights as they are computed with.
  struct Bytes {
    /// That loading takes of memory: what is copied, decoded or brought into panels. Mapped pages
    /// do not count, the kernel can drop them and read them again.
    uint64_t own = 0;
    uint64_t all = 0;  ///< that a device needs for them, where nothing is mapped
    // Of all, in a router:
    uint64_t by_outputs = 0;  ///< q or q_b, uk_t, uv, kv_b, o: their outputs can be apart
    uint64_t head = 0;
  };
  /// @errors as load_router()
  [[nodiscard]] Result<Bytes> bytes_of_router(bool with_kv_b = false) const;
  [[nodiscard]] Result<Bytes> bytes_of_expert(LayerIdx layer, ExpertIdx expert) const;

  /// A digest over config.json, tensor headers and samples of the data (16 of 4 KiB per file):
  /// nodes that disagree on it must not share work.
  [[nodiscard]] uint64_t digest() const;

  struct Summary {
    uint64_t total_parameters = 0;
    uint64_t active_parameters = 0;  ///< per token, head included, embedding excluded
    /// Scales count as what they are, zeros as kI4.
    std::vector<std::pair<DType, uint64_t>> bytes_by_dtype;
    uint64_t num_tensors = 0;
    uint64_t ignored_tensors = 0;  ///< left out, see Checkpoint
  };
  [[nodiscard]] Summary summary() const;

 private:
  struct State;
  Result<void> visit(LayerIdx layer, ExpertIdx expert, TensorVisitor& visitor,
                     FfnWeights& ffn) const;
  explicit Checkpoint(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace troupe::model
