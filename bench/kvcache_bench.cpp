// Costs of the KV-cache holder's core, per event, by the number of cached blocks: blocks of 16
// tokens, prompts of 4,096. Time of the call alone; the prompt asked for is chosen at random and
// lies in the processor's cache, as it would after tokenizing; the tree is cold as far as it is
// large.
//
//   kvcache_bench --benchmark_repetitions=5
//
// Shapes: `apart`, prompts that differ from their first token; `shared`, prompts that have their
// first 2,048 tokens in common; `forked`, the worst one, in which every block of every prompt has a
// sibling, so that no node is longer than a block; `wide`, prompts of one block, all of them
// siblings; `requests`, by the number of prompts instead of blocks: all have their first 2,048
// tokens in common, and each has 512 more in common with nine others.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "base/random.hpp"
#include "kvcache/holder.hpp"

namespace troupe::kvcache {
namespace {

constexpr uint32_t kBlockTokens = 16, kPromptTokens = 4096;
constexpr uint32_t kPromptBlocks = kPromptTokens / kBlockTokens;
constexpr uint64_t kSeed = 7;

using Tokens = std::vector<TokenId>;
using Clock = std::chrono::steady_clock;

/// Times single calls: on a machine with other work, the mean of a call is mostly that work, the
/// median is not.
class Stopwatch {
 public:
  explicit Stopwatch(benchmark::State& state) : state_(state) {}
  ~Stopwatch() {
    if (us_.empty()) return;
    std::sort(us_.begin(), us_.end());
    state_.counters["p50_us"] = us_[us_.size() / 2];
    state_.counters["p90_us"] = us_[us_.size() * 9 / 10];
  }
  template <class Call>
  auto time(Call call) {
    const auto start = Clock::now();
    auto result = call();
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    state_.SetIterationTime(seconds);
    us_.push_back(seconds * 1e6);
    return result;
  }

 private:
  benchmark::State& state_;
  std::vector<double> us_;
};

Tokens random_tokens(uint64_t stream, size_t count) {
  Tokens tokens(count);
  for (size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<TokenId>(random_bits(kSeed, i, stream) % 100'000);
  }
  return tokens;
}

constexpr uint32_t kSystemTokens = kPromptTokens / 2, kFamilyTokens = 512, kFamily = 10;

/// Blocks that so many prompts of the shape `requests` take.
uint32_t blocks_of_requests(uint32_t num_prompts) {
  constexpr uint32_t kOwnTokens = kPromptTokens - kSystemTokens - kFamilyTokens;
  const uint32_t num_families = (num_prompts + kFamily - 1) / kFamily;
  return (kSystemTokens + num_families * kFamilyTokens + num_prompts * kOwnTokens) / kBlockTokens;
}

/// A holder that has cached so many blocks or slightly fewer, or so many prompts of the shape
/// `requests`, with room for one prompt more.
struct Cached {
  Cached(const std::string& shape, uint32_t size)
      : holder({.num_blocks =
                    (shape == "requests" ? blocks_of_requests(size) : size) + kPromptBlocks + 1,
                .num_host_slots = 0,
                .block_tokens = kBlockTokens}) {
    const Tokens system = random_tokens(UINT64_MAX, kSystemTokens);
    const auto is_full = [&] {
      if (shape == "requests") return prompts.size() == size;
      return !prompts.empty() && num_blocks() >= size - 2 * kPromptBlocks;
    };
    for (uint64_t stream = 0; !is_full(); ++stream) {
      Tokens prompt = random_tokens(stream, shape == "wide" ? kBlockTokens : kPromptTokens);
      if (shape == "shared" || shape == "requests") {
        std::copy(system.begin(), system.end(), prompt.begin());
      }
      if (shape == "requests") {
        const Tokens family = random_tokens(UINT64_MAX - 1 - stream / kFamily, kFamilyTokens);
        std::copy(family.begin(), family.end(), prompt.begin() + kSystemTokens);
      }
      run(prompt);
      for (size_t end = kBlockTokens; shape == "forked" && end <= prompt.size();
           end += kBlockTokens) {
        Tokens fork(prompt.begin(), prompt.begin() + static_cast<ptrdiff_t>(end));
        fork[end - kBlockTokens] += 100'000;
        run(fork);
      }
      prompts.push_back(std::move(prompt));
    }
  }

  void run(const Tokens& tokens) {
    const RequestId request{++last_request};
    const auto granted =
        holder.handle(Reserve{request, "", tokens, static_cast<uint32_t>(tokens.size())});
    CHECK(std::holds_alternative<Granted>(granted.at(0)));
    CHECK(holder.handle(Computed{request, 0, tokens}).empty());
    CHECK(holder.handle(Release{request}).empty());
  }
  /// A prompt that is cached, and one token more.
  Tokens question() {
    Tokens tokens = prompts[random_bits(kSeed, ++draws, 1) % prompts.size()];
    tokens.push_back(0);
    return tokens;
  }

  [[nodiscard]] uint32_t num_blocks() const { return holder.stats().cache.idle_blocks; }

  Holder holder;
  std::vector<Tokens> prompts;
  uint64_t last_request = 0, draws = 0;
};

/// One at a time: the largest takes some hundred megabytes.
Cached& cached(const std::string& shape, uint32_t size) {
  static std::unique_ptr<Cached> kept;
  static std::pair<std::string, uint32_t> key;
  if (!kept || key != std::pair(shape, size)) {
    kept.reset();
    kept = std::make_unique<Cached>(shape, size);
    key = {shape, size};
  }
  return *kept;
}

void match(benchmark::State& state, const std::string& shape, uint32_t size) {
  Cached& cache = cached(shape, size);
  state.counters["blocks"] = cache.num_blocks();
  Stopwatch stopwatch(state);
  for (auto _ : state) {
    const Tokens tokens = cache.question();
    const uint32_t found = stopwatch.time([&] { return cache.holder.match_len("", tokens); });
    CHECK_EQ(found, tokens.size() - 1);
  }
}

/// The events of one request are told, the one that is timed under the watch.
void tell(Holder& holder, const std::vector<HolderEvent>& events, size_t timed,
          Stopwatch& stopwatch) {
  for (size_t i = 0; i < events.size(); ++i) {
    const auto handle = [&] { return holder.handle(events[i]); };
    const auto effects = i == timed ? stopwatch.time(handle) : handle();
    CHECK_EQ(effects.size(), i == 0 ? size_t{1} : size_t{0});
  }
}

/// A request whose prompt is cached whole comes and goes.
void hit(benchmark::State& state, const std::string& shape, uint32_t size, size_t timed) {
  Cached& cache = cached(shape, size);
  Stopwatch stopwatch(state);
  for (auto _ : state) {
    const RequestId request{++cache.last_request};
    tell(cache.holder,
         {Reserve{request, "", cache.question(), kPromptTokens + 1}, Release{request}}, timed,
         stopwatch);
  }
  const HolderStats stats = cache.holder.stats();
  CHECK_GE(stats.hit_tokens_total, state.iterations() * uint64_t{kPromptTokens});
}

/// An unknown prompt takes 256 blocks from the least valuable ones, is computed and goes.
void miss(benchmark::State& state, uint32_t num_blocks, size_t timed) {
  Cached cache("apart", num_blocks);
  const uint64_t evicted = cache.holder.stats().cache.evicted_total;
  Stopwatch stopwatch(state);
  for (auto _ : state) {
    const Tokens prompt = random_tokens(1'000'000 + ++cache.draws, kPromptTokens);
    const RequestId request{++cache.last_request};
    tell(cache.holder,
         {Reserve{request, "", prompt, kPromptTokens}, Computed{request, 0, prompt},
          Release{request}},
         timed, stopwatch);
  }
  state.counters["evicted_per_request"] =
      static_cast<double>(cache.holder.stats().cache.evicted_total - evicted) /
      static_cast<double>(state.iterations());
}

/// One decoded token of a request with 4,096 tokens or more is published.
void decode(benchmark::State& state, uint32_t num_blocks) {
  Cached cache("apart", num_blocks);
  constexpr uint32_t kRoom = kPromptTokens + 1024;
  uint32_t position = kRoom;
  RequestId request;
  Stopwatch stopwatch(state);
  for (auto _ : state) {
    if (position == kRoom) {
      CHECK(cache.holder.handle(Release{request}).empty());
      request = RequestId{++cache.last_request};
      const Tokens prompt = random_tokens(2'000'000 + ++cache.draws, kPromptTokens);
      CHECK_EQ(cache.holder.handle(Reserve{request, "", prompt, kRoom}).size(), size_t{1});
      CHECK(cache.holder.handle(Computed{request, 0, prompt}).empty());
      position = kPromptTokens;
    }
    const HolderEvent computed = Computed{request, position, {static_cast<TokenId>(position)}};
    const auto nothing = stopwatch.time([&] { return cache.holder.handle(computed); });
    CHECK(nothing.empty());
    ++position;
  }
}

void add(const std::string& name, const std::function<void(benchmark::State&)>& run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Unit(benchmark::kMicrosecond);
}

void register_all() {
  static constexpr uint32_t kSizes[] = {1'000, 10'000, 100'000, 1'000'000};
  static constexpr uint32_t kPrompts[] = {10, 100, 1'000, 10'000};
  for (const char* shape : {"apart", "shared", "forked", "requests"}) {
    for (const uint32_t n : shape == std::string("requests") ? kPrompts : kSizes) {
      const std::string at = std::string("/") + shape + "/" + std::to_string(n);
      add("match" + at, [=](benchmark::State& state) { match(state, shape, n); });
      add("reserve_hit" + at, [=](benchmark::State& state) { hit(state, shape, n, 0); });
      add("release_hit" + at, [=](benchmark::State& state) { hit(state, shape, n, 1); });
    }
  }
  for (const uint32_t n : kSizes) {
    const std::string at = "/" + std::to_string(n);
    add("match/wide" + at, [=](benchmark::State& state) { match(state, "wide", n); });
    add("reserve_miss" + at, [=](benchmark::State& state) { miss(state, n, 0); });
    add("computed_miss" + at, [=](benchmark::State& state) { miss(state, n, 1); });
    add("release_miss" + at, [=](benchmark::State& state) { miss(state, n, 2); });
    add("computed_decode" + at, [=](benchmark::State& state) { decode(state, n); });
  }
}

}  // namespace
}  // namespace troupe::kvcache

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  troupe::kvcache::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
