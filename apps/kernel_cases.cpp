#include "apps/kernel_cases.hpp"

#include <algorithm>
#include <array>
#include <numeric>

#include "actors/forward.hpp"
#include "actors/step_work.hpp"
#include "apps/machine_rates.hpp"
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

std::vector<float> values(size_t n) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(random_uniform(1, i % 4096)) - 0.5F;
  return out;
}

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
WeightView place(WeightView w, ColdMemory& memory) {
  w.data = memory.next(w.size_bytes());
  if (w.scales != nullptr) {
    w.scales = reinterpret_cast<const float*>(memory.next(w.num_block_scales() * sizeof(float)));
  }
  if (is_integer(w.dtype)) {
    const size_t num_scales = w.out * w.num_groups();
    w.group_scales.data = memory.next(num_scales * size_of(w.group_scales.dtype));
    if (w.group_scales.zeros != nullptr) {
      w.group_scales.zeros = reinterpret_cast<const uint8_t*>(memory.next(num_scales));
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

  void add(const char* op, std::string what, const char* dtype, KernelWork work, Prepare prepare,
           size_t context = 0) {
    out_.push_back({.op = op,
                    .what = std::move(what),
                    .dtype = dtype,
                    .rows = rows_,
                    .context = context,
                    .work = work,
                    .prepare = std::move(prepare)});
  }

  /// Work of an operation on rows: floats read and written, and multiply-adds if it has any.
  static KernelWork row_work(size_t floats, size_t multiply_adds = 0) {
    return {.bytes = floats * sizeof(float), .float_multiply_adds = multiply_adds};
  }

  void add_gemm(const char* what, size_t out, size_t in, std::span<const WeightForm> forms) {
    for (const WeightForm& form : forms) {
      const WeightView w = matrix(form, out, in);
      add("gemm", what + sizes(out, in), form.name, work_of({&w, 1}, rows_),
          [w, rows = rows_](Ops& ops, ColdMemory& memory) {
            return [&ops, &memory, w, rows, x = values(rows * w.in),
                    y = std::vector<float>(rows * w.out)]() mutable {
              ops.gemm({.x = {x.data(), rows, w.in},
                        .w = place(w, memory),
                        .y = {y.data(), rows, w.out}});
            };
          });
    }
  }

  /// The absorbed form's products, one for each head.
  void add_per_head(const char* what, size_t out, size_t in) {
    for (const WeightForm& form : kForms) {
      const std::vector<WeightView> all(s_.num_heads, matrix(form, out, in));
      add("gemm_many", what + (" " + std::to_string(all.size()) + "x" + sizes(out, in).substr(1)),
          form.name, work_of(all, rows_), [all, rows = rows_](Ops& ops, ColdMemory& memory) {
            const size_t heads = all.size(), in_cols = all[0].in, out_cols = all[0].out;
            return [&ops, &memory, all, rows, heads, in_cols, out_cols,
                    x = values(rows * heads * in_cols),
                    y = std::vector<float>(rows * heads * out_cols)]() mutable {
              std::vector<kernels::GemmParams> products;
              for (size_t h = 0; h < heads; ++h) {
                products.push_back(
                    {.x = {x.data() + h * in_cols, rows, in_cols, heads * in_cols},
                     .w = place(all[h], memory),
                     .y = {y.data() + h * out_cols, rows, out_cols, heads * out_cols}});
              }
              ops.gemm_many(products);
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
      add("grouped_ffn",
          what + std::string(" ") + std::to_string(num_experts) + "x" +
              sizes(inner, hidden).substr(1),
          form.name, work_of(all, rows_),
          [up, down, num_experts, rows = rows_](Ops& ops, ColdMemory& memory) {
            return [&ops, &memory, up, down, rows, x = values(rows * up.in),
                    y = std::vector<float>(num_experts * rows * up.in),
                    experts = std::vector<kernels::FfnParams>(num_experts)]() mutable {
              for (size_t e = 0; e < experts.size(); ++e) {
                experts[e] = {.x = {x.data(), rows, up.in},
                              .gate = place(up, memory),
                              .up = place(up, memory),
                              .down = place(down, memory),
                              .y = {y.data() + e * rows * up.in, rows, up.in}};
              }
              ops.grouped_ffn(experts);
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
               ColdMemory& memory) {
      const size_t num_blocks = (context + kBlockTokens - 1) / kBlockTokens;
      blocks.resize(decoding ? num_rows : 1);
      for (auto& table : blocks) {
        table.resize(num_blocks);
        for (const void*& block : table) block = memory.next(kBlockTokens * kv_bytes);
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
      add(
          "mla_absorbed", decoding ? "decode" : "chunk", kv.name, work,
          [=, rows = rows_, context = context_, kv_bytes = kv_bytes(kv)](Ops& ops,
                                                                         ColdMemory& memory) {
            return
                [&ops, &memory, heads, rank, rope, rows, context, decoding, kv, kv_bytes,
                 q = values(rows * heads * (rank + rope)),
                 out = std::vector<float>(rows * heads * rank), contexts = Contexts()]() mutable {
                  contexts.place(decoding, rows, context, kv_bytes, memory);
                  ops.mla_absorbed({.q_latent = {q.data(), rows, heads * rank},
                                    .q_rope = {q.data() + rows * heads * rank, rows, heads * rope},
                                    .rows = contexts.rows,
                                    .kv_dtype = kv.dtype,
                                    .block_tokens = kBlockTokens,
                                    .num_heads = heads,
                                    .kv_rank = rank,
                                    .rope_dim = rope,
                                    .scale = 0.1F,
                                    .out = {out.data(), rows, heads * rank}});
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
    add(
        "mla_expanded", "chunk", kv.name, work,
        [=, rows = rows_, context = context_, kv_bytes = kv_bytes(kv)](Ops& ops,
                                                                       ColdMemory& memory) {
          return [&ops, &memory, heads, rank, rope, nope, v, rows, context, kv, kv_bytes,
                  q = values(rows * heads * (nope + rope)),
                  out = std::vector<float>(rows * heads * v), contexts = Contexts()]() mutable {
            contexts.place(false, rows, context, kv_bytes, memory);
            const WeightView kv_b = place(matrix(kFloat, heads * (nope + v), rank), memory);
            ops.mla_expanded({.q = {q.data(), rows, heads * (nope + rope)},
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
                              .out = {out.data(), rows, heads * v}});
          };
        },
        context_);
  }

  void add_embed() {
    const WeightView table = matrix(kForms[0], s_.vocab_size, s_.hidden_size);
    KernelWork work = row_work(rows_ * s_.hidden_size);
    work.bytes += rows_ * s_.hidden_size * size_of(table.dtype);
    add("embed", "hidden " + std::to_string(s_.hidden_size), kForms[0].name, work,
        [table, rows = rows_](Ops& ops, ColdMemory& memory) {
          std::vector<TokenId> tokens;
          for (size_t r = 0; r < rows; ++r) {
            tokens.push_back(static_cast<TokenId>(random_bits(2, r) % table.out));
          }
          return [&ops, placed = place(table, memory), rows, tokens,
                  out = std::vector<float>(rows * table.in)]() mutable {
            for (TokenId& t : tokens) {  // other rows of the table each time
              t = static_cast<TokenId>((static_cast<size_t>(t) + 4099) % placed.out);
            }
            ops.embed({.table = placed, .tokens = tokens, .out = {out.data(), rows, placed.in}});
          };
        });
  }

  void add_rms_norm() {
    const size_t n = s_.hidden_size;
    add("rms_norm", "hidden " + std::to_string(n), "", row_work(2 * rows_ * n, rows_ * n),
        [n, rows = rows_](Ops& ops, ColdMemory&) {
          return [&ops, n, rows, x = values(rows * n), weight = values(n),
                  out = std::vector<float>(rows * n)]() mutable {
            ops.rms_norm({.x = {x.data(), rows, n},
                          .weight = weight.data(),
                          .eps = 1e-6F,
                          .out = {out.data(), rows, n}});
          };
        });
  }

  void add_rope() {
    const size_t heads = s_.num_heads, dim = s_.qk_rope_head_dim,
                 head_dim = s_.qk_nope_head_dim + s_.qk_rope_head_dim;
    add("rope", "q " + std::to_string(heads) + " heads of " + std::to_string(dim), "",
        row_work(2 * rows_ * heads * dim), [=, rows = rows_](Ops& ops, ColdMemory&) {
          std::vector<uint32_t> positions(rows);
          std::iota(positions.begin(), positions.end(), 1000U);
          return [&ops, heads, dim, head_dim, rows, positions, inv_freq = values(dim / 2),
                  x = values(rows * heads * head_dim)]() mutable {
            ops.rope({.x = {x.data(), rows, heads * head_dim},
                      .num_heads = heads,
                      .head_dim = head_dim,
                      .dim = dim,
                      .positions = positions,
                      .inv_freq = inv_freq});
          };
        });
  }

  void add_topk_gate() {
    const model::ModelConfig s = s_;
    add("topk_gate",
        std::to_string(s.num_experts_per_tok) + " of " + std::to_string(s.num_routed_experts), "",
        row_work(rows_ * (s.num_routed_experts + 2 * s.num_experts_per_tok)),
        [s, rows = rows_](Ops& ops, ColdMemory&) {
          return [&ops, s, rows, logits = values(rows * s.num_routed_experts),
                  bias = values(s.num_routed_experts),
                  idx = std::vector<ExpertIdx>(rows * s.num_experts_per_tok),
                  weight = std::vector<float>(rows * s.num_experts_per_tok)]() mutable {
            const auto method = actors::gate_method(s.topk_method);
            const bool has_bias = method == kernels::GateMethod::kNoauxTc;
            ops.topk_gate({.logits = {logits.data(), rows, s.num_routed_experts},
                           .bias = has_bias ? bias.data() : nullptr,
                           .method = method,
                           .num_groups = s.num_groups,
                           .topk_groups = s.topk_groups,
                           .topk = s.num_experts_per_tok,
                           .normalize = s.norm_topk_prob,
                           .topk_idx = idx.data(),
                           .topk_weight = weight.data()});
          };
        });
  }

  void add_silu_mul() {
    const size_t n = s_.moe_intermediate_size;
    add("silu_mul", "inner " + std::to_string(n), "", row_work(3 * rows_ * n),
        [n, rows = rows_](Ops& ops, ColdMemory&) {
          return [&ops, n, rows, gate = values(rows * n), up = values(rows * n),
                  out = std::vector<float>(rows * n)]() mutable {
            ops.silu_mul({.gate = {gate.data(), rows, n},
                          .up = {up.data(), rows, n},
                          .out = {out.data(), rows, n}});
          };
        });
  }

  void add_combine() {
    const size_t hidden = s_.hidden_size, topk = s_.num_experts_per_tok;
    add("combine", std::to_string(topk) + " of " + std::to_string(hidden), "",
        row_work(rows_ * hidden * (topk + 3), rows_ * hidden * topk),
        [=, rows = rows_](Ops& ops, ColdMemory&) {
          std::vector<uint32_t> slots(rows * topk);
          std::iota(slots.begin(), slots.end(), 0U);
          return [&ops, hidden, topk, rows, slots, weight = values(rows * topk),
                  expert_rows = values(rows * topk * hidden), shared = values(rows * hidden),
                  residual = std::vector<float>(rows * hidden)]() mutable {
            ops.combine({.expert_rows = {expert_rows.data(), rows * topk, hidden},
                         .slot_row = slots.data(),
                         .topk_weight = weight.data(),
                         .topk = topk,
                         .shared = {shared.data(), rows, hidden},
                         .residual = {residual.data(), rows, hidden}});
          };
        });
  }

  void add_add() {
    const size_t n = s_.hidden_size;
    add("add", "hidden " + std::to_string(n), "", row_work(3 * rows_ * n),
        [n, rows = rows_](Ops& ops, ColdMemory&) {
          return [&ops, n, rows, x = std::vector<float>(rows * n), y = values(rows * n)]() mutable {
            ops.add({.x = {x.data(), rows, n}, .y = {y.data(), rows, n}});
          };
        });
  }

  const model::ModelConfig& s_;
  size_t rows_;
  size_t context_;  ///< at least as many positions as rows
  std::vector<KernelCase>& out_;
};

}  // namespace

const std::byte* ColdMemory::next(size_t bytes) {
  constexpr size_t kAlignment = 64;
  const size_t piece = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes_.size() < piece + kAlignment) {
    bytes_.assign(std::max(bytes_beyond_caches(), piece) + kAlignment, std::byte{0x31});
    at_ = 0;
  }
  if (at_ + piece + kAlignment > bytes_.size()) at_ = 0;
  const std::byte* aligned =
      bytes_.data() + (kAlignment - reinterpret_cast<uintptr_t>(bytes_.data()) % kAlignment);
  return aligned + std::exchange(at_, at_ + piece);
}

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
