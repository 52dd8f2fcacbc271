#pragma once

// What a checkpoint's config.json says, checked: a value that Troupe cannot honour is an error that
// names its key, never a default.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/tensor_view.hpp"

namespace troupe::model {

enum class Architecture : uint8_t { kDeepseekV2, kDeepseekV3 };

/// The gate's way of choosing experts, as the checkpoint names it (topk_method).
enum class TopkMethod : uint8_t { kGreedy, kGroupLimitedGreedy, kNoauxTc };

/// Rotary embedding, plain or YaRN (reference: models.md section 1.5; Peng et al. 2023).
struct RopeConfig {
  double theta = 10000;
  bool yarn = false;
  double factor = 1;
  uint32_t original_max_positions = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 0;
  double mscale_all_dim = 0;
  std::optional<double> attention_factor;
};

/// YaRN's ramp over the pairs of the rotary dimension: pairs up to `low` keep their frequency,
/// pairs from `high` on are slowed by the factor, those between are blended.
struct RopeRamp {
  double low = 0;
  double high = 0;
};

/// What Troupe's own quantization_config says: names of schemes, as docs/quantisation.md lists
/// them. They are for people; the tensors' own types and shapes tell how each is stored.
struct QuantisedSchemes {
  std::string experts;  ///< of the routed experts
  std::string rest;     ///< of the other matrices
};

/// Formats of integer weights that others publish (published_integers.hpp).
enum class PublishedFormat : uint8_t {
  kCompressedInt8,    ///< compressed-tensors, int-quantized
  kCompressedPacked,  ///< compressed-tensors, pack-quantized
  kGptq,
  kGptqV2,
  kAwq,
};

/// "compressed-tensors int-quantized"...
std::string_view to_string(PublishedFormat format);

struct PublishedIntegers {
  PublishedFormat format = PublishedFormat::kCompressedInt8;
  DType dtype = DType::kI8;  ///< or kI4
  uint32_t group = 0;        ///< elements of a row that share a scale; 0: the whole row
  bool zeros = false;        ///< stored beside the scales
  bool reordered = false;    ///< columns of a group are no neighbours: a g_idx tells their groups
};

struct ModelConfig {
  Architecture architecture = Architecture::kDeepseekV3;
  uint32_t vocab_size = 0;
  uint32_t hidden_size = 0;
  uint32_t num_layers = 0;
  uint32_t num_heads = 0;
  uint32_t q_lora_rank = 0;  ///< 0: queries by one projection (q_proj)
  uint32_t kv_lora_rank = 0;
  uint32_t qk_nope_head_dim = 0;
  uint32_t qk_rope_head_dim = 0;
  uint32_t v_head_dim = 0;
  uint32_t intermediate_size = 0;      ///< of dense layers
  uint32_t moe_intermediate_size = 0;  ///< of one routed expert
  uint32_t num_routed_experts = 0;
  uint32_t num_shared_experts = 0;  ///< fused into one FFN of num_shared * moe_intermediate_size
  uint32_t num_experts_per_tok = 0;
  uint32_t num_groups = 1;
  uint32_t topk_groups = 1;
  TopkMethod topk_method = TopkMethod::kNoauxTc;
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1;
  uint32_t first_k_dense_replace = 0;
  uint32_t moe_layer_freq = 1;
  float rms_norm_eps = 1e-6F;
  RopeConfig rope;
  bool attention_bias = false;
  bool tie_word_embeddings = false;
  bool fp8 = false;  ///< there may be F8_E4M3 weights with 128x128 weight_scale_inv
  std::optional<PublishedIntegers> published;
  std::optional<QuantisedSchemes> quantised;  ///< by Troupe (docs/quantisation.md)
  uint32_t max_position_embeddings = 0;
  std::optional<TokenId> bos_token_id;
  std::vector<TokenId> eos_token_ids;

  [[nodiscard]] bool has_moe_layer() const {
    for (LayerIdx layer = 0; layer < num_layers; ++layer) {
      if (is_moe_layer(layer)) return true;
    }
    return false;
  }
  [[nodiscard]] bool is_moe_layer(LayerIdx layer) const {
    return num_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
  [[nodiscard]] uint32_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  /// Floats kept per token and layer: the normed latent, then the rotated shared key.
  [[nodiscard]] uint32_t kv_dim() const { return kv_lora_rank + qk_rope_head_dim; }
  /// (nope + rope)^-0.5, times mscale squared under YaRN.
  [[nodiscard]] float softmax_scale() const;
  /// [qk_rope_head_dim / 2] frequencies, YaRN's ramp applied.
  [[nodiscard]] std::vector<float> inv_freq() const;
  /// REQUIRES: rope.yarn.
  [[nodiscard]] RopeRamp rope_ramp() const;
  /// Factor on cos and sin: 1 for every released DeepSeek model.
  [[nodiscard]] float rope_magnitude() const;
};

/// Reads config.json (both spellings: Hub files and those saved by transformers 5).
/// @errors kInvalidArgument naming the key; kUnsupported for another architecture or feature.
Result<ModelConfig> parse_config(std::string_view json);

}  // namespace troupe::model
