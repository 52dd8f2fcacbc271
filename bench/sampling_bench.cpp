// What a row of logits costs to sample, at the vocabulary of V2-Lite: model/sampling.hpp.
// Results: bench/results/cpu.md.

#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "model/sampling.hpp"

namespace {

using troupe::TokenId;
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

/// Each as likely as any other: of 16,384 some 15,100 are distinct, more than of a text.
std::vector<TokenId> tokens_of(uint64_t seed, size_t count) {
  std::vector<TokenId> tokens(count);
  for (size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<TokenId>(troupe::random_bits(seed, i) % kVocab);
  }
  return tokens;
}

void sample_behind(benchmark::State& state, SamplingParams params, size_t num_prompt) {
  const std::vector<float> logits = logits_of(/*peaked=*/true);
  const std::vector<TokenId> prompt = tokens_of(2, num_prompt);
  const std::vector<TokenId> emitted = tokens_of(3, 256);
  troupe::model::TokenHistory history(params, {.prompt = prompt, .emitted = emitted});
  uint64_t position = num_prompt + emitted.size();
  for (auto _ : state) {
    benchmark::DoNotOptimize(troupe::model::sample(logits, params, position++, history));
    history.append(emitted[position % emitted.size()]);
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
      {"temperature 0.7, min-p 0.05", {.temperature = 0.7F, .min_p = 0.05F}}};
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
  const std::pair<const char*, SamplingParams> penalties[] = {
      {"greedy, presence penalty", {.temperature = 0, .presence_penalty = 0.5F}},
      {"greedy, repetition penalty", {.temperature = 0, .repetition_penalty = 1.1F}}};
  for (const auto& [name, params] : penalties) {
    for (const size_t num_prompt : {64, 16'384}) {
      const std::string behind = ", prompt of " + std::to_string(num_prompt);
      benchmark::RegisterBenchmark((name + behind).c_str(), sample_behind, params, num_prompt)
          ->Unit(benchmark::kMicrosecond);
    }
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
