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
constexpr size_t kMaxDecoding = 128;

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
  Cases(const model::ModelConfig& shape, size_t rows, const KernelCaseOptions& options,
        std::vector<KernelCase>& out)
      : s_(shape),
        rows_(rows),
        context_(std::max<size_t>(options.context, rows)),
        options_(options),
        out_(out) {}

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
    add_copy_rows();
    for (const WeightForm& kv : kKvForms) add_absorbed(kv);
    add_per_head("o_latent", s_.v_head_dim, s_.kv_lora_rank);
    for (const WeightForm& kv : kKvForms) add_expanded(kv);
    add_all_gather("heads", s_.num_heads * s_.v_head_dim);
    add_gemm("o", s_.hidden_size, s_.num_heads * s_.v_head_dim, kForms);
    add_all_gather("outputs", s_.hidden_size);
    add_gemm("gate", s_.num_routed_experts, s_.hidden_size, {&kFloat, 1});
    add_topk_gate();
    if (options_.on_device) add_exchange();
    add_gemm("expert_up", s_.moe_intermediate_size, s_.hidden_size, kForms);
    add_gemm("expert_down", s_.hidden_size, s_.moe_intermediate_size, kForms);
    add_ffn("experts", s_.num_experts_per_tok, s_.moe_intermediate_size);
    if (options_.routed) add_routed();
    add_ffn("shared", 1, s_.num_shared_experts * s_.moe_intermediate_size);
    add_ffn("dense", 1, s_.intermediate_size);
    add_silu_mul();
    add_combine();
    add_add();
    add_move_rows();
    add_gemm("head", s_.vocab_size, s_.hidden_size, kForms);
    if (options_.on_device && rows_ <= kMaxDecoding) add_sampling();
    if (rows_ <= kMaxDecoding) add_kv_blocks();
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

  /// A layer's experts where each row chooses some of all at random: weights of those that any
  /// row chose.
  void add_routed() {
    std::vector<std::vector<uint32_t>> rows_of(s_.num_routed_experts);
    for (uint32_t r = 0; r < rows_; ++r) {
      for (size_t slot = 0; slot < s_.num_experts_per_tok; ++slot) {
        size_t e = random_bits(3, r * s_.num_experts_per_tok + slot) % rows_of.size();
        while (!rows_of[e].empty() && rows_of[e].back() == r) e = (e + 1) % rows_of.size();
        rows_of[e].push_back(r);
      }
    }
    std::erase_if(rows_of, [](const auto& rows) { return rows.empty(); });
    const size_t hidden = s_.hidden_size, inner = s_.moe_intermediate_size;
    for (const WeightForm& form : kForms) {
      const WeightView up = matrix(form, inner, hidden), down = matrix(form, hidden, inner);
      KernelWork work;
      for (const auto& rows : rows_of) {
        const KernelWork one = work_of(std::array{up, up, down}, rows.size());
        work.bytes += one.bytes;
        work.float_multiply_adds += one.float_multiply_adds;
        work.integer_multiply_adds += one.integer_multiply_adds;
      }
      add_cold(
          "grouped_ffn",
          "routed " + std::to_string(s_.num_routed_experts) + "x" + sizes(inner, hidden).substr(1),
          form.name, work, [=, rows = rows_, topk = s_.num_experts_per_tok](Operands& operands) {
            return [&operands, up, down, rows_of, rows, x = operands.values(rows * up.in),
                    y = operands.room<float>(rows * topk * up.in)]() mutable {
              std::vector<kernels::FfnParams> experts;
              float* next = y;
              for (const auto& of_expert : rows_of) {
                experts.push_back({.x = {x, rows, up.in},
                                   .x_rows = of_expert.data(),
                                   .gate = place(up, operands),
                                   .up = place(up, operands),
                                   .down = place(down, operands),
                                   .y = {next, of_expert.size(), up.in}});
                next += of_expert.size() * up.in;
              }
              operands.ops().grouped_ffn(experts);
            };
          });
    }
  }

  /// Rows to the experts and their answers back, as far as the device's part of it.
  void add_exchange() {
    const size_t out = rows_ * s_.hidden_size, in = out * s_.num_experts_per_tok;
    add_rows_op("copy_out", "rows of " + std::to_string(s_.hidden_size), "", row_work(out),
                [out](Operands& operands) {
                  return [&operands, from = operands.values(out), to = operands.on_host(out), out] {
                    operands.memory().copy_out(to, from, out * sizeof(float));
                  };
                });
    add_rows_op("copy_in",
                "answers " + std::to_string(s_.num_experts_per_tok) + " of " +
                    std::to_string(s_.hidden_size),
                "", row_work(in), [in](Operands& operands) {
                  return [&operands, from = operands.on_host(in), to = operands.values(in), in] {
                    operands.memory().copy_in(to, from, in * sizeof(float));
                  };
                });
  }

  void add_copy_rows() {
    const size_t rows = rows_ * s_.num_heads, cols = s_.qk_rope_head_dim;
    const size_t stride = s_.qk_nope_head_dim + cols;
    add_rows_op("copy_rows", "q_rope " + std::to_string(cols), "", row_work(2 * rows * cols),
                [=](Operands& operands) {
                  return [&operands, rows, cols, stride, from = operands.values(rows * stride),
                          to = operands.values(rows * cols)] {
                    operands.memory().copy_rows({to, rows, cols}, {from, rows, cols, stride});
                  };
                });
  }

  void add_move_rows() {
    const size_t cols = s_.hidden_size;
    add_rows_op("move_rows", "hidden " + std::to_string(cols), "", row_work(2 * rows_ * cols),
                [cols, rows = rows_](Operands& operands) {
                  float* from = operands.values(rows * cols);
                  float* to = operands.values(rows * cols);
                  std::vector<const float*> from_rows;
                  std::vector<void*> to_rows;
                  for (size_t r = 0; r < rows; ++r) {
                    from_rows.push_back(from + (rows - 1 - r) * cols);
                    to_rows.push_back(to + r * cols);
                  }
                  return [&operands, from_rows, to_rows, cols] {
                    operands.memory().move_rows(from_rows, to_rows, cols);
                  };
                });
  }

  /// Where several devices share attention: each brings its columns of all rows, and gets those of
  /// all. What one gets counts, read and written, so that alone it copies.
  void add_all_gather(const char* what, size_t cols) {
    const size_t num_ranks = options_.num_ranks;
    if (num_ranks == 0) return;
    const size_t count = rows_ * cols / num_ranks;
    add_rows_op("all_gather",
                what + (" " + std::to_string(cols)) + " ranks " + std::to_string(num_ranks), "",
                row_work(2 * rows_ * cols), [count, num_ranks](Operands& operands) {
                  return [&operands, count, part = operands.values(count),
                          parts = operands.room<float>(num_ranks * count)] {
                    operands.collective().all_gather(part, count, parts);
                  };
                });
    out_.back().on_all_ranks = true;
  }

  /// What the sampling parameters of a request ask of its row; answers come to the host.
  void add_sampling() {
    struct Asked {
      const char* name;
      RowQuestion question;
    };
    for (const Asked& asked :
         {Asked{"greedy", {}}, Asked{"temperature", {.uniform = 0.5, .wants_draw = true}},
          Asked{"top_k 50", {.num_likely = 50}},
          Asked{"top_p", {.wants_total = true, .num_likely = 64}},
          Asked{"logprobs 5", {.wants_logprob = true, .num_top = 5}}}) {
      const size_t vocab = s_.vocab_size;
      add_rows_op("sample", asked.name + (" of " + std::to_string(vocab)), "",
                  row_work(rows_ * vocab),
                  [vocab, rows = rows_, question = asked.question](Operands& operands) {
                    float* logits = operands.values(rows * vocab);
                    return [&operands, logits, rows, vocab, question] {
                      std::vector<kernels::AskedRow> asked;
                      for (size_t r = 0; r < rows; ++r) {
                        asked.push_back({.logits = logits + r * vocab, .question = &question});
                      }
                      operands.sampler().ask(asked, vocab);
                    };
                  });
    }
  }

  /// Whole blocks of all layers: copy-on-write, and on a device the host tier and other routers.
  void add_kv_blocks() {
    for (const WeightForm& kv : kKvForms) {
      const size_t bytes = s_.num_layers * kBlockTokens * kv_bytes(kv), blocks = rows_;
      const std::string what = "kv block " + std::to_string(bytes);
      add("copy", what, kv.name, {.bytes = 2 * blocks * bytes}, blocks * bytes,
          [=](Operands& operands) {
            return [&operands, bytes, blocks, to = operands.room<std::byte>(blocks * bytes)] {
              for (size_t b = 0; b < blocks; ++b) {
                operands.memory().copy(to + b * bytes, operands.cold(bytes), bytes);
              }
            };
          });
      if (!options_.on_device) continue;
      add("copy_out", what, kv.name, {.bytes = blocks * bytes}, blocks * bytes,
          [=](Operands& operands) {
            return
                [&operands, bytes, blocks, to = operands.on_host(blocks * bytes / sizeof(float))] {
                  for (size_t b = 0; b < blocks; ++b) {
                    operands.memory().copy_out(to + b * bytes / sizeof(float), operands.cold(bytes),
                                               bytes);
                  }
                };
          });
      add("copy_in", what, kv.name, {.bytes = blocks * bytes}, 0, [=](Operands& operands) {
        return [&operands, bytes, blocks, to = operands.room<std::byte>(blocks * bytes),
                from = operands.on_host(blocks * bytes / sizeof(float))] {
          for (size_t b = 0; b < blocks; ++b) {
            operands.memory().copy_in(to + b * bytes, from + b * bytes / sizeof(float), bytes);
          }
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
  const KernelCaseOptions& options_;
  std::vector<KernelCase>& out_;
};

}  // namespace

std::string KernelCase::name() const {
  return op + " " + what + (dtype.empty() ? "" : " " + dtype) + " " + std::to_string(rows);
}

std::vector<KernelCase> kernel_cases(const model::ModelConfig& shape,
                                     const KernelCaseOptions& options) {
  std::vector<KernelCase> cases;
  for (const uint32_t r : options.rows) Cases(shape, r, options, cases).add_all();
  return cases;
}

}  // namespace troupe::apps
