#pragma once

// Every operation of the forward pass, one signature each, for all backends.
//
// Arithmetic class `cpu-f32`. The scalar version in kernels/cpu/ is the specification; the SIMD
// versions give the same bits, on every CPU, for every batch size and thread count. The rules:
//
// 1. A dot product of length K keeps 16 partial sums: element k is added by one fused multiply-add
//    to partial sum k mod 16, in ascending k. They are then added in a tree: lane i + lane (i + 8),
//    then (i + 4), (i + 2), (i + 1). The weight is first converted to float32 (exactly, but for FP8
//    with scales: one rounding of value * scale). A bias is added last.
// 2. Sums over positions (softmax) use the same 16 partial sums by position mod 16 and the same
// tree.
//    Weighted sums over positions (attention output) add position after position by one fused
//    multiply-add per element, in ascending position.
// 3. exp is one polynomial, written with fused multiply-adds, identical in every version.
// 4. A row's result never depends on the other rows of the call.
// 5. Products with integer weights round the activations of each row to 8 bits first, 32 at a time:
//    scale = max|x| / 127, q = x * (127 / max|x|) rounded to the nearest (ties to even), 0 if all
//    are 0; not finite: q = 0 and scale = NaN. Sums of products q * (w - zero) over 32 elements are
//    exact integers s. Of each group of weights t = fma(float(s), scale, t), 32 after 32 elements
//    in ascending order from t = 0; the result is fma(t, scale of the group, y), group after group
//    from y = 0. Weights with an order of columns have their activations in it from the start.
//    Source: dynamic block-wise quantisation as in Dettmers et al. 2022.
// 6. KV that is kept in BF16 is rounded once, when it is stored (base/bfloat16.hpp). Attention
//    reads it as float32, exactly, and goes on by the rules above.
//
// GPUs have rules of their own in the same spirit: kernels/cuda/cuda_ops.hpp.
//
// So results do not depend on batch, chunk, threads or placement. No operation allocates per row,
// throws or fails: shapes are our own contract and are CHECKed.

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.hpp"
#include "base/tensor_view.hpp"

namespace troupe::kernels {

class ThreadPool;

/// y[r, o] = sum_i x[r, i] * w[o, i] (+ bias[o]).
struct GemmParams {
  ConstRows x;                  ///< [rows, in]
  WeightView w;                 ///< [out, in]
  const float* bias = nullptr;  ///< [out] or nullptr
  Rows y;                       ///< [rows, out]; must not overlap x
};

/// out[r, :] = float32 of table[tokens[r], :].
struct EmbedParams {
  WeightView table;                 ///< [vocab, hidden], floating-point
  std::span<const TokenId> tokens;  ///< [rows], each in [0, vocab)
  Rows out;                         ///< [rows, hidden]
};

/// out[r, i] = weight[i] * (x[r, i] * (1 / sqrt(mean_i(x[r, i]^2) + eps))); may be in place.
/// The mean's sum follows rule 1.
struct RmsNormParams {
  ConstRows x;                    ///< [rows, n]
  const float* weight = nullptr;  ///< [n]
  float eps = 0;
  Rows out;  ///< [rows, n]
};

/// Rotates interleaved pairs (0,1), (2,3)... of each head's last `dim` elements, in place, the
/// pairs staying where they are. angle = float(position) * inv_freq[pair] in float32; cos and sin
/// of it are taken in double, rounded to float32 and multiplied by `magnitude`.
struct RopeParams {
  Rows x;  ///< [rows, num_heads * head_dim]
  size_t num_heads = 0;
  size_t head_dim = 0;
  size_t dim = 0;                       ///< even, <= head_dim
  std::span<const uint32_t> positions;  ///< [rows]
  std::span<const float> inv_freq;      ///< [dim / 2]
  float magnitude = 1.0F;
};

/// out[r, i] = silu(gate[r, i]) * up[r, i], silu(g) = g / (1 + exp(-g)); may be in place.
struct SiluMulParams {
  ConstRows gate;
  ConstRows up;
  Rows out;
};

/// x[r, i] += y[r, i].
struct AddParams {
  Rows x;
  ConstRows y;
};

/// How the gate chooses experts. Source: DeepSeek-V2 and V3 reports.
enum class GateMethod : uint8_t {
  kGreedy,              ///< V2-Lite: softmax over all experts, top-k
  kGroupLimitedGreedy,  ///< V2: groups ranked by their best softmax score, others set to 0
  kNoauxTc,             ///< V3: sigmoid + bias; groups ranked by the sum of their best two
};

inline constexpr size_t kMaxTopk = 64;

/// Chooses top-k experts per row from the logits. Slots are ordered by falling choice score, ties
/// to the lower expert number; groups likewise. Weights never contain the bias.
struct TopkGateParams {
  ConstRows logits;             ///< [rows, num_experts]
  const float* bias = nullptr;  ///< [num_experts], kNoauxTc only
  GateMethod method = GateMethod::kGreedy;
  size_t num_groups = 1;  ///< divides num_experts
  size_t topk_groups = 1;
  size_t topk = 1;                ///< <= kMaxTopk
  bool normalize = false;         ///< divide weights by (their sum in slot order + 1e-20)
  float scale = 1.0F;             ///< multiplies the weights last
  ExpertIdx* topk_idx = nullptr;  ///< out [rows, topk]
  float* topk_weight = nullptr;   ///< out [rows, topk]
};

/// The gated FFN of one expert (routed, shared or dense) over some rows:
/// y = down(silu(gate(x)) * up(x)).
struct FfnParams {
  ConstRows x;  ///< [any, hidden]
  /// [rows], each below x.rows: the row of x that a row of y is of; nullptr: the same one.
  const uint32_t* x_rows = nullptr;
  WeightView gate;  ///< [inner, hidden]
  WeightView up;    ///< [inner, hidden]
  WeightView down;  ///< [hidden, inner]
  Rows y;           ///< [rows, hidden]
};

/// residual[r] += (sum over slots s, ascending, of weight[r, s] * expert_rows[r, s]) + shared[r].
/// The sum starts with +0 and adds by fused multiply-add; then shared is added; then the residual.
struct CombineParams {
  const float* const* expert_rows = nullptr;  ///< [rows, topk], each [hidden]
  const float* topk_weight = nullptr;         ///< [rows, topk]
  size_t topk = 0;
  ConstRows shared;  ///< [rows, hidden], or data == nullptr for none
  Rows residual;     ///< [rows, hidden]
};

/// Writes rows as KV blocks hold them, by rule 6.
struct StoreKvParams {
  ConstRows x;                   ///< [rows, cols]
  DType kv_dtype = DType::kF32;  ///< or kBF16
  std::span<void* const> out;    ///< [rows], where the cols elements of each go
};

/// One row of attention: which KV it sees. Blocks are read in place.
struct AttentionRow {
  /// Block b of this layer: [block_tokens, kv_rank + rope_dim] of kv_dtype, token t of the context
  /// in block t / block_tokens. Neighbouring rows of one request give the same span (same data()):
  /// they go through the blocks together, and the expanded form makes keys and values once.
  std::span<const void* const> blocks;
  uint32_t context_len = 0;  ///< positions 0 .. context_len-1 are visible, >= 1
};

/// MLA in absorbed form: multi-query attention over the latent.
/// score[h, t] = (dot(q_latent[h], c[t]) + dot(q_rope[h], k_rope[t])) * scale, two dots by rule 1;
/// p = softmax by rule 2 (subtract the maximum, exp, divide by the sum after weighting);
/// out[h] = (sum_t p[t] * c[t]) / sum.
struct MlaAbsorbedParams {
  ConstRows q_latent;                  ///< [rows, num_heads * kv_rank]
  ConstRows q_rope;                    ///< [rows, num_heads * rope_dim], rotated
  std::span<const AttentionRow> rows;  ///< [rows]
  DType kv_dtype = DType::kF32;        ///< of the blocks, or kBF16
  size_t block_tokens = 0;
  size_t num_heads = 0;
  size_t kv_rank = 0;
  size_t rope_dim = 0;
  float scale = 0;
  Rows out;  ///< [rows, num_heads * kv_rank]
};

/// MLA in expanded form: K and V of every visible position are made from the latent first.
/// k_nope[h, t] = kv_b_k[h] * c[t], v[h, t] = kv_b_v[h] * c[t] by rule 1; scores as above with
/// (dot(q_nope, k_nope) + dot(q_rope, k_rope)) * scale; out[h] = (sum_t p[t] * v[h, t]) / sum.
/// Rounds differently from the absorbed form, so one model run keeps to one form.
struct MlaExpandedParams {
  ConstRows q;                         ///< [rows, num_heads * (nope_dim + rope_dim)], rope last
  const float* kv_b = nullptr;         ///< [num_heads, nope_dim + v_dim, kv_rank]
  std::span<const AttentionRow> rows;  ///< [rows]
  DType kv_dtype = DType::kF32;        ///< of the blocks, or kBF16
  size_t block_tokens = 0;
  size_t num_heads = 0;
  size_t kv_rank = 0;
  size_t nope_dim = 0;
  size_t rope_dim = 0;
  size_t v_dim = 0;
  float scale = 0;
  Rows out;  ///< [rows, num_heads * v_dim]
};

/// The largest model that a backend computes: by default every one that a checkpoint may have.
struct Limits {
  static constexpr size_t kNone = ~size_t{0};
  size_t kv_rank = kNone;
  size_t rope_dim = kNone;
  size_t num_experts = kNone;
};

/// One backend's operations. All are thread-safe for disjoint outputs; those that are large enough
/// spread over the pool given at construction.
class Ops {
 public:
  virtual ~Ops() = default;

  /// "cpu-f32": runs that share it give the same bits.
  virtual const char* arithmetic_class() const = 0;
  /// What was chosen at run time: "scalar", "avx2", "avx3"...
  virtual const char* target() const = 0;
  /// CHECKed by the operations.
  [[nodiscard]] virtual Limits limits() const { return {}; }

  virtual void embed(const EmbedParams& p) = 0;
  virtual void gemm(const GemmParams& p) = 0;
  /// Independent products, spread over the pool together.
  virtual void gemm_many(std::span<const GemmParams> products) = 0;
  virtual void rms_norm(const RmsNormParams& p) = 0;
  virtual void rope(const RopeParams& p) = 0;
  virtual void silu_mul(const SiluMulParams& p) = 0;
  virtual void add(const AddParams& p) = 0;
  virtual void topk_gate(const TopkGateParams& p) = 0;
  virtual void store_kv(const StoreKvParams& p) = 0;
  virtual void mla_absorbed(const MlaAbsorbedParams& p) = 0;
  virtual void mla_expanded(const MlaExpandedParams& p) = 0;
  /// Independent FFNs (one per expert), spread over the pool together.
  virtual void grouped_ffn(std::span<const FfnParams> experts) = 0;
  virtual void combine(const CombineParams& p) = 0;
};

}  // namespace troupe::kernels
