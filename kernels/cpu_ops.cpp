#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/backend.hpp"
#include "kernels/kernel_set.hpp"
#include "kernels/shape_checks.hpp"
#include "kernels/thread_pool.hpp"

namespace troupe::kernels {
namespace {

// Sizes of parts. They decide speed only: every output element is computed by one call whose
// arithmetic does not depend on the part it is in.
/// Multiply-adds in a part of a product, at least: some 5 us, many times the cost of handing a part
/// out.
constexpr size_t kMultiplyAddsPerPart = 1U << 17U;
/// Weights in a part of a product, at most. The longer a piece of memory that one thread goes
/// through, the less it waits for the first bytes of the next: one row through experts of 4 bits
/// reads 15 to 20 % faster in such parts than in those of kMultiplyAddsPerPart.
constexpr size_t kWeightsPerPart = 1U << 20U;
/// Parts of an operation for each thread, at least, so that all end at about the same time.
constexpr size_t kPartsPerThread = 16;
/// A part of a product is a multiple of this many outputs: whole register tiles of every version.
constexpr size_t kOutputsGranule = 24;
/// The same of integer weights: whole blocks of the 8-bit rows that the outputs may become.
constexpr size_t kIntegerGranule = kPanelBlock;
static_assert(kIntegerGranule % kPanelRows == 0);
/// Elements in a part of an operation on rows.
constexpr size_t kElementsPerPart = 1U << 15U;
/// Heads that read a KV row together are so many, or a multiple of it: it is fetched once for them.
constexpr size_t kHeadsTogether = 4;
/// Queries (heads times rows) that do, if each thread gets a part. With 16 instead of 4 one row
/// takes half the time over 16,384 positions, V2-Lite, one thread.
constexpr size_t kQueriesTogether = 16;

constexpr size_t divide_up(size_t a, size_t b) { return (a + b - 1) / b; }

/// Memory for activations in 8 bits, as long as an operation lasts.
class QuantisedBuffers {
 public:
  QuantisedRows add(size_t rows, size_t cols) {
    const size_t elements = rows * cols;
    const size_t num_blocks = elements / kPanelBlock;
    values_.push_back(std::make_unique_for_overwrite<int8_t[]>(elements));
    scales_.push_back(std::make_unique_for_overwrite<float[]>(num_blocks));
    sums_.push_back(std::make_unique_for_overwrite<int32_t[]>(num_blocks));
    return {.values = values_.back().get(),
            .scales = scales_.back().get(),
            .sums = sums_.back().get(),
            .rows = rows,
            .cols = cols};
  }

 private:
  std::vector<std::unique_ptr<int8_t[]>> values_;
  std::vector<std::unique_ptr<float[]>> scales_;
  std::vector<std::unique_ptr<int32_t[]>> sums_;
};

class CpuOps final : public Ops {
 public:
  CpuOps(const KernelSet& kernels, ThreadPool* pool) : kernels_(kernels), pool_(pool) {}

  const char* arithmetic_class() const override { return "cpu-f32"; }
  const char* target() const override { return kernels_.target; }

  void embed(const EmbedParams& p) override {
    check_shapes(p);
    over_rows(p.out.rows, p.out.cols, [&](Range rows) { kernels_.embed(p, rows); });
  }

  void gemm(const GemmParams& p) override { gemm_many({&p, 1}); }

  void gemm_many(std::span<const GemmParams> products) override {
    for (const GemmParams& p : products) check_shapes(p);
    QuantisedBuffers buffers;
    std::vector<QuantisedRows> quantised(products.size());
    quantise_inputs(products, buffers, quantised);
    run_products(products, quantised);
  }

  void rms_norm(const RmsNormParams& p) override {
    check_shapes(p);
    over_rows(p.x.rows, p.x.cols, [&](Range rows) { kernels_.rms_norm(p, rows); });
  }

  void rope(const RopeParams& p) override {
    check_shapes(p);
    over_rows(p.x.rows, p.num_heads * p.dim, [&](Range rows) { kernels_.rope(p, rows); });
  }

  void silu_mul(const SiluMulParams& p) override {
    check_shapes(p);
    over_rows(p.gate.rows, p.gate.cols, [&](Range rows) { kernels_.silu_mul(p, rows); });
  }

  void add(const AddParams& p) override {
    check_shapes(p);
    over_rows(p.x.rows, p.x.cols, [&](Range rows) { kernels_.add(p, rows); });
  }

  void topk_gate(const TopkGateParams& p) override {
    check_shapes(p);
    over_rows(p.logits.rows, p.logits.cols * (1 + p.topk),
              [&](Range rows) { kernels_.topk_gate(p, rows); });
  }

  void store_kv(const StoreKvParams& p) override {
    check_shapes(p);
    over_rows(p.x.rows, p.x.cols, [&](Range rows) { kernels_.store_kv(p, rows); });
  }

  void mla_absorbed(const MlaAbsorbedParams& p) override {
    check_shapes(p);
    const std::vector<Range> runs = runs_over_same_blocks(p.rows, kRowsTogether);
    const size_t heads_per_thread = p.num_heads * runs.size() / num_threads();
    std::vector<std::pair<Range, Range>> parts;  // rows and heads
    for (const Range& rows : runs) {
      const size_t most = std::min(heads_per_thread, kQueriesTogether / rows.size());
      const size_t step = std::max<size_t>(1, most / kHeadsTogether) * kHeadsTogether;
      for (size_t head = 0; head < p.num_heads; head += step) {
        parts.push_back({rows, {head, std::min(head + step, p.num_heads)}});
      }
    }
    run(parts.size(), [&](size_t i) { kernels_.mla_absorbed(p, parts[i].first, parts[i].second); });
  }

  void mla_expanded(const MlaExpandedParams& p) override {
    check_shapes(p);
    // One head and all rows over the same blocks per part: they share its expanded keys and values.
    const std::vector<Range> runs = runs_over_same_blocks(p.rows, p.rows.size());
    run(runs.size() * p.num_heads, [&](size_t i) {
      const size_t head = i % p.num_heads;
      kernels_.mla_expanded(p, runs[i / p.num_heads], {head, head + 1});
    });
  }

  void grouped_ffn(std::span<const FfnParams> experts) override {
    size_t inner_elements = 0;
    for (const FfnParams& p : experts) {
      check_shapes(p);
      inner_elements += p.y.rows * p.gate.out;
    }
    const auto gate_buffer = std::make_unique_for_overwrite<float[]>(inner_elements);
    const auto up_buffer = std::make_unique_for_overwrite<float[]>(inner_elements);
    QuantisedBuffers buffers;

    const GatheredRows gathered = gather_rows(experts);
    std::vector<GemmParams> gate_up;  // two of each expert
    std::vector<GemmParams> down;
    // What `down` reads, in 8 bits: made in parts where its columns are in order, else at once.
    std::vector<QuantisedRows> inner;
    std::vector<Part> parts;
    size_t num_weights = 0;
    for (const FfnParams& p : experts) num_weights += 2 * p.gate.out * p.gate.in;
    size_t at = 0;
    for (size_t i = 0; i < experts.size(); ++i) {
      const FfnParams& p = experts[i];
      const Rows gate_out(gate_buffer.get() + at, p.y.rows, p.gate.out);
      const Rows up_out(up_buffer.get() + at, p.y.rows, p.gate.out);
      at += p.y.rows * p.gate.out;
      add_parts({.item = down.size(),
                 .outputs = p.gate.out,
                 .weights_per_output = 2 * p.gate.in,
                 .rows = p.y.rows,
                 .granule = granule_of(p)},
                num_weights, parts);
      const ConstRows x = gathered.rows[i].data == nullptr ? p.x : gathered.rows[i];
      gate_up.push_back({.x = x, .w = p.gate, .y = gate_out});
      gate_up.push_back({.x = x, .w = p.up, .y = up_out});
      down.push_back({.x = gate_out, .w = p.down, .y = p.y});
      const bool in_parts = is_integer(p.down.dtype) && p.down.columns == nullptr;
      inner.push_back(in_parts ? buffers.add(p.y.rows, p.gate.out) : QuantisedRows());
    }
    std::vector<QuantisedRows> quantised(gate_up.size());
    quantise_inputs(gate_up, buffers, quantised);
    run(parts.size(), [&](size_t i) {
      const size_t item = parts[i].item;
      const Range outputs = parts[i].outputs;
      const GemmParams& g = gate_up[2 * item];
      const GemmParams& u = gate_up[2 * item + 1];
      const uint32_t* x_rows = gathered.rows[item].data == nullptr ? experts[item].x_rows : nullptr;
      product(g, quantised[2 * item], outputs, x_rows);
      product(u, quantised[2 * item + 1], outputs, x_rows);
      const Rows g_part(g.y.data + outputs.first, g.y.rows, outputs.size(), g.y.stride);
      const Rows u_part(u.y.data + outputs.first, u.y.rows, outputs.size(), u.y.stride);
      const Range rows{0, g.y.rows};
      kernels_.silu_mul({.gate = g_part, .up = u_part, .out = g_part}, rows);
      if (inner[item].values != nullptr) {
        kernels_.quantise({.x = g_part, .out = inner[item], .first_col = outputs.first}, rows);
      }
    });
    quantise_inputs(down, buffers, inner);
    run_products(down, inner);
  }

  void combine(const CombineParams& p) override {
    check_shapes(p);
    over_rows(p.residual.rows, p.residual.cols * (1 + p.topk),
              [&](Range rows) { kernels_.combine(p, rows); });
  }

 private:
  /// Outputs of one product of several.
  struct Part {
    size_t item = 0;
    Range outputs;
  };

  struct WholeProduct {
    size_t item = 0;
    size_t outputs = 0;
    size_t weights_per_output = 0;
    size_t rows = 0;
    size_t granule = 1;
  };

  /// Cuts the outputs of a product into parts; nothing where there is nothing to compute.
  /// @param num_weights of all products of the operation
  void add_parts(const WholeProduct& whole, size_t num_weights, std::vector<Part>& parts) const {
    if (whole.weights_per_output == 0 || whole.rows == 0) return;
    const size_t least = divide_up(kMultiplyAddsPerPart, whole.rows);
    const size_t share = num_weights / (num_threads() * kPartsPerThread);
    const size_t weights = std::max(least, std::min(share, kWeightsPerPart));
    const size_t step =
        divide_up(divide_up(weights, whole.weights_per_output), whole.granule) * whole.granule;
    for (size_t first = 0; first < whole.outputs; first += step) {
      parts.push_back({whole.item, {first, std::min(first + step, whole.outputs)}});
    }
  }

  /// Neighbouring rows over the same blocks, at most `most` together.
  static std::vector<Range> runs_over_same_blocks(std::span<const AttentionRow> rows, size_t most) {
    std::vector<Range> runs;
    for (size_t r = 0; r < rows.size(); r = runs.back().last) {
      runs.push_back({r, end_of_shared_blocks(rows, r, std::min(rows.size(), r + most))});
    }
    return runs;
  }

  struct GatheredRows {
    std::unique_ptr<float[]> elements;
    std::vector<ConstRows> rows;  ///< [experts], nothing of those that need no copies
  };

  /// Copies of the rows of experts that cannot read them by x_rows: only products of 8-bit rows in
  /// the common order of columns do.
  GatheredRows gather_rows(std::span<const FfnParams> experts) {
    const auto wants_copies = [](const FfnParams& p) {
      const auto by_number = [](const WeightView& w) {
        return is_integer(w.dtype) && w.columns == nullptr;
      };
      return p.x_rows != nullptr && !(by_number(p.gate) && by_number(p.up));
    };
    GatheredRows gathered;
    gathered.rows.resize(experts.size());
    struct Copy {
      const float* from;
      float* to;
      size_t cols;
    };
    std::vector<Copy> copies;
    size_t num_elements = 0, widest = 0;
    for (const FfnParams& p : experts) {
      if (!wants_copies(p)) continue;
      num_elements += p.y.rows * p.x.cols;
      widest = std::max(widest, p.x.cols);
    }
    if (widest == 0) return gathered;
    gathered.elements = std::make_unique_for_overwrite<float[]>(num_elements);
    float* to = gathered.elements.get();
    for (size_t i = 0; i < experts.size(); ++i) {
      const FfnParams& p = experts[i];
      if (!wants_copies(p)) continue;
      gathered.rows[i] = ConstRows(to, p.y.rows, p.x.cols);
      for (size_t r = 0; r < p.y.rows; ++r, to += p.x.cols) {
        copies.push_back({p.x.row(p.x_rows[r]), to, p.x.cols});
      }
    }
    over_rows(copies.size(), widest, [&](Range rows) {
      for (size_t r = rows.first; r < rows.last; ++r) {
        std::copy_n(copies[r].from, copies[r].cols, copies[r].to);
      }
    });
    return gathered;
  }

  static size_t granule_of(const WeightView& w) {
    return is_integer(w.dtype) ? kIntegerGranule : kOutputsGranule;
  }
  /// Of gate and up, whose outputs may become 8-bit rows in parts.
  static size_t granule_of(const FfnParams& p) {
    const size_t granule = std::max(granule_of(p.gate), granule_of(p.up));
    return is_integer(p.down.dtype) ? std::lcm(granule, kIntegerGranule) : granule;
  }

  /// What products with integer weights read, in 8 bits, but for those that have it already;
  /// neighbours that read the same share it.
  void quantise_inputs(std::span<const GemmParams> products, QuantisedBuffers& buffers,
                       std::vector<QuantisedRows>& quantised) {
    for (size_t i = 0; i < products.size(); ++i) {
      const ConstRows& x = products[i].x;
      const WeightView& w = products[i].w;
      if (!is_integer(w.dtype) || x.rows == 0 || quantised[i].values != nullptr) continue;
      if (i > 0 && quantised[i - 1].values != nullptr && x == products[i - 1].x &&
          w.columns == products[i - 1].w.columns) {
        quantised[i] = quantised[i - 1];
        continue;
      }
      quantised[i] = buffers.add(x.rows, x.cols);
      over_rows(x.rows, x.cols, [&](Range rows) {
        if (w.columns == nullptr) {
          kernels_.quantise({.x = x, .out = quantised[i]}, rows);
        } else {
          quantise_in_order(x, w.columns, quantised[i], rows);
        }
      });
    }
  }

  /// Each row in an order of columns.
  void quantise_in_order(const ConstRows& x, const uint32_t* columns, const QuantisedRows& out,
                         Range rows) {
    const auto ordered = std::make_unique_for_overwrite<float[]>(x.cols);
    const ConstRows every_row(ordered.get(), x.rows, x.cols, /*stride_in=*/0);
    for (size_t r = rows.first; r < rows.last; ++r) {
      const float* row = x.row(r);
      for (size_t i = 0; i < x.cols; ++i) ordered[i] = row[columns[i]];
      kernels_.quantise({.x = every_row, .out = out}, {r, r + 1});
    }
  }

  void product(const GemmParams& p, const QuantisedRows& quantised, Range outputs,
               const uint32_t* x_rows = nullptr) {
    if (is_integer(p.w.dtype)) {
      kernels_.quantised_gemm(
          {.x = quantised, .x_rows = x_rows, .w = p.w, .bias = p.bias, .y = p.y}, outputs);
    } else {
      kernels_.gemm(p, outputs);
    }
  }

  /// @param quantised by product: what quantise_inputs() gives
  void run_products(std::span<const GemmParams> products,
                    std::span<const QuantisedRows> quantised) {
    std::vector<Part> parts;
    size_t num_weights = 0;
    for (const GemmParams& p : products) num_weights += p.w.out * p.w.in;
    for (size_t i = 0; i < products.size(); ++i) {
      const GemmParams& p = products[i];
      add_parts({.item = i,
                 .outputs = p.w.out,
                 .weights_per_output = p.w.in,
                 .rows = p.x.rows,
                 .granule = granule_of(p.w)},
                num_weights, parts);
    }
    run(parts.size(), [&](size_t i) {
      product(products[parts[i].item], quantised[parts[i].item], parts[i].outputs);
    });
  }

  template <class F>
  void over_rows(size_t rows, size_t elements_per_row, const F& part) {
    const size_t step =
        std::max<size_t>(1, kElementsPerPart / std::max<size_t>(1, elements_per_row));
    run(divide_up(rows, step), [&](size_t i) {
      part(Range{i * step, std::min((i + 1) * step, rows)});
    });
  }

  [[nodiscard]] size_t num_threads() const { return pool_ == nullptr ? 1 : pool_->num_threads(); }

  template <class F>
  void run(size_t num_parts, const F& part) {
    if (pool_ == nullptr || num_parts == 1) {
      for (size_t i = 0; i < num_parts; ++i) part(i);
    } else {
      pool_->parallel_for(num_parts, part);
    }
  }

  const KernelSet& kernels_;
  ThreadPool* pool_;
};

}  // namespace

std::unique_ptr<Ops> make_scalar_ops() {
  return std::make_unique<CpuOps>(scalar_kernels(), nullptr);
}

std::unique_ptr<Ops> make_cpu_ops(ThreadPool* pool) {
  return make_cpu_ops(pool, *cpu_kernels().front());
}

std::unique_ptr<Ops> make_cpu_ops(ThreadPool* pool, const KernelSet& kernels) {
  return std::make_unique<CpuOps>(kernels, pool);
}

}  // namespace troupe::kernels
