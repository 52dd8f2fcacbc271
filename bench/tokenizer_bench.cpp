// Speed of the tokenizer on a mix of English, Chinese and code, per core.
//
//   tokenizer_bench --tokenizer=DIRECTORY --text=FILE
//
// Without arguments: the golden tokenizer of the V3 kind on the golden strings, joined in lines. A
// released tokenizer has a vocabulary of 128,000 and cuts less finely; measure it with its
// directory.

#include <benchmark/benchmark.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "model/text_stream.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// The strings of the first three kinds (English, Chinese, code) of tests/golden's strings.bin.
std::string golden_mix() {
  const std::string bytes = read_file(TROUPE_SOURCE_DIR "/tests/golden/tokenizers/strings.bin");
  size_t at = 0;
  const auto varint = [&] {
    size_t value = 0;
    for (int shift = 0; at < bytes.size(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes[at++]);
      value |= static_cast<size_t>(byte & 0x7F) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  std::string mix;
  for (size_t left = varint(); left > 0; --left) {
    const size_t kind = varint();
    const size_t num_bytes = varint();
    if (kind < 3) mix += bytes.substr(at, num_bytes) + "\n";
    at += num_bytes;
  }
  return mix;
}

int run(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string directory = TROUPE_SOURCE_DIR "/tests/golden/tokenizers/v3";
  std::string text;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("--tokenizer=")) {
      directory = argument.substr(12);
    } else if (argument.starts_with("--text=")) {
      text = read_file(argument.substr(7));
    } else {
      std::fprintf(stderr, "unknown argument %s\n", argv[i]);
      return 2;
    }
  }
  if (text.empty()) text = golden_mix();
  const auto tokenizer = Tokenizer::load(directory);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
    return 1;
  }
  const auto tokens = tokenizer->encode(text);
  if (!tokens.ok()) {
    std::fprintf(stderr, "%s\n", tokens.error().message.c_str());
    return 1;
  }
  std::printf("%zu bytes, %zu tokens\n", text.size(), tokens->size());
  const auto count_bytes = [&](benchmark::State& state, size_t num_bytes) {
    state.SetBytesProcessed(static_cast<int64_t>(num_bytes) *
                            static_cast<int64_t>(state.iterations()));
  };
  benchmark::RegisterBenchmark("load", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(Tokenizer::load(directory));
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("encode", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(text));
    count_bytes(state, text.size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("encode/megabyte_of_spaces", [&](benchmark::State& state) {
    const std::string spaces(size_t{1} << 20, ' ');
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(spaces));
    count_bytes(state, spaces.size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("encode/megabyte_word", [&](benchmark::State& state) {
    const std::string word(size_t{1} << 20, 'a');
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer->encode(word));
    count_bytes(state, word.size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("decode", [&](benchmark::State& state) {
    for (auto _ : state) benchmark::DoNotOptimize(tokenizer->decode(*tokens));
    count_bytes(state, text.size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark("decode/streaming_with_stops", [&](benchmark::State& state) {
    for (auto _ : state) {
      auto stream = TextStream::create(*tokenizer, {.stop = {"\n\n\n\n", "<stop>"}});
      for (const TokenId token : *tokens) benchmark::DoNotOptimize(stream->push(token));
    }
    count_bytes(state, text.size());
  })->Unit(benchmark::kMillisecond);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace troupe::model

int main(int argc, char** argv) { return troupe::model::run(argc, argv); }
