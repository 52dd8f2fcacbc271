#include "apps/kernel_cases.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "actors/forward.hpp"
#include "actors/step_work.hpp"
#include "base/random.hpp"

namespace troupe::apps {
namespace {

using kernels::Ops;

constexpr size_t kBlockTokens = 16;
/// Sequences that decode together at most: their KV lies in memory at the same time.
constexpr size_t kMaxDecoding = 64;

/// How weights are stored.
struct WeightForm {
  const char* name;
  DType dtype;
  size_t group = 0;    ///< of integers; 0: a scale for each row
  bool zeros = false;  ///< of kI4
};
constexpr WeightForm kFloat{"f32", DType::kF32};
constexpr auto kForms = std::to_array<WeightForm>({{"bf16", DType::kBF16},
                                                   {"f8", DType::kF8E4M3},
                                                   {"i8", DType::kI8},
                                                   {"i8-g128", DType::kI8, 128},
                                                   {"i4-g32", DType::kI4, 32},
                                                   {"i4-g32-asym", DType::kI4, 32, true},
                                                   {"i4-g128", DType::kI4, 128},
                                                   {"i4-g128-asym", DType::kI4, 128, true}});
constexpr WeightForm kKvForms[] = {kFloat, kForms[0]};

/// A matrix without memory: its shape, and which parts it has.
WeightView matrix(const WeightForm& form, size_t out, size_t in) {
  static constexpr float kScale = 0;
  static constexpr uint8_t kZero = 0;
  WeightView w{.dtype = form.dtype, .out = out, .in = in};
  if (form.dtype == DType::kF8E4M3) w.scales = &kScale;
  if (is_integer(form.dtype)) {
    w.group_scales = {.dtype = DType::kBF16,
                      .group = form.group == 0 ? in : form.group,
                      .zeros = form.zeros ? &kZero : nullptr};
  }
  return w;
}

/// The same with elements, scales and zeros from memory.
WeightView place(WeightView w, Operands& operands) {
  w.data = operands.cold(w.size_bytes());
  if (w.scales != nullptr) {
    w.scales = reinterpret_cast<const float*>(operands.cold(w.num_block_scales() * sizeof(float)));
  }
  if (is_integer(w.dtype)) {
    const size_t num_scales = w.out * w.num_groups();
    w.group_scales.data = operands.cold(num_scales * size_of(w.group_scales.dtype));
    if (w.group_scales.zeros != nullptr) {
      w.group_scales.zeros = reinterpret_cast<const uint8_t*>(operands.cold(num_scales));
    }
  }
  return w;
}

/// What products with all of some matrices do.
KernelWork work_of(std::span<const WeightView> matrices, size_t rows) {
  KernelWork work;
  for (const WeightView& w : matrices) {
    work.bytes += actors::held_bytes(w);
    (is_integer(w.dtype) ? work.integer_multiply_adds : work.float_multiply_adds) +=
        uint64_t{rows} * w.out * w.in;
  }
  return work;
}

std::string sizes(size_t out, size_t in) {
  return " " + std::to_string(out) + "x" + std::to_string(in);
}

/// Collects the cases of a shape for one number of rows.
class Cases {
 public:
  Cases(const model::ModelConfig& shape, size_t rows, size_t context, std::vector<KernelCase>& out)
      : s_(shape), rows_(rows), context_(std::max<size_t>(context, rows)), out_(out) {}

  void add_all() {
    add_embed();
    add_rms_norm();
    if (s_.q_lora_rank == 0) {
      add_gemm("q", s_.num_heads * (s_.qk_nope_head_dim + s_.qk_rope_head_dim), s_.hidden_size,
               kForms);
    } else {
      add_gemm("q_a", s_.q_lora_rank, s_.hidden_size, kForms);
      add_gemm("q_b", s_.num_heads * (s_.qk_nope_head_dim + s_.qk_rope_head_dim), s_.q_lora_rank,
               kForms);
    }
    add_gemm("kv_a", s_.kv_lora_rank + s_.qk_rope_head_dim, s_.hidden_size, kForms);
    add_rope();
    for (const WeightForm& kv : kKvForms) add_store_kv(kv);
    add_per_head("q_latent", s_.kv_lora_rank, s_.qk_nope_head_dim);
    for (const WeightForm& kv : kKvForms) add_absorbed(kv);
    add_per_head("o_latent", s_.v_head_dim, s_.kv_lora_rank);
    for (const WeightForm& kv : kKvForms) add_expanded(kv);
    add_gemm("o", s_.hidden_size, s_.num_heads * s_.v_head_dim, kForms);
    add_gemm("gate", s_.num_routed_experts, s_.hidden_size, {&kFloat, 1});
    add_topk_gate();
    add_gemm("expert_up", s_.moe_intermediate_size, s_.hidden_size, kForms);
    add_gemm("expert_down", s_.hidden_size, s_.moe_intermediate_size, kForms);
    add_ffn("experts", s_.num_experts_per_tok, s_.moe_intermediate_size);
    add_ffn("shared", 1, s_.num_shared_experts * s_.moe_intermediate_size);
    add_ffn("dense", 1, s_.intermediate_size);
    add_silu_mul();
    add_combine();
    add_add();
    add_gemm("head", s_.vocab_size, s_.hidden_size, kForms);
  }

 private:
  using Prepare = decltype(KernelCase::prepare);

  void add(const char* op, std::string what, const char* dtype, KernelWork work, size_t cold_bytes,
           Prepare prepare, size_t context = 0) {
    out_.push_back({.op = op,
                    .what = std::move(what),
                    .dtype = dtype,
                    .rows = rows_,
                    .context = context,
                    .work = work,
                    .cold_bytes = cold_bytes,
                    .prepare = std::move(prepare)});
  }
  /// An operation on rows alone.
  void add_rows_op(const char* op, std::string what, const char* dtype, KernelWork work,
                   Prepare prepare) {
    add(op, std::move(what), dtype, work, 0, std::move(prepare));
  }
  /// One whose bytes are those of weights or KV.
  void add_cold(const char* op, std::string what, const char* dtype, KernelWork work,
                Prepare prepare, size_t context = 0) {
    add(op, std::move(what), dtype, work, work.bytes, std::move(prepare), context);
  }

  /// Work of an operation on rows: floats read and written, and multiply-adds if it has any.
  static KernelWork row_work(size_t floats, size_t multiply_adds = 0) {
    return {.bytes = floats * sizeof(float), .float_multiply_adds = multiply_adds};
  }

  void add_gemm(const char* what, size_t out, size_t in, std::span<const WeightForm> forms) {
    for (const WeightForm& form : forms) {
      const WeightView w = matrix(form, out, in);
      add_cold("gemm", what + sizes(out, in), form.name, work_of({&w, 1}, rows_),
               [w, rows = rows_](Operands& operands) {
                 return [&operands, w, rows, x = operands.values(rows * w.in),
                         y = operands.room<float>(rows * w.out)]() mutable {
                   operands.ops().gemm(
                       {.x = {x, rows, w.in}, .w = place(w, operands), .y = {y, rows, w.out}});
                 };
               });
    }
  }

  /// The absorbed form's products, one for each head.
  void add_per_head(const char* what, size_t out, size_t in) {
    for (const WeightForm& form : kForms) {
      const std::vector<WeightView> all(s_.num_heads, matrix(form, out, in));
      add_cold(
          "gemm_many", what + (" " + std::to_string(all.size()) + "x" + sizes(out, in).substr(1)),
          form.name, work_of(all, rows_), [all, rows = rows_](Operands& operands) {
            const size_t heads = all.size(), in_cols = all[0].in, out_cols = all[0].out;
            return [&operands, all, rows, heads, in_cols, out_cols,
                    x = operands.values(rows * heads * in_cols),
                    y = operands.room<float>(rows * heads * out_cols)]() mutable {
              std::vector<kernels::GemmParams> products;
              for (size_t h = 0; h < heads; ++h) {
                products.push_back({.x = {x + h * in_cols, rows, in_cols, heads * in_cols},
                                    .w = place(all[h], operands),
                                    .y = {y + h * out_cols, rows, out_cols, heads * out_cols}});
              }
              operands.ops().gemm_many(products);
            };
          });
    }
  }

  void add_ffn(const char* what, size_t num_experts, size_t inner) {
    for (const WeightForm& form : kForms) {
      const size_t hidden = s_.hidden_size;
      const WeightView up = matrix(form, inner, hidden), down = matrix(form, hidden, inner);
      std::vector<WeightView> all;
      for (size_t e = 0; e < num_experts; ++e) all.insert(all.end(), {up, up, down});
      add_cold("grouped_ffn",
               what + std::string(" ") + std::to_string(num_experts) + "x" +
                   sizes(inner, hidden).substr(1),
               form.name, work_of(all, rows_),
               [up, down, num_experts, rows = rows_](Operands& operands) {
                 return [&operands, up, down, rows, x = operands.values(rows * up.in),
                         y = operands.room<float>(num_experts * rows * up.in),
                         experts = std::vector<kernels::FfnParams>(num_experts)]() mutable {
                   for (size_t e = 0; e < experts.size(); ++e) {
                     experts[e] = {.x = {x, rows, up.in},
                                   .gate = place(up, operands),
                                   .up = place(up, operands),
                                   .down = place(down, operands),
                                   .y = {y + e * rows * up.in, rows, up.in}};
                   }
                   operands.ops().grouped_ffn(experts);
                 };
               });
    }
  }

  /// KV of some sequences, and the rows that see it.
  struct Contexts {
    std::vector<std::vector<const void*>> blocks;
    std::vector<kernels::AttentionRow> rows;

    /// Rows of sequences of their own, or the last rows of one.
    /// @param kv_bytes of a position
    void place(bool decoding, size_t num_rows, size_t context, size_t kv_bytes,
               Operands& operands) {
      const size_t num_blocks = (context + kBlockTokens - 1) / kBlockTokens;
      blocks.resize(decoding ? num_rows : 1);
      for (auto& table : blocks) {
        table.resize(num_blocks);
        for (const void*& block : table) block = operands.cold(kBlockTokens * kv_bytes);
      }
      rows.clear();
      for (size_t r = 0; r < num_rows; ++r) {
        rows.push_back({.blocks = blocks[decoding ? r : 0],
                        .context_len = static_cast<uint32_t>(
                            decoding ? context : context - num_rows + 1 + r)});
      }
    }
  };

  [[nodiscard]] uint64_t row_positions(bool decoding) const {
    return decoding ? rows_ * context_ : rows_ * context_ - rows_ * (rows_ - 1) / 2;
  }
  /// Of one position in a layer.
  [[nodiscard]] uint64_t kv_bytes(const WeightForm& kv) const {
    return s_.kv_dim() * size_of(kv.dtype);
  }

  void add_absorbed(const WeightForm& kv) {
    for (const bool decoding : {true, false}) {
      if (decoding ? rows_ > kMaxDecoding : rows_ == 1) continue;  // one row is both
      const size_t heads = s_.num_heads, rank = s_.kv_lora_rank, rope = s_.qk_rope_head_dim;
      const KernelWork work{
          .bytes = (decoding ? rows_ : 1) * context_ * kv_bytes(kv),
          .float_multiply_adds = heads * (2 * rank + rope) * row_positions(decoding)};
      add_cold(
          "mla_absorbed", decoding ? "decode" : "chunk", kv.name, work,
          [=, rows = rows_, context = context_, kv_bytes = kv_bytes(kv)](Operands& operands) {
            return [&operands, heads, rank, rope, rows, context, decoding, kv, kv_bytes,
                    q = operands.values(rows * heads * (rank + rope)),
                    out = operands.room<float>(rows * heads * rank),
                    contexts = Contexts()]() mutable {
              contexts.place(decoding, rows, context, kv_bytes, operands);
              operands.ops().mla_absorbed({.q_latent = {q, rows, heads * rank},
                                           .q_rope = {q + rows * heads * rank, rows, heads * rope},
                                           .rows = contexts.rows,
                                           .kv_dtype = kv.dtype,
                                           .block_tokens = kBlockTokens,
                                           .num_heads = heads,
                                           .kv_rank = rank,
                                           .rope_dim = rope,
                                           .scale = 0.1F,
                                           .out = {out, rows, heads * rank}});
            };
          },
          context_);
    }
  }

  void add_expanded(const WeightForm& kv) {
    const size_t heads = s_.num_heads, rank = s_.kv_lora_rank, rope = s_.qk_rope_head_dim,
                 nope = s_.qk_nope_head_dim, v = s_.v_head_dim;
    const KernelWork work{
        .bytes = context_ * kv_bytes(kv) + heads * (nope + v) * rank * sizeof(float),
        .float_multiply_adds =
            heads * ((nope + rope + v) * row_positions(false) + (nope + v) * rank * context_)};
    add_cold(
        "mla_expanded", "chunk", kv.name, work,
        [=, rows = rows_, context = context_, kv_bytes = kv_bytes(kv)](Operands& operands) {
          return [&operands, heads, rank, rope, nope, v, rows, context, kv, kv_bytes,
                  q = operands.values(rows * heads * (nope + rope)),
                  out = operands.room<float>(rows * heads * v), contexts = Contexts()]() mutable {
            contexts.place(false, rows, context, kv_bytes, operands);
            const WeightView kv_b = place(matrix(kFloat, heads * (nope + v), rank), operands);
            operands.ops().mla_expanded({.q = {q, rows, heads * (nope + rope)},
                                         .kv_b = static_cast<const float*>(kv_b.data),
                                         .rows = contexts.rows,
                                         .kv_dtype = kv.dtype,
                                         .block_tokens = kBlockTokens,
                                         .num_heads = heads,
                                         .kv_rank = rank,
                                         .nope_dim = nope,
                                         .rope_dim = rope,
                                         .v_dim = v,
                                         .scale = 0.1F,
                                         .out = {out, rows, heads * v}});
          };
        },
        context_);
  }

  void add_embed() {
    const WeightView table = matrix(kForms[0], s_.vocab_size, s_.hidden_size);
    KernelWork work = row_work(rows_ * s_.hidden_size);
    work.bytes += rows_ * s_.hidden_size * size_of(table.dtype);
    add("embed", "hidden " + std::to_string(s_.hidden_size), kForms[0].name, work,
        table.size_bytes(), [table, rows = rows_](Operands& operands) {
          std::vector<TokenId> tokens;
          for (size_t r = 0; r < rows; ++r) {
            tokens.push_back(static_cast<TokenId>(random_bits(2, r) % table.out));
          }
          return [&operands, placed = place(table, operands), rows, tokens,
                  out = operands.room<float>(rows * table.in)]() mutable {
            for (TokenId& t : tokens) {  // other rows of the table each time
              t = static_cast<TokenId>((static_cast<size_t>(t) + 4099) % placed.out);
            }
            operands.ops().embed(
                {.table = placed, .tokens = tokens, .out = {out, rows, placed.in}});
          };
        });
  }

  void add_rms_norm() {
    const size_t n = s_.hidden_size;
    add_rows_op("rms_norm", "hidden " + std::to_string(n), "", row_work(2 * rows_ * n, rows_ * n),
                [n, rows = rows_](Operands& operands) {
                  return [&operands, n, rows, x = operands.values(rows * n),
                          weight = operands.values(n),
                          out = operands.room<float>(rows * n)]() mutable {
                    operands.ops().rms_norm(
                        {.x = {x, rows, n}, .weight = weight, .eps = 1e-6F, .out = {out, rows, n}});
                  };
                });
  }

  void add_rope() {
    const size_t heads = s_.num_heads, dim = s_.qk_rope_head_dim,
                 head_dim = s_.qk_nope_head_dim + s_.qk_rope_head_dim;
    add_rows_op("rope", "q " + std::to_string(heads) + " heads of " + std::to_string(dim), "",
                row_work(2 * rows_ * heads * dim), [=, rows = rows_](Operands& operands) {
                  std::vector<uint32_t> positions(rows);
                  std::iota(positions.begin(), positions.end(), 1000U);
                  return
                      [&operands, heads, dim, head_dim, rows, positions,
                       inv_freq = std::vector<float>(dim / 2, 0.01F),  // the host's, as positions
                       x = operands.values(rows * heads * head_dim)]() mutable {
                        operands.ops().rope({.x = {x, rows, heads * head_dim},
                                             .num_heads = heads,
                                             .head_dim = head_dim,
                                             .dim = dim,
                                             .positions = positions,
                                             .inv_freq = inv_freq});
                      };
                });
  }

  void add_store_kv(const WeightForm& kv) {
    const size_t cols = s_.kv_dim();
    KernelWork work = row_work(rows_ * cols);
    work.bytes += rows_ * kv_bytes(kv);
    add_rows_op(
        "store_kv", "kv " + std::to_string(cols), kv.name, work,
        [cols, kv, rows = rows_, kv_bytes = kv_bytes(kv)](Operands& operands) {
          auto* blocks = operands.room<std::byte>(rows * kv_bytes);
          std::vector<void*> out;
          for (size_t r = 0; r < rows; ++r) out.push_back(blocks + r * kv_bytes);
          return [&operands, cols, kv, rows, out, x = operands.values(rows * cols)] {
            operands.ops().store_kv({.x = {x, rows, cols}, .kv_dtype = kv.dtype, .out = out});
          };
        });
  }

  void add_topk_gate() {
    const model::ModelConfig s = s_;
    add_rows_op(
        "topk_gate",
        std::to_string(s.num_experts_per_tok) + " of " + std::to_string(s.num_routed_experts), "",
        row_work(rows_ * (s.num_routed_experts + 2 * s.num_experts_per_tok)),
        [s, rows = rows_](Operands& operands) {
          return [&operands, s, rows, logits = operands.values(rows * s.num_routed_experts),
                  bias = operands.values(s.num_routed_experts),
                  idx = operands.room<ExpertIdx>(rows * s.num_experts_per_tok),
                  weight = operands.room<float>(rows * s.num_experts_per_tok)]() mutable {
            const auto method = actors::gate_method(s.topk_method);
            const bool has_bias = method == kernels::GateMethod::kNoauxTc;
            operands.ops().topk_gate({.logits = {logits, rows, s.num_routed_experts},
                                      .bias = has_bias ? bias : nullptr,
                                      .method = method,
                                      .num_groups = s.num_groups,
                                      .topk_groups = s.topk_groups,
                                      .topk = s.num_experts_per_tok,
                                      .normalize = s.norm_topk_prob,
                                      .topk_idx = idx,
                                      .topk_weight = weight});
          };
        });
  }

  void add_silu_mul() {
    const size_t n = s_.moe_intermediate_size;
    add_rows_op("silu_mul", "inner " + std::to_string(n), "", row_work(3 * rows_ * n),
                [n, rows = rows_](Operands& operands) {
                  return [&operands, n, rows, gate = operands.values(rows * n),
                          up = operands.values(rows * n),
                          out = operands.room<float>(rows * n)]() mutable {
                    operands.ops().silu_mul(
                        {.gate = {gate, rows, n}, .up = {up, rows, n}, .out = {out, rows, n}});
                  };
                });
  }

  void add_combine() {
    const size_t hidden = s_.hidden_size, topk = s_.num_experts_per_tok;
    add_rows_op("combine", std::to_string(topk) + " of " + std::to_string(hidden), "",
                row_work(rows_ * hidden * (topk + 3), rows_ * hidden * topk),
                [=, rows = rows_](Operands& operands) {
                  const float* expert_rows = operands.values(rows * topk * hidden);
                  std::vector<const float*> slots;
                  for (size_t i = 0; i < rows * topk; ++i)
                    slots.push_back(expert_rows + i * hidden);
                  return
                      [&operands, hidden, topk, rows, slots, weight = operands.values(rows * topk),
                       shared = operands.values(rows * hidden),
                       residual = operands.values(rows * hidden)]() mutable {
                        operands.ops().combine({.expert_rows = slots.data(),
                                                .topk_weight = weight,
                                                .topk = topk,
                                                .shared = {shared, rows, hidden},
                                                .residual = {residual, rows, hidden}});
                      };
                });
  }

  void add_add() {
    const size_t n = s_.hidden_size;
    add_rows_op("add", "hidden " + std::to_string(n), "", row_work(3 * rows_ * n),
                [n, rows = rows_](Operands& operands) {
                  return [&operands, n, rows, x = operands.values(rows * n),
                          y = operands.values(rows * n)]() mutable {
                    operands.ops().add({.x = {x, rows, n}, .y = {y, rows, n}});
                  };
                });
  }

  const model::ModelConfig& s_;
  size_t rows_;
  size_t context_;  ///< at least as many positions as rows
  std::vector<KernelCase>& out_;
};

}  // namespace

std::string KernelCase::name() const {
  return op + " " + what + (dtype.empty() ? "" : " " + dtype) + " " + std::to_string(rows);
}

std::vector<KernelCase> kernel_cases(const model::ModelConfig& shape,
                                     std::span<const uint32_t> rows, uint32_t context) {
  std::vector<KernelCase> cases;
  for (const uint32_t r : rows) Cases(shape, r, context, cases).add_all();
  return cases;
}

}  // namespace troupe::apps
