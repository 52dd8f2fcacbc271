// What a row of logits costs to sample, at the vocabulary of V2-Lite: model/sampling.hpp.
// Results: bench/results/cpu.md.

#include <benchmark/benchmark.h>

#include <cmath>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "model/sampling.hpp"

namespace {

using troupe::model::SamplingParams;

constexpr size_t kVocab = 102'400;

/// Logits in -4 .. 4; if peaked, twenty of them share 0.99 of the probability as ranks of a text
/// do.
std::vector<float> logits_of(bool peaked) {
  std::vector<float> logits(kVocab);
  for (size_t i = 0; i < kVocab; ++i) {
    logits[i] = static_cast<float>(troupe::random_uniform(1, i)) * 8 - 4;
  }
  for (size_t rank = 0; peaked && rank < 20; ++rank) {
    logits[(rank * 48'271 + 7) % kVocab] = 18 - 1.5F * std::log(static_cast<float>(rank + 1));
  }
  return logits;
}

void sample(benchmark::State& state, SamplingParams params, bool peaked, bool with_mask) {
  const std::vector<float> logits = logits_of(peaked);
  const std::vector<uint64_t> mask(with_mask ? kVocab / 64 : 0, ~uint64_t{0} - 1);
  uint64_t position = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(troupe::model::sample(logits, params, position++, {}, mask));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::pair<const char*, SamplingParams> cases[] = {
      {"greedy", {.temperature = 0}},
      {"greedy, 5 logprobs", {.temperature = 0, .want_logprobs = true, .num_top_logprobs = 5}},
      {"temperature 1", {}},
      {"temperature 0.7, top-p 0.95", {.temperature = 0.7F, .top_p = 0.95F}},
      {"temperature 0.7, top-k 50", {.temperature = 0.7F, .top_k = 50}},
      {"temperature 0.7, min-p 0.05", {.temperature = 0.7F, .min_p = 0.05F}},
      {"temperature 1, presence penalty", {.presence_penalty = 0.5F}}};
  for (const auto& [name, params] : cases) {
    for (const bool peaked : {true, false}) {
      benchmark::RegisterBenchmark((std::string(name) + (peaked ? ", peaked" : ", flat")).c_str(),
                                   sample, params, peaked, /*with_mask=*/false)
          ->Unit(benchmark::kMicrosecond);
    }
  }
  for (const float temperature : {0.0F, 1.0F}) {
    const std::string name = temperature == 0 ? "greedy" : "temperature 1";
    benchmark::RegisterBenchmark((name + ", a mask of nearly all").c_str(), sample,
                                 SamplingParams{.temperature = temperature}, /*peaked=*/true,
                                 /*with_mask=*/true)
        ->Unit(benchmark::kMicrosecond);
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
