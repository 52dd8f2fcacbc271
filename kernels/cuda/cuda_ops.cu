// Host side of the CUDA backend: shapes to descriptions of work and grids. Also compiled as C++ by
// the tests, with the emulator.

#include "kernels/cuda/cuda_ops.hpp"

#include <algorithm>
#include <string>
#include <type_traits>
#include <vector>

#include "base/check.hpp"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/runtime.hpp"
#include "kernels/cuda/topk_gate.cuh"
#include "kernels/kernel_set.hpp"
#include "kernels/shape_checks.hpp"

namespace troupe::kernels::cuda {
namespace {

constexpr size_t kAlignment = 256;
/// Products with at most so many rows stream their weights.
constexpr size_t kStreamRows = 32;
constexpr size_t kTileQueries = AttendSplit<float>::kQueries;

/// Without padding, the same work has the same bytes, which Runtime::upload() finds again.
static_assert(std::has_unique_object_representations_v<Product>);

constexpr size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }
constexpr size_t round_up(size_t a, size_t b) { return divide_up(a, b) * b; }

template <class T>
Matrix<T> matrix(const RowsView<T>& rows) {
  return {rows.data, rows.stride};
}

bool on_tensor_cores(DType dtype) { return dtype != DType::kF32 && dtype != DType::kF16; }

/// Of the data of weights: what kernels load of them at once (weights.cuh, FloatGemm).
size_t alignment_of(const WeightView& w) {
  if (is_integer(w.dtype)) return sizeof(simt::Words<1>);
  const size_t one = size_of(w.dtype);
  return on_tensor_cores(w.dtype) && w.in % 8 == 0 ? 8 * one : one;
}

Weights device_weights(const WeightView& w) {
  CHECK_EQ(reinterpret_cast<uintptr_t>(w.data) % alignment_of(w), uintptr_t{0});
  Weights out{.data = w.data, .out = w.out, .in = w.in, .block_scales = w.scales};
  if (is_integer(w.dtype)) {
    out.group_scales = w.group_scales.data;
    out.group_scale_bytes = size_of(w.group_scales.dtype);
    out.zeros = w.group_scales.zeros;
    out.num_groups = w.num_groups();
    out.columns = w.columns;
    // One scale for a row: for whole slices, too.
    out.group = out.num_groups == 1 ? round_up(w.in, kSlice) : w.group_scales.group;
  }
  return out;
}

/// Device memory of an operation; all of it is free again when the next one begins.
class Workspace {
 public:
  Workspace(Runtime& runtime, void* memory, size_t bytes)
      : runtime_(runtime), memory_(static_cast<std::byte*>(memory)), bytes_(bytes) {}
  ~Workspace() { runtime_.release(memory_); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void clear() { used_ = 0; }
  [[nodiscard]] size_t bytes() const { return bytes_; }
  template <class T>
  static constexpr size_t bytes_of(size_t count) {
    return round_up(count * sizeof(T), kAlignment);
  }
  /// On exhaustion: nullptr, and an error is kept, so nothing is launched any more.
  template <class T>
  T* take(size_t count) {
    const size_t wanted = bytes_of<T>(count);
    if (wanted > bytes_ - used_) {
      runtime_.keep_error(
          ("an operation needs more than the " + std::to_string(bytes_) +
           " bytes of CudaOptions::workspace_bytes: raise it, or give it fewer rows")
              .c_str());
      return nullptr;
    }
    used_ += wanted;
    return reinterpret_cast<T*>(memory_ + used_ - wanted);
  }

 private:
  Runtime& runtime_;
  std::byte* memory_;
  size_t bytes_;
  size_t used_ = 0;
};

/// Memory::move_rows(); as BF16 it is Ops::store_kv().
void launch_move_rows(Runtime& runtime, std::span<const float* const> from,
                      std::span<void* const> to, size_t cols, DType as) {
  CHECK_EQ(from.size(), to.size());
  CHECK(as == DType::kF32 || as == DType::kBF16);
  runtime.begin_operation();
  MoveRows kernel;
  kernel.from = runtime.upload(from);
  kernel.to = runtime.upload(to);
  kernel.as_bf16 = as == DType::kBF16;
  kernel.cols = cols;
  runtime.launch(kernel, grid_of_elements(from.size(), cols));
}

class CudaOps final : public Ops {
 public:
  CudaOps(Runtime& runtime, void* workspace, const CudaOptions& options)
      : runtime_(runtime),
        workspace_(runtime, workspace, options.workspace_bytes),
        class_("cuda-" + std::string(runtime.target()) + "-bf16") {}

  const char* arithmetic_class() const override { return class_.c_str(); }
  const char* target() const override { return runtime_.target(); }
  Limits limits() const override {
    return {.kv_rank = kMaxRank, .rope_dim = kMaxRope, .num_experts = TopkGate::kMaxExperts};
  }

  void embed(const EmbedParams& p) override {
    check_shapes(p);
    begin();
    Embed kernel;
    kernel.table = p.table.data;
    kernel.dtype = p.table.dtype;
    kernel.scales = p.table.scales;
    kernel.tokens = runtime_.upload(p.tokens);
    kernel.out = matrix(p.out);
    kernel.cols = p.out.cols;
    runtime_.launch(kernel, grid_of_elements(p.out.rows, p.out.cols));
  }

  void gemm(const GemmParams& p) override { gemm_many({&p, 1}); }

  void gemm_many(std::span<const GemmParams> products) override;

  void rms_norm(const RmsNormParams& p) override {
    check_shapes(p);
    runtime_.launch(RmsNorm{.x = matrix(p.x),
                            .weight = p.weight,
                            .eps = p.eps,
                            .out = matrix(p.out),
                            .cols = p.x.cols},
                    {static_cast<unsigned>(p.x.rows), 1});
  }

  void rope(const RopeParams& p) override {
    check_shapes(p);
    begin();
    runtime_.launch(Rope{.x = matrix(p.x),
                         .num_heads = p.num_heads,
                         .head_dim = p.head_dim,
                         .dim = p.dim,
                         .positions = runtime_.upload(p.positions),
                         .inv_freq = runtime_.upload(p.inv_freq),
                         .magnitude = p.magnitude},
                    {static_cast<unsigned>(p.x.rows), 1});
  }

  void silu_mul(const SiluMulParams& p) override {
    check_shapes(p);
    SiluMul kernel;
    kernel.gate = matrix(p.gate);
    kernel.up = matrix(p.up);
    kernel.out = matrix(p.out);
    kernel.cols = p.gate.cols;
    runtime_.launch(kernel, grid_of_elements(p.gate.rows, p.gate.cols));
  }

  void add(const AddParams& p) override {
    check_shapes(p);
    Add kernel;
    kernel.x = matrix(p.x);
    kernel.y = matrix(p.y);
    kernel.cols = p.x.cols;
    runtime_.launch(kernel, grid_of_elements(p.x.rows, p.x.cols));
  }

  void topk_gate(const TopkGateParams& p) override {
    check_shapes(p);
    CHECK_LE(p.logits.cols, limits().num_experts);
    runtime_.launch(TopkGate{.logits = matrix(p.logits),
                             .num_experts = static_cast<unsigned>(p.logits.cols),
                             .bias = p.bias,
                             .method = p.method,
                             .num_groups = static_cast<unsigned>(p.num_groups),
                             .topk_groups = static_cast<unsigned>(p.topk_groups),
                             .topk = static_cast<unsigned>(p.topk),
                             .normalize = p.normalize,
                             .scale = p.scale,
                             .topk_idx = p.topk_idx,
                             .topk_weight = p.topk_weight},
                    {static_cast<unsigned>(p.logits.rows), 1});
  }

  void mla_absorbed(const MlaAbsorbedParams& p) override;
  void mla_expanded(const MlaExpandedParams& p) override;
  void grouped_ffn(std::span<const FfnParams> experts) override;

  void store_kv(const StoreKvParams& p) override {
    check_shapes(p);
    stored_.clear();
    for (size_t r = 0; r < p.x.rows; ++r) stored_.push_back(p.x.row(r));
    launch_move_rows(runtime_, stored_, p.out, p.x.cols, p.kv_dtype);
  }

  void combine(const CombineParams& p) override {
    check_shapes(p);
    begin();
    Combine kernel;
    kernel.expert_rows = runtime_.upload(std::span(p.expert_rows, p.residual.rows * p.topk));
    kernel.topk_weight = p.topk_weight;
    kernel.topk = p.topk;
    kernel.shared = matrix(p.shared);
    kernel.residual = matrix(p.residual);
    kernel.cols = p.residual.cols;
    runtime_.launch(kernel, grid_of_elements(p.residual.rows, p.residual.cols));
  }

 private:
  /// Of an operation, or of a part of one that needs workspace or uploads of its own.
  void begin() {
    workspace_.clear();
    runtime_.begin_operation();
  }

  /// Bytes of workspace that products of so many rows take together.
  static size_t workspace_of(std::span<const GemmParams> products, size_t rows);
  /// Bytes of workspace that so many rows of an FFN take.
  static size_t workspace_of(const FfnParams& p, size_t rows);
  static size_t workspace_of(const FfnParams& p) { return workspace_of(p, p.y.rows); }
  void ffns(std::span<const FfnParams> experts);

  /// @param x_rows by product, on the device; or none
  void multiply(std::span<const GemmParams> products, std::span<const uint32_t* const> x_rows = {});
  void round_rows(std::span<const GemmParams> products);
  /// Tiles of `rows_of_tile` rows of the products that wanted(i) says, also in row_tiles_.
  template <class Wanted>
  const RowTile* row_tiles(size_t rows_of_tile, const Wanted& wanted);
  template <class Kernel, class Wanted>
  void launch_products(const Product* products, const Wanted& wanted);
  template <class W>
  void launch_tensor_cores(const Product* products);

  static size_t num_splits(const AttentionRow& row) { return divide_up(row.context_len, kSplit); }
  /// Of a row, by whether one block goes through all its splits.
  static size_t num_parts(const AttentionRow& row, bool whole) {
    return whole ? 1 : num_splits(row);
  }
  /// Sets whole_.
  void choose_whole_rows(std::span<const AttentionRow> rows, size_t num_heads);
  /// Calls attend(range) for ranges of rows whose parts and `bytes_per_row` fit into the workspace.
  template <class Attend>
  void by_ranges_of_rows(std::span<const AttentionRow> rows, size_t bytes_per_row, size_t num_heads,
                         size_t rank, const Attend& attend);
  /// @param first_row of the operation's, for whole_
  void attend(const MlaAbsorbedParams& p, size_t first_row);
  /// Tiles of a run of rows over the same blocks. @param whole all splits in one
  void add_query_tiles(const MlaAbsorbedParams& p, Range run, bool whole);
  template <class Kv>
  void launch_attention(const MlaAbsorbedParams& p, const void* const* blocks,
                        const VisibleKv* rows, const Parts& parts);

  Runtime& runtime_;
  Workspace workspace_;
  std::string class_;
  // Descriptions of the operation at hand; members so that a step allocates nothing.
  std::vector<Product> products_;
  std::vector<DType> dtypes_;  // of products_
  std::vector<bool> rounds_;   // whether a product's activations are rounded, not shared
  std::vector<RowTile> row_tiles_;
  std::vector<const void*> blocks_;
  std::vector<const float*> stored_;
  std::vector<bool> whole_;  // whether one block goes through all splits of a row
  std::vector<VisibleKv> visible_;
  std::vector<QueryTile> query_tiles_;
  std::vector<GemmParams> gate_up_, down_;
  std::vector<const uint32_t*> x_rows_;  // of gate_up_
  std::vector<GemmParams> product_parts_;
  std::vector<FfnParams> ffn_parts_;
};

template <class Wanted>
const RowTile* CudaOps::row_tiles(size_t rows_of_tile, const Wanted& wanted) {
  row_tiles_.clear();
  for (uint32_t i = 0; i < products_.size(); ++i) {
    if (!wanted(i)) continue;
    for (size_t r = 0; r < products_[i].rows; r += rows_of_tile) {
      row_tiles_.push_back({i, static_cast<uint32_t>(r)});
    }
  }
  return row_tiles_.empty() ? nullptr : runtime_.upload(std::span<const RowTile>(row_tiles_));
}

template <class Kernel, class Wanted>
void CudaOps::launch_products(const Product* products, const Wanted& wanted) {
  size_t outputs = 0;
  for (size_t i = 0; i < products_.size(); ++i) {
    if (wanted(i)) outputs = std::max(outputs, products_[i].w.out);
  }
  const RowTile* tiles = row_tiles(Kernel::kRows, wanted);
  runtime_.launch(Kernel{.products = products, .tiles = tiles},
                  {static_cast<unsigned>(row_tiles_.size()),
                   static_cast<unsigned>(divide_up(outputs, Kernel::kOutputs))});
}

template <class W>
void CudaOps::launch_tensor_cores(const Product* products) {
  launch_products<StreamGemm<W>>(products, [&](size_t i) {
    return dtypes_[i] == W::kDType && products_[i].rows <= kStreamRows;
  });
  launch_products<TileGemm<W>>(products, [&](size_t i) {
    return dtypes_[i] == W::kDType && products_[i].rows > kStreamRows;
  });
}

void CudaOps::round_rows(std::span<const GemmParams> products) {
  for (size_t i = 0; i < products.size(); ++i) {
    Product& p = products_[i];
    if (!on_tensor_cores(dtypes_[i])) continue;
    if (i > 0 && products_[i - 1].rounded.data != nullptr && products[i].x == products[i - 1].x &&
        p.x_rows == products_[i - 1].x_rows && p.rows == products_[i - 1].rows &&
        is_integer(dtypes_[i]) == is_integer(dtypes_[i - 1]) &&
        p.w.columns == products_[i - 1].w.columns) {
      p.rounded = products_[i - 1].rounded;
      continue;
    }
    p.rounded.stride = round_up(p.w.in, kSlice);
    p.rounded.data = workspace_.take<simt::Bf16>(p.rows * p.rounded.stride);
    rounds_[i] = true;
  }
}

void CudaOps::multiply(std::span<const GemmParams> products,
                       std::span<const uint32_t* const> x_rows) {
  products_.clear();
  dtypes_.clear();
  for (size_t i = 0; i < products.size(); ++i) {
    const GemmParams& p = products[i];
    products_.push_back({.x = matrix(p.x),
                         .x_rows = x_rows.empty() ? nullptr : x_rows[i],
                         .rows = p.y.rows,
                         .w = device_weights(p.w),
                         .bias = p.bias,
                         .y = matrix(p.y)});
    dtypes_.push_back(p.w.dtype);
  }
  rounds_.assign(products.size(), false);
  round_rows(products);
  const Product* uploaded = runtime_.upload(std::span<const Product>(products_));
  size_t widest = 0;
  for (const Product& p : products_) widest = std::max(widest, p.rounded.stride);
  const auto round = [&]<bool kInterleaved>(RoundRows<kInterleaved> kernel) {
    kernel.products = uploaded;
    kernel.tiles = row_tiles(
        kRoundRows, [&](size_t i) { return rounds_[i] && is_integer(dtypes_[i]) == kInterleaved; });
    runtime_.launch(kernel, {static_cast<unsigned>(row_tiles_.size()),
                             static_cast<unsigned>(divide_up(widest, 4 * kernel.kThreads))});
  };
  round(RoundRows<false>{});
  round(RoundRows<true>{});
  launch_tensor_cores<Bf16Weights>(uploaded);
  launch_tensor_cores<F8Weights>(uploaded);
  launch_tensor_cores<I8Weights>(uploaded);
  launch_tensor_cores<I4Weights>(uploaded);
  launch_products<FloatGemm<float>>(uploaded, [&](size_t i) { return dtypes_[i] == DType::kF32; });
  launch_products<FloatGemm<uint16_t>>(uploaded,
                                       [&](size_t i) { return dtypes_[i] == DType::kF16; });
}

size_t CudaOps::workspace_of(std::span<const GemmParams> products, size_t rows) {
  size_t bytes = 0;
  for (const GemmParams& p : products) {
    if (!on_tensor_cores(p.w.dtype)) continue;
    const size_t own = std::min(rows, p.x.rows);
    bytes += Workspace::bytes_of<simt::Bf16>(own * round_up(p.w.in, kSlice));
  }
  return bytes;
}

void CudaOps::gemm_many(std::span<const GemmParams> products) {
  size_t rows = 0;
  for (const GemmParams& p : products) {
    check_shapes(p);
    rows = std::max(rows, p.x.rows);
  }
  size_t together = rows;
  while (together > 1 && workspace_of(products, together) > workspace_.bytes()) {
    together = divide_up(together, 2);
  }
  if (together == rows) {
    begin();
    return multiply(products);
  }
  for (size_t first = 0; first < rows; first += together) {
    product_parts_.clear();
    for (const GemmParams& p : products) {
      if (p.x.rows <= first) continue;
      const size_t count = std::min(together, p.x.rows - first);
      product_parts_.push_back(p);
      product_parts_.back().x = p.x.slice(first, count);
      product_parts_.back().y = p.y.slice(first, count);
    }
    begin();
    multiply(product_parts_);
  }
}

size_t CudaOps::workspace_of(const FfnParams& p, size_t rows) {
  return 2 * Workspace::bytes_of<float>(rows * p.gate.out) +
         2 * Workspace::bytes_of<simt::Bf16>(rows * round_up(p.gate.in, kSlice)) +
         Workspace::bytes_of<simt::Bf16>(rows * round_up(p.down.in, kSlice));
}

void CudaOps::grouped_ffn(std::span<const FfnParams> experts) {
  const size_t rounding = 2 * Workspace::bytes_of<float>(kRowThreads);  // of the two inner buffers
  ffn_parts_.clear();
  for (const FfnParams& p : experts) {
    check_shapes(p);
    size_t together = p.y.rows;
    while (together > 1 && rounding + workspace_of(p, together) > workspace_.bytes()) {
      together = divide_up(together, 2);
    }
    for (size_t first = 0; first < p.y.rows; first += together) {
      const size_t count = std::min(together, p.y.rows - first);
      FfnParams& part = ffn_parts_.emplace_back(p);
      part.y = p.y.slice(first, count);
      if (p.x_rows == nullptr) {
        part.x = p.x.slice(first, count);
      } else {
        part.x_rows += first;
      }
    }
  }
  const std::span<const FfnParams> parts = ffn_parts_;
  for (size_t first = 0; first < parts.size();) {
    size_t last = first + 1;
    size_t bytes = rounding + workspace_of(parts[first]);
    while (last < parts.size() && bytes + workspace_of(parts[last]) <= workspace_.bytes()) {
      bytes += workspace_of(parts[last++]);
    }
    begin();
    ffns(parts.subspan(first, last - first));
    first = last;
  }
}

void CudaOps::ffns(std::span<const FfnParams> experts) {
  size_t elements = 0;
  for (const FfnParams& p : experts) elements += p.y.rows * p.gate.out;
  const size_t rows_of_all = divide_up(elements, kRowThreads);
  const Rows all_gate(workspace_.take<float>(rows_of_all * kRowThreads), rows_of_all, kRowThreads);
  const Rows all_up(workspace_.take<float>(rows_of_all * kRowThreads), rows_of_all, kRowThreads);
  if (runtime_.failed()) return;
  gate_up_.clear();
  down_.clear();
  x_rows_.clear();
  size_t at = 0;
  for (const FfnParams& p : experts) {
    const Rows gate(all_gate.data + at, p.y.rows, p.gate.out);
    const Rows up(all_up.data + at, p.y.rows, p.gate.out);
    at += p.y.rows * p.gate.out;
    const uint32_t* x_rows =
        p.x_rows == nullptr ? nullptr : runtime_.upload(std::span(p.x_rows, p.y.rows));
    x_rows_.insert(x_rows_.end(), 2, x_rows);
    gate_up_.push_back({.x = p.x, .w = p.gate, .y = gate});
    gate_up_.push_back({.x = p.x, .w = p.up, .y = up});
    down_.push_back({.x = gate, .w = p.down, .y = p.y});
  }
  multiply(gate_up_, x_rows_);
  silu_mul({.gate = all_gate, .up = all_up, .out = all_gate});
  multiply(down_);
}

void CudaOps::choose_whole_rows(std::span<const AttentionRow> rows, size_t num_heads) {
  size_t queries_and_splits = 0;
  for (const AttentionRow& row : rows) queries_and_splits += num_splits(row) * num_heads;
  const size_t splits_of_tiles = queries_and_splits / kTileQueries;
  const size_t fair_share = splits_of_tiles / runtime_.num_multiprocessors();
  whole_.clear();
  for (size_t r = 0, last = 0; r < rows.size(); r = last) {
    last = end_of_shared_blocks(rows, r, rows.size());
    size_t most_splits = 0;
    for (size_t i = r; i < last; ++i) most_splits = std::max(most_splits, num_splits(rows[i]));
    // A block that does no more than its share of all splits may do all of its rows'.
    whole_.resize(last, most_splits <= std::max<size_t>(1, fair_share));
  }
}

template <class Attend>
void CudaOps::by_ranges_of_rows(std::span<const AttentionRow> rows, size_t bytes_per_row,
                                size_t num_heads, size_t rank, const Attend& attend) {
  constexpr size_t kRounding = 8 * kAlignment;  // of the buffers that one call takes
  choose_whole_rows(rows, num_heads);
  size_t first = 0;
  size_t bytes = kRounding;
  for (size_t r = 0; r < rows.size(); ++r) {
    const size_t bytes_per_part = num_heads * (rank + 2) * sizeof(float);
    const size_t more = bytes_per_row + num_parts(rows[r], whole_[r]) * bytes_per_part;
    if (r > first && bytes + more > workspace_.bytes()) {
      attend(Range{first, r});
      first = r;
      bytes = kRounding;
    }
    bytes += more;
  }
  if (first < rows.size()) attend(Range{first, rows.size()});
}

void CudaOps::mla_absorbed(const MlaAbsorbedParams& p) {
  check_shapes(p);
  by_ranges_of_rows(p.rows, 0, p.num_heads, p.kv_rank, [&](Range range) {
    MlaAbsorbedParams part = p;
    part.q_latent = p.q_latent.slice(range.first, range.size());
    part.q_rope = p.q_rope.slice(range.first, range.size());
    part.rows = p.rows.subspan(range.first, range.size());
    part.out = p.out.slice(range.first, range.size());
    begin();
    attend(part, range.first);
  });
}

void CudaOps::mla_expanded(const MlaExpandedParams& p) {
  check_shapes(p);
  const size_t bytes_per_row = p.num_heads * (2 * p.kv_rank + p.rope_dim) * sizeof(float);
  by_ranges_of_rows(p.rows, bytes_per_row, p.num_heads, p.kv_rank, [&](Range range) {
    const size_t rows = range.size();
    const auto buffer = [&](size_t cols) {
      return Rows(workspace_.take<float>(rows * cols), rows, cols);
    };
    begin();
    const Rows q_latent = buffer(p.num_heads * p.kv_rank);
    const Rows q_rope = buffer(p.num_heads * p.rope_dim);
    const Rows latent = buffer(p.num_heads * p.kv_rank);
    if (runtime_.failed()) return;
    AbsorbQuery absorb;
    absorb.q = matrix(p.q.slice(range.first, rows));
    absorb.kv_b = p.kv_b;
    absorb.nope = static_cast<unsigned>(p.nope_dim);
    absorb.rope = static_cast<unsigned>(p.rope_dim);
    absorb.v_dim = static_cast<unsigned>(p.v_dim);
    absorb.rank = static_cast<unsigned>(p.kv_rank);
    absorb.num_heads = static_cast<unsigned>(p.num_heads);
    absorb.latent = matrix(q_latent);
    absorb.rotated = matrix(q_rope);
    runtime_.launch(absorb, grid_of_elements(rows, p.num_heads * (p.kv_rank + p.rope_dim)));
    attend({.q_latent = q_latent,
            .q_rope = q_rope,
            .rows = p.rows.subspan(range.first, rows),
            .kv_dtype = p.kv_dtype,
            .block_tokens = p.block_tokens,
            .num_heads = p.num_heads,
            .kv_rank = p.kv_rank,
            .rope_dim = p.rope_dim,
            .scale = p.scale,
            .out = latent},
           range.first);
    const Rows out = p.out.slice(range.first, rows);
    down_.clear();
    for (size_t h = 0; h < p.num_heads; ++h) {
      const float* values = p.kv_b + (h * (p.nope_dim + p.v_dim) + p.nope_dim) * p.kv_rank;
      down_.push_back({.x = {latent.data + h * p.kv_rank, rows, p.kv_rank, latent.stride},
                       .w = {.data = values, .out = p.v_dim, .in = p.kv_rank},
                       .y = {out.data + h * p.v_dim, rows, p.v_dim, out.stride}});
    }
    multiply(down_);
  });
}

void CudaOps::attend(const MlaAbsorbedParams& p, size_t first_row) {
  CHECK_LE(p.kv_rank, limits().kv_rank);
  CHECK_LE(p.rope_dim, limits().rope_dim);
  visible_.clear();
  query_tiles_.clear();
  blocks_.clear();
  uint32_t parts_of_all = 0;
  bool any_split = false;
  for (size_t r = 0, last = 0; r < p.rows.size(); r = last) {
    last = end_of_shared_blocks(p.rows, r, p.rows.size());
    const bool whole = whole_[first_row + r];
    any_split = any_split || !whole;
    std::span<const void* const> blocks;  // of the run's longest row
    for (size_t i = r; i < last; ++i) {
      if (p.rows[i].blocks.size() > blocks.size()) blocks = p.rows[i].blocks;
      visible_.push_back({.first_block = blocks_.size(),
                          .context_len = p.rows[i].context_len,
                          .first_part = parts_of_all,
                          .whole = whole});
      parts_of_all += static_cast<uint32_t>(num_parts(p.rows[i], whole));
    }
    blocks_.insert(blocks_.end(), blocks.begin(), blocks.end());
    add_query_tiles(p, {r, last}, whole);
  }
  const size_t heads = parts_of_all * p.num_heads;
  const Parts parts{.out = workspace_.take<float>(heads * p.kv_rank),
                    .maximum = workspace_.take<float>(heads),
                    .sum = workspace_.take<float>(heads)};
  const auto* blocks = runtime_.upload(std::span<const void* const>(blocks_));
  const auto* rows = runtime_.upload(std::span<const VisibleKv>(visible_));
  if (p.kv_dtype == DType::kBF16) {
    launch_attention<simt::Bf16>(p, blocks, rows, parts);
  } else {
    launch_attention<float>(p, blocks, rows, parts);
  }
  if (!any_split) return;
  runtime_.launch(MergeSplits{.rows = rows,
                              .parts = parts,
                              .num_heads = static_cast<unsigned>(p.num_heads),
                              .rank = static_cast<unsigned>(p.kv_rank),
                              .out = matrix(p.out)},
                  {static_cast<unsigned>(p.rows.size()), static_cast<unsigned>(p.num_heads)});
}

void CudaOps::add_query_tiles(const MlaAbsorbedParams& p, Range run, bool whole) {
  const size_t end = run.last * p.num_heads;
  for (size_t query = run.first * p.num_heads; query < end; query += kTileQueries) {
    const size_t num_queries = std::min(kTileQueries, end - query);
    uint32_t visible = 0;
    for (size_t r = query / p.num_heads; r * p.num_heads < query + num_queries; ++r) {
      visible = std::max(visible, p.rows[r].context_len);
    }
    const uint32_t step = whole ? visible : kSplit;
    for (uint32_t first = 0; first < visible; first += step) {
      query_tiles_.push_back({.first_query = static_cast<uint32_t>(query),
                              .num_queries = static_cast<uint32_t>(num_queries),
                              .first = first,
                              .end = std::min(first + step, visible)});
    }
  }
}

template <class Kv>
void CudaOps::launch_attention(const MlaAbsorbedParams& p, const void* const* blocks,
                               const VisibleKv* rows, const Parts& parts) {
  runtime_.launch(
      AttendSplit<Kv>{.q_latent = matrix(p.q_latent),
                      .q_rope = matrix(p.q_rope),
                      .rows = rows,
                      .blocks = blocks,
                      .tiles = runtime_.upload(std::span<const QueryTile>(query_tiles_)),
                      .num_heads = static_cast<unsigned>(p.num_heads),
                      .rank = static_cast<unsigned>(p.kv_rank),
                      .rope = static_cast<unsigned>(p.rope_dim),
                      .block_tokens = static_cast<unsigned>(p.block_tokens),
                      .scale = p.scale,
                      .parts = parts,
                      .out = matrix(p.out)},
      {static_cast<unsigned>(query_tiles_.size()), 1});
}

}  // namespace

void Runtime::copy_rows(Rows to, ConstRows from) {
  CHECK_EQ(to.rows, from.rows);
  CHECK_EQ(to.cols, from.cols);
  CopyRows kernel;
  kernel.from = matrix(from);
  kernel.to = matrix(to);
  kernel.cols = to.cols;
  launch(kernel, grid_of_elements(to.rows, to.cols));
}

void Runtime::move_rows(std::span<const float* const> from, std::span<void* const> to,
                        size_t cols) {
  launch_move_rows(*this, from, to, cols, DType::kF32);
}

Result<std::unique_ptr<Ops>> make_cuda_ops(Runtime& runtime, const CudaOptions& options) {
  void* workspace = TRY(runtime.allocate(options.workspace_bytes));
  return std::unique_ptr<Ops>(std::make_unique<CudaOps>(runtime, workspace, options));
}

}  // namespace troupe::kernels::cuda
