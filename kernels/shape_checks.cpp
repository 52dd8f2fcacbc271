#include "kernels/shape_checks.hpp"

#include <functional>

#include "base/panels.hpp"

namespace troupe::kernels {
namespace {

template <class T>
void check_view(const RowsView<T>& v, size_t rows, size_t cols) {
  CHECK_EQ(v.rows, rows);
  CHECK_EQ(v.cols, cols);
  CHECK_GE(v.stride, v.cols);
  CHECK(v.data != nullptr || v.rows * v.cols == 0);
}

void check_weight(const WeightView& w, size_t out, size_t in) {
  CHECK_EQ(w.out, out);
  CHECK_EQ(w.in, in);
  CHECK(w.data != nullptr || out * in == 0);
  CHECK(w.scales == nullptr || w.dtype == DType::kF8E4M3);
  CHECK(w.columns == nullptr || is_integer(w.dtype));
  if (is_integer(w.dtype)) {
    CHECK(fits_panels(out, in));
    CHECK(w.group_scales.data != nullptr);
    CHECK(w.group_scales.group > 0 && w.group_scales.group % kPanelBlock == 0);
    CHECK(w.group_scales.dtype == DType::kF32 || w.group_scales.dtype == DType::kBF16);
    CHECK(w.group_scales.zeros == nullptr || w.dtype == DType::kI4);
  }
}

/// The elements from the first to the end of the last row share no memory.
void check_disjoint(const ConstRows& a, const ConstRows& b) {
  if (a.rows * a.cols == 0 || b.rows * b.cols == 0) return;
  const float* a_end = a.row(a.rows - 1) + a.cols;
  const float* b_end = b.row(b.rows - 1) + b.cols;
  CHECK(std::less_equal<>()(a_end, b.data) || std::less_equal<>()(b_end, a.data));
}

void check_kv_dtype(DType dtype) { CHECK(dtype == DType::kF32 || dtype == DType::kBF16); }

/// @param p of either form
template <class Params>
void check_attention_rows(const Params& p) {
  check_kv_dtype(p.kv_dtype);
  CHECK_GT(p.block_tokens, 0U);
  for (const AttentionRow& row : p.rows) {
    CHECK_GE(row.context_len, 1U);
    CHECK_LE(row.context_len, row.blocks.size() * p.block_tokens);
  }
}

}  // namespace

void check_shapes(const EmbedParams& p) {
  check_weight(p.table, p.table.out, p.out.cols);
  CHECK(!is_integer(p.table.dtype));
  check_view(p.out, p.tokens.size(), p.table.in);
  for (const TokenId token : p.tokens) {
    CHECK_GE(token, 0);
    CHECK_LT(static_cast<size_t>(token), p.table.out);
  }
}

void check_shapes(const GemmParams& p) {
  check_view(p.x, p.x.rows, p.w.in);
  check_view(p.y, p.x.rows, p.w.out);
  check_weight(p.w, p.y.cols, p.x.cols);
  check_disjoint(p.x, p.y);
}

void check_shapes(const RmsNormParams& p) {
  check_view(p.x, p.x.rows, p.x.cols);
  check_view(p.out, p.x.rows, p.x.cols);
  CHECK(p.weight != nullptr || p.x.cols == 0);
}

void check_shapes(const RopeParams& p) {
  check_view(p.x, p.positions.size(), p.num_heads * p.head_dim);
  CHECK_EQ(p.dim % 2, 0U);
  CHECK_LE(p.dim, p.head_dim);
  CHECK_EQ(p.inv_freq.size(), p.dim / 2);
}

void check_shapes(const SiluMulParams& p) {
  check_view(p.gate, p.gate.rows, p.gate.cols);
  check_view(p.up, p.gate.rows, p.gate.cols);
  check_view(p.out, p.gate.rows, p.gate.cols);
}

void check_shapes(const AddParams& p) {
  check_view(p.x, p.x.rows, p.x.cols);
  check_view(p.y, p.x.rows, p.x.cols);
}

void check_shapes(const TopkGateParams& p) {
  check_view(p.logits, p.logits.rows, p.logits.cols);
  CHECK_GE(p.num_groups, 1U);
  CHECK_EQ(p.logits.cols % p.num_groups, 0U);
  CHECK_GE(p.topk_groups, 1U);
  CHECK_LE(p.topk_groups, p.num_groups);
  CHECK_GE(p.topk, 1U);
  CHECK_LE(p.topk, kMaxTopk);
  const size_t group_size = p.logits.cols / p.num_groups;
  if (p.method == GateMethod::kGreedy) {
    CHECK_LE(p.topk, p.logits.cols);
  } else {
    // All chosen experts come from the kept groups.
    CHECK_LE(p.topk, p.topk_groups * group_size);
  }
  if (p.method == GateMethod::kNoauxTc) {
    if (p.topk_groups < p.num_groups) CHECK_GE(group_size, 2U);
  } else {
    CHECK(p.bias == nullptr);
  }
  CHECK(p.logits.rows == 0 || (p.topk_idx != nullptr && p.topk_weight != nullptr));
}

void check_shapes(const StoreKvParams& p) {
  check_kv_dtype(p.kv_dtype);
  check_view(p.x, p.out.size(), p.x.cols);
}

void check_shapes(const MlaAbsorbedParams& p) {
  const size_t rows = p.rows.size();
  check_view(p.q_latent, rows, p.num_heads * p.kv_rank);
  check_view(p.q_rope, rows, p.num_heads * p.rope_dim);
  check_view(p.out, rows, p.num_heads * p.kv_rank);
  check_disjoint(p.q_latent, p.out);
  check_disjoint(p.q_rope, p.out);
  check_attention_rows(p);
}

void check_shapes(const MlaExpandedParams& p) {
  const size_t rows = p.rows.size();
  check_view(p.q, rows, p.num_heads * (p.nope_dim + p.rope_dim));
  check_view(p.out, rows, p.num_heads * p.v_dim);
  check_disjoint(p.q, p.out);
  CHECK(p.kv_b != nullptr);
  CHECK_GT(p.nope_dim + p.v_dim, 0U);
  check_attention_rows(p);
}

void check_shapes(const FfnParams& p) {
  check_view(p.x, p.x_rows == nullptr ? p.y.rows : p.x.rows, p.gate.in);
  for (size_t i = 0; p.x_rows != nullptr && i < p.y.rows; ++i) CHECK_LT(p.x_rows[i], p.x.rows);
  check_weight(p.gate, p.gate.out, p.x.cols);
  check_weight(p.up, p.gate.out, p.x.cols);
  check_weight(p.down, p.y.cols, p.gate.out);
  check_view(p.y, p.y.rows, p.down.out);
  check_disjoint(p.x, p.y);
}

void check_shapes(const CombineParams& p) {
  const size_t rows = p.residual.rows;
  const size_t hidden = p.residual.cols;
  check_view(p.residual, rows, hidden);
  if (p.shared.data != nullptr) check_view(p.shared, rows, hidden);
  CHECK((p.expert_rows != nullptr && p.topk_weight != nullptr) || rows * p.topk == 0);
  for (size_t i = 0; i < rows * p.topk; ++i) CHECK(p.expert_rows[i] != nullptr);
}

}  // namespace troupe::kernels
