// Speed of the CPU kernels at the layer shapes of DeepSeek-V2-Lite: hidden 2048, expert inner 1408,
// head 102400, 16 heads, latent 512, rope 64.
//
// GB/s counts the bytes an operation must read once (weights, KV rows); GFLOP/s counts a
// multiply-add as two. TROUPE_BENCH_THREADS sets the number of threads (1 if unset). Weights rotate
// through copies larger than the last-level cache, so that M = 1 reads memory as decoding does.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "base/random.hpp"
#include "kernels/backend.hpp"

namespace troupe::kernels {
namespace {

constexpr size_t kBytesBeyondCache = 256U << 20U;

/// The pool and the operations under test, one for the whole run.
struct Machine {
  ThreadPool pool;
  std::unique_ptr<Ops> ops;

  Machine() : pool(num_threads()), ops(make_cpu_ops(&pool)) {}

  static size_t num_threads() {
    const char* text = std::getenv("TROUPE_BENCH_THREADS");
    return text == nullptr ? 1 : std::max(1, std::atoi(text));
  }
};

Machine& machine() {
  static Machine instance;
  return instance;
}

std::vector<float> values(size_t n) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<float>(random_uniform(1, i % 4096)) - 0.5F;
  return out;
}

/// Copies of one weight matrix; every element is small and finite in all types.
class Weights {
 public:
  Weights(DType dtype, size_t out, size_t in)
      : view_{.data = nullptr, .dtype = dtype, .out = out, .in = in},
        num_copies_(std::max<size_t>(1, kBytesBeyondCache / view_.size_bytes())),
        bytes_(view_.size_bytes() * num_copies_, std::byte{0x31}) {
    if (dtype == DType::kF8E4M3) {
      scales_.assign((out + 127) / 128 * ((in + 127) / 128), 0.01F);
      view_.scales = scales_.data();
    }
  }
  WeightView next() {
    WeightView view = view_;
    view.data = bytes_.data() + view_.size_bytes() * (turn_++ % num_copies_);
    return view;
  }

 private:
  WeightView view_;
  size_t num_copies_;
  std::vector<std::byte> bytes_;
  std::vector<float> scales_;
  size_t turn_ = 0;
};

void report(benchmark::State& state, double bytes, double flops) {
  const auto rate = [&](double amount) {
    return benchmark::Counter(amount * 1e-9 * static_cast<double>(state.iterations()),
                              benchmark::Counter::kIsRate);
  };
  state.counters["GB/s"] = rate(bytes);
  state.counters["GFLOP/s"] = rate(flops);
}

void gemm(benchmark::State& state, DType dtype, size_t out, size_t in) {
  const auto rows = static_cast<size_t>(state.range(0));
  Weights weights(dtype, out, in);
  const std::vector<float> x = values(rows * in);
  std::vector<float> y(rows * out);
  WeightView last;
  for (auto _ : state) {
    last = weights.next();
    machine().ops->gemm({.x = {x.data(), rows, in}, .w = last, .y = {y.data(), rows, out}});
  }
  report(state, static_cast<double>(last.size_bytes()), 2.0 * static_cast<double>(rows * out * in));
}

constexpr size_t kHeads = 16, kRank = 512, kRope = 64, kNope = 128, kV = 128, kBlock = 16;

/// `rows` rows at the end of a context of `context` positions.
struct Context {
  std::vector<float> kv;
  std::vector<const float*> blocks;
  std::vector<AttentionRow> rows;

  Context(size_t num_rows, size_t context) : kv(values((context + kBlock) * (kRank + kRope))) {
    for (size_t t = 0; t < context; t += kBlock) blocks.push_back(&kv[t * (kRank + kRope)]);
    for (size_t r = 0; r < num_rows; ++r) {
      rows.push_back({blocks, static_cast<uint32_t>(context - num_rows + 1 + r)});
    }
  }
};

void absorbed(benchmark::State& state) {
  const auto rows = static_cast<size_t>(state.range(0));
  const auto context = static_cast<size_t>(state.range(1));
  const Context c(rows, context);
  const std::vector<float> q = values(rows * kHeads * (kRank + kRope));
  std::vector<float> out(rows * kHeads * kRank);
  for (auto _ : state) {
    machine().ops->mla_absorbed({.q_latent = {q.data(), rows, kHeads * kRank},
                                 .q_rope = {q.data() + rows * kHeads * kRank, rows, kHeads * kRope},
                                 .rows = c.rows,
                                 .block_tokens = kBlock,
                                 .num_heads = kHeads,
                                 .kv_rank = kRank,
                                 .rope_dim = kRope,
                                 .scale = 0.1F,
                                 .out = {out.data(), rows, kHeads * kRank}});
  }
  const auto row_positions = static_cast<double>(rows * context - rows * (rows - 1) / 2);
  report(state, static_cast<double>(context * (kRank + kRope) * 4),
         2.0 * kHeads * (kRank + kRope + kRank) * row_positions);
}

void expanded(benchmark::State& state) {
  const auto rows = static_cast<size_t>(state.range(0));
  const auto context = static_cast<size_t>(state.range(1));
  const Context c(rows, context);
  const std::vector<float> q = values(rows * kHeads * (kNope + kRope));
  const std::vector<float> kv_b = values(kHeads * (kNope + kV) * kRank);
  std::vector<float> out(rows * kHeads * kV);
  for (auto _ : state) {
    machine().ops->mla_expanded({.q = {q.data(), rows, kHeads * (kNope + kRope)},
                                 .kv_b = kv_b.data(),
                                 .rows = c.rows,
                                 .block_tokens = kBlock,
                                 .num_heads = kHeads,
                                 .kv_rank = kRank,
                                 .nope_dim = kNope,
                                 .rope_dim = kRope,
                                 .v_dim = kV,
                                 .scale = 0.1F,
                                 .out = {out.data(), rows, kHeads * kV}});
  }
  const auto row_positions = static_cast<double>(rows * context - rows * (rows - 1) / 2);
  report(state, static_cast<double>(context * (kRank + kRope) * 4),
         2.0 * kHeads *
             ((kNope + kRope + kV) * row_positions +
              (kNope + kV) * kRank * static_cast<double>(context)));
}

/// Six experts with `rows` rows each, as one decoded token meets them in one layer.
void ffn(benchmark::State& state, DType dtype) {
  constexpr size_t kExperts = 6, kHidden = 2048, kInner = 1408;
  const auto rows = static_cast<size_t>(state.range(0));
  Weights weights(dtype, kInner, kHidden);
  const std::vector<float> x = values(rows * kHidden);
  std::vector<float> y(kExperts * rows * kHidden);
  std::vector<FfnParams> experts(kExperts);
  for (auto _ : state) {
    for (size_t e = 0; e < kExperts; ++e) {
      const WeightView gate = weights.next();
      const WeightView up = weights.next();
      WeightView down = weights.next();
      std::swap(down.out, down.in);  // both dimensions are multiples of the scale block
      experts[e] = {.x = {x.data(), rows, kHidden},
                    .gate = gate,
                    .up = up,
                    .down = down,
                    .y = {y.data() + e * rows * kHidden, rows, kHidden}};
    }
    machine().ops->grouped_ffn(experts);
  }
  const double elements = 3.0 * kExperts * kHidden * kInner;
  report(state, elements * static_cast<double>(size_of(dtype)),
         2.0 * elements * static_cast<double>(rows));
}

constexpr auto kUnit = benchmark::kMicrosecond;

BENCHMARK_CAPTURE(gemm, expert_up_f32, DType::kF32, 1408, 2048)
    ->Arg(1)
    ->Arg(16)
    ->Arg(512)
    ->Unit(kUnit)
    ->UseRealTime();
BENCHMARK_CAPTURE(gemm, expert_up_bf16, DType::kBF16, 1408, 2048)
    ->Arg(1)
    ->Arg(2)
    ->Arg(4)
    ->Arg(16)
    ->Arg(512)
    ->Unit(kUnit)
    ->UseRealTime();
BENCHMARK_CAPTURE(gemm, expert_up_f16, DType::kF16, 1408, 2048)
    ->Arg(1)
    ->Arg(16)
    ->Arg(512)
    ->Unit(kUnit)
    ->UseRealTime();
BENCHMARK_CAPTURE(gemm, expert_up_f8, DType::kF8E4M3, 1408, 2048)
    ->Arg(1)
    ->Arg(16)
    ->Arg(512)
    ->Unit(kUnit)
    ->UseRealTime();
BENCHMARK_CAPTURE(gemm, head_bf16, DType::kBF16, 102400, 2048)
    ->Arg(1)
    ->Arg(16)
    ->Unit(kUnit)
    ->UseRealTime();
BENCHMARK_CAPTURE(ffn, six_experts_bf16, DType::kBF16)
    ->Arg(1)
    ->Arg(2)
    ->Arg(16)
    ->Unit(kUnit)
    ->UseRealTime();
BENCHMARK_CAPTURE(ffn, six_experts_f8, DType::kF8E4M3)->Arg(1)->Unit(kUnit)->UseRealTime();
BENCHMARK(absorbed)->Args({1, 128})->Args({1, 2048})->Args({64, 2048})->Unit(kUnit)->UseRealTime();
BENCHMARK(expanded)
    ->Args({64, 128})
    ->Args({64, 2048})
    ->Args({512, 2048})
    ->Unit(kUnit)
    ->UseRealTime();

}  // namespace
}  // namespace troupe::kernels

BENCHMARK_MAIN();
