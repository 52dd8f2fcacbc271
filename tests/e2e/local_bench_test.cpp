// `troupe bench local` and `troupe bench kernels` as a user runs them: what they count and print,
// never how fast anything was.

#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>

#include "kernels/cpu_claims.hpp"
#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

namespace json = boost::json;

/// Runs a bench with JSON results in a file; reads them.
json::array results_of(std::vector<std::string> arguments) {
  const Scratch scratch;
  const std::string path = (scratch / "results.json").string();
  arguments.insert(arguments.begin(), "bench");
  arguments.insert(arguments.end(), {"-o", "json", "--output", path});
  const Finished bench = troupe(std::move(arguments));
  EXPECT_EQ(bench.code, 0) << bench.output;
  return bench.code == 0 ? json::parse(read_file(path)).as_array() : json::array();
}

double number(const json::value& row, const char* name) { return row.at(name).to_number<double>(); }

TEST(BenchLocal, MakesARowForEveryCombination) {
  const json::array rows = results_of({"local", "--model", kDemo, "-p", "8,20", "-n", "3", "-d",
                                       "0,40", "-b", "1,3", "-r", "2", "--threads", "1"});
  std::vector<std::string> tests;
  for (const json::value& row : rows) tests.emplace_back(row.at("test").as_string());
  EXPECT_EQ(tests, (std::vector<std::string>{"pp8", "pp20", "tg3", "tg3 b3", "pp8 @ d40",
                                             "pp20 @ d40", "tg3 @ d40", "tg3 b3 @ d40"}));
  for (const json::value& row : rows) {
    EXPECT_EQ(row.at("model_type"), "demo");
    EXPECT_EQ(row.at("format"), "BF16");
    EXPECT_EQ(row.at("kv_dtype"), "F32");
    EXPECT_EQ(row.at("n_threads"), 1);
    ASSERT_EQ(row.at("samples_ts").as_array().size(), 2U);
    const double a = row.at("samples_ts").at(0).to_number<double>();
    const double b = row.at("samples_ts").at(1).to_number<double>();
    EXPECT_GT(std::min(a, b), 0);
    EXPECT_NEAR(number(row, "avg_ts"), (a + b) / 2, 1e-6 * a);
    EXPECT_NEAR(number(row, "stddev_ts"), std::abs(a - b) / std::sqrt(2.0), 1e-6 * (a + b));
    EXPECT_GT(number(row, "machine_read_bytes_per_s"), 0);
    EXPECT_GT(number(row, "peak_fraction"), 0);
    // The same multiply-adds, all in float32, at two rates.
    EXPECT_NEAR(
        number(row, "peak_fraction") * number(row, "machine_peak_float_multiply_adds_per_s"),
        number(row, "product_fraction") * number(row, "machine_product_float_multiply_adds_per_s"),
        1e-6 * number(row, "machine_peak_float_multiply_adds_per_s"));
  }
}

/// Records of fields, as RFC 4180 has them.
std::vector<std::vector<std::string>> records_of_csv(const std::string& text) {
  std::vector<std::vector<std::string>> records(1, {""});
  bool quoted = false;
  for (size_t at = 0; at < text.size(); ++at) {
    std::string& field = records.back().back();
    if (text[at] == '"') {
      if (quoted && text.substr(at + 1, 1) == "\"") {
        field += text[++at];
      } else {
        quoted = !quoted;
      }
    } else if (quoted || (text[at] != ',' && text[at] != '\r')) {
      field += text[at];
    } else if (text[at] == ',') {
      records.back().emplace_back();
    } else {
      EXPECT_EQ(text.substr(at++, 2), "\r\n");
      if (at + 1 < text.size()) records.push_back({""});
    }
  }
  EXPECT_FALSE(quoted);
  return records;
}

/// The names in JSON and CSV that docs/benchmarking.md has in its table of `bench local`.
std::set<std::string> documented_names() {
  const std::string docs = read_file(std::string(TROUPE_SOURCE_DIR) + "/docs/benchmarking.md");
  const size_t begin = docs.find("\n## A model in one process\n");
  EXPECT_NE(begin, std::string::npos);
  std::istringstream lines(docs.substr(begin, docs.find("\n## ", begin + 1) - begin));
  const std::regex name("`(\\w+)`");
  std::set<std::string> names;
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("| ")) continue;
    const size_t column = line.find(" | ") + 3;
    const std::string cell = line.substr(column, line.find(" | ", column) - column);
    for (std::sregex_iterator it(cell.begin(), cell.end(), name), end; it != end; ++it) {
      names.insert((*it)[1]);
    }
  }
  return names;
}

TEST(BenchLocal, WritesCsvWithTheDocumentedNamesAndARowForEachTest) {
  const Scratch scratch;
  const std::string model = (scratch / "ti,ny").string(), path = (scratch / "out.csv").string();
  const Finished made = troupe({"make-model", model, "--shape", "tiny", "--scheme", "int8"});
  ASSERT_EQ(made.code, 0) << made.output;
  const Finished bench = troupe({"bench", "local", "--model", model, "-p", "4", "-n", "2", "-r",
                                 "2", "-o", "csv", "--output", path});
  ASSERT_EQ(bench.code, 0) << bench.output;
  const auto records = records_of_csv(read_file(path));
  ASSERT_EQ(records.size(), 3U);
  const std::vector<std::string>& header = records[0];
  std::set<std::string> names(header.begin(), header.end());
  EXPECT_EQ(names.size(), header.size()) << "a name twice";
  std::set<std::string> documented = documented_names();
  // Only one of the types of weights is written out there.
  EXPECT_EQ(documented.count("bytes_BF16"), 1U);
  for (const char* stored : {"bytes_F32", "bytes_I8"}) {
    EXPECT_EQ(names.count(stored), 1U) << stored;
    documented.insert(stored);
  }
  EXPECT_EQ(names, documented);
  for (size_t i = 1; i < records.size(); ++i) {
    ASSERT_EQ(records[i].size(), header.size());
    const auto field = [&](const std::string& column) {
      const auto at = std::ranges::find(header, column) - header.begin();
      return records[i].at(static_cast<size_t>(at));
    };
    EXPECT_EQ(field("test"), i == 1 ? "pp4" : "tg2");
    EXPECT_EQ(field("model_type"), "ti,ny");
    EXPECT_GT(std::stod(field("avg_ts")), 0);
    double a = 0, b = 0;
    ASSERT_EQ(std::sscanf(field("samples_ts").c_str(), "%lf %lf", &a, &b), 2);
    EXPECT_NEAR(std::stod(field("avg_ts")), (a + b) / 2, 1e-6 * a);
  }
}

TEST(BenchLocal, CountsWhatStepsReadAndCompute) {
  const json::array rows = results_of(
      {"local", "--model", kDemo, "-p", "0", "-n", "2", "-d", "0,16", "-b", "1,4", "-r", "1"});
  ASSERT_EQ(rows.size(), 4U);
  const json::value &one = rows[0], &four = rows[1], &deep = rows[2];
  constexpr double kPosition = 4 * (64 + 16) * 4;  // bytes of a position of the demo model's KV
  // Two steps see 1 and 2 positions; behind 16 others 17 and 18.
  EXPECT_EQ(number(one, "kv_bytes_per_step"), 1.5 * kPosition);
  EXPECT_EQ(number(four, "kv_bytes_per_step"), 4 * 1.5 * kPosition);
  EXPECT_EQ(number(deep, "kv_bytes_per_step"), 17.5 * kPosition);
  EXPECT_EQ(number(one, "experts_per_step"), 3 * 3);  // three layers with three experts a token
  EXPECT_GT(number(four, "experts_per_step"), 3 * 3);
  EXPECT_LT(number(four, "experts_per_step"), 4 * 3 * 3 + 1);
  EXPECT_GT(number(four, "weight_bytes_per_step"), number(one, "weight_bytes_per_step"));
  EXPECT_LT(number(four, "weight_bytes_per_step"), number(one, "model_size"));
  EXPECT_GT(number(one, "float_multiply_adds_per_token"), 0);
  // The same with its own rate: bytes / time / rate.
  EXPECT_NEAR(number(one, "bandwidth_fraction"),
              2 * (number(one, "weight_bytes_per_step") + number(one, "kv_bytes_per_step")) /
                  (number(one, "avg_ns") * 1e-9) / number(one, "machine_read_bytes_per_s"),
              1e-6 * number(one, "bandwidth_fraction"));
}

TEST(BenchLocal, ReadsHalfAsMuchOfKvInBf16) {
  const auto kv_bytes = [](const char* kv_dtype) {
    const json::array rows = results_of({"local", "--model", kDemo, "-p", "0", "-n", "2", "-d",
                                         "16", "-r", "1", "--kv-dtype", kv_dtype});
    return number(rows.at(0), "kv_bytes_per_step");
  };
  EXPECT_EQ(2 * kv_bytes("bf16"), kv_bytes("f32"));
}

TEST(BenchLocal, DrawsItsTokensFromTheSeed) {
  const auto run = [](const char* seed) {
    const json::array rows = results_of(
        {"local", "--model", kDemo, "-p", "0", "-n", "8", "-b", "2", "-r", "1", "--seed", seed});
    return number(rows.at(0), "experts_per_step");
  };
  EXPECT_EQ(run("1"), run("1"));
  EXPECT_NE(run("1"), run("2"));
}

TEST(BenchLocal, MeasuresAColdStart) {
  const json::array rows =
      results_of({"local", "--model", kDemo, "-p", "8", "-n", "0", "-r", "1", "--cold-start"});
  ASSERT_EQ(rows.size(), 2U);
  const json::value& cold = rows[0];
  EXPECT_EQ(cold.at("test"), "cold start pp8");
  EXPECT_LE(number(cold, "load_ms"), number(cold, "first_token_ms"));
  // The process is older than the checkpoint is open; its age is known to 10 ms.
  EXPECT_GE(number(cold, "first_token_since_process_start_ms") + 20,
            number(cold, "first_token_ms"));
  EXPECT_GT(number(cold, "resident_bytes"), 1e6);
  EXPECT_GE(number(cold, "peak_resident_bytes"), number(cold, "resident_bytes"));
  EXPECT_EQ(rows[1].at("test"), "pp8");
}

TEST(BenchLocal, PrintsATableAndItsProgressApart) {
  const Finished bench =
      troupe({"bench", "local", "--model", kDemo, "-p", "4", "-n", "2", "-r", "1"});
  EXPECT_EQ(bench.code, 0);
  EXPECT_NE(bench.output.find("| model |"), std::string::npos) << bench.output;
  EXPECT_NE(bench.output.find("| tg2  |"), std::string::npos) << bench.output;
  EXPECT_NE(bench.output.find("\nMachine: "), std::string::npos) << bench.output;
  EXPECT_NE(bench.output.find("tg2: 1 of 1\n"), std::string::npos) << bench.output;
}

/// What a bench says, and the CPUs to which the kernel had its threads pinned meanwhile.
struct WatchedBench {
  std::string output;
  std::set<uint32_t> pinned;
};

WatchedBench watch_bench(const char* pin_threads) {
  const Scratch scratch;
  Process bench({kTroupe, "bench", "local", "--model", kDemo, "-p", "4", "-n", "0", "-r", "1",
                 "--threads", "2", "--pin-threads", pin_threads},
                scratch / "output");
  WatchedBench watched;
  EXPECT_TRUE(wait_until([&] {
    const auto cpus = pinned_cpus(bench.pid());
    watched.pinned.insert(cpus.begin(), cpus.end());
    return bench.ended();
  }));
  EXPECT_EQ(bench.wait(), 0) << bench.output();
  watched.output = bench.output();
  return watched;
}

TEST(BenchLocal, PinsItsThreadsOrSaysWhyNot) {
  if (allowed_cpus().size() < 2) GTEST_SKIP() << "needs two CPUs";
  const WatchedBench off = watch_bench("off");
  EXPECT_NE(off.output.find("\nThreads are not pinned.\n"), std::string::npos) << off.output;
  EXPECT_TRUE(off.pinned.empty());

  const WatchedBench pinned = watch_bench("auto");
  if (pinned.output.find("are free of other processes of Troupe") != std::string::npos) {
    EXPECT_TRUE(pinned.pinned.empty());
  } else {
    EXPECT_EQ(pinned.pinned.size(), 2U);
    const std::string cpus = kernels::cpu_list({pinned.pinned.begin(), pinned.pinned.end()});
    EXPECT_NE(pinned.output.find("\nThreads are pinned to CPUs " + cpus + ".\n"), std::string::npos)
        << cpus << " but " << pinned.output;
  }
  EXPECT_NE(troupe({"bench", "local", "--model", kDemo, "--pin-threads", "yes"})
                .output.find("--pin-threads must be auto or off, not 'yes'"),
            std::string::npos);
}

TEST(BenchKernels, CountsBytesAndMultiplyAddsOfEachCase) {
  const json::array rows = results_of(
      {"kernels", "--rows", "1,4", "--filter", "gemm kv_a", "--time", "0", "--threads", "1"});
  constexpr uint64_t kElements = 576 * 2048;
  const std::vector<std::pair<std::string, uint64_t>> forms = {
      {"bf16", kElements * 2},
      {"f8", kElements + 5 * 16 * 4},  // blocks of 128 x 128
      {"i8", kElements + 576 * 2},     // a BF16 scale a row
      {"i8-g128", kElements + kElements / 128 * 2},
      {"i4-g32", kElements / 2 + kElements / 32 * 2},
      {"i4-g32-asym", kElements / 2 + kElements / 32 * 3},  // and a byte for the zero
      {"i4-g128", kElements / 2 + kElements / 128 * 2},
      {"i4-g128-asym", kElements / 2 + kElements / 128 * 3}};
  ASSERT_EQ(rows.size(), 2 * forms.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const json::value& row = rows[i];
    const auto& [form, bytes] = forms[i % forms.size()];
    EXPECT_EQ(row.at("op"), "gemm");
    EXPECT_EQ(row.at("case"), "kv_a 576x2048");
    EXPECT_EQ(row.at("dtype").as_string(), form);
    EXPECT_EQ(number(row, "bytes"), bytes) << form;
    const uint64_t rows_in = i < forms.size() ? 1 : 4;
    EXPECT_EQ(number(row, "rows"), rows_in);
    const bool integers = form.starts_with("i");
    EXPECT_EQ(number(row, "integer_multiply_adds"), integers ? rows_in * kElements : 0);
    EXPECT_EQ(number(row, "float_multiply_adds"), integers ? 0 : rows_in * kElements);
    EXPECT_GT(number(row, "median_us"), 0);
    EXPECT_LE(number(row, "min_us"), number(row, "median_us"));
  }
}

TEST(BenchKernels, RunsEveryOperation) {
  const json::array rows = results_of({"kernels", "--rows", "2", "--context", "20", "--time", "0"});
  std::set<std::string> ops;
  for (const json::value& row : rows) {
    ops.emplace(row.at("op").as_string());
    EXPECT_EQ(row.at("rows"), 2);
    EXPECT_EQ(row.at("context"), row.at("op").as_string().starts_with("mla") ? 20 : 0);
    EXPECT_GT(number(row, "bytes"), 0);
    EXPECT_GE(number(row, "samples"), 3);
  }
  EXPECT_EQ(
      ops, (std::set<std::string>{"embed", "rms_norm", "gemm", "gemm_many", "rope", "store_kv",
                                  "mla_absorbed", "mla_expanded", "topk_gate", "grouped_ffn",
                                  "silu_mul", "combine", "add", "copy", "copy_rows", "move_rows"}));
}

TEST(BenchKernels, RunsAnyVersionThatTheCpuHas) {
  const json::array rows = results_of({"kernels", "--shape", "tiny", "--rows", "1", "--filter",
                                       "rms_norm", "--time", "0", "--target", "scalar"});
  ASSERT_FALSE(rows.empty());
  EXPECT_EQ(rows[0].at("target"), "scalar");
}

TEST(BenchKernels, KnowsTheShapesOfV3) {
  const json::array rows = results_of(
      {"kernels", "--shape", "v3", "--rows", "1", "--filter", "topk_gate", "--time", "0"});
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows[0].at("case"), "8 of 256");
  EXPECT_EQ(rows[0].at("shape"), "v3");
}

TEST(MakeModel, GivesAModelATokenizerThatFits) {
  const Scratch scratch;
  const std::string slice = (scratch / "slice").string(), tiny = (scratch / "tiny").string();
  const Finished made = troupe({"make-model", slice, "--shape", "v2-lite-slice", "--layers", "1",
                                "--scheme", "int4-g32", "--tokenizer", kDemo});
  ASSERT_EQ(made.code, 0) << made.output;
  const Finished tokens = troupe({"tokenize", "--model", slice, "--text", "to be"});
  EXPECT_EQ(tokens.code, 0) << tokens.output;
  EXPECT_EQ(tokens.output, troupe({"tokenize", "--model", kDemo, "--text", "to be"}).output);
  // The demo's 3,072 tokens are more than `tiny` has.
  const Finished refused =
      troupe({"make-model", tiny, "--shape", "tiny", "--scheme", "bf16", "--tokenizer", kDemo});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.output.find("has 3072 tokens, but the shape's vocabulary only 256"),
            std::string::npos)
      << refused.output;
  EXPECT_FALSE(std::filesystem::exists(tiny));
}

TEST(MakeModel, WritesFp8ThatIsComputedWith) {
  const Scratch scratch;
  const std::string tiny = (scratch / "tiny").string();
  const Finished made = troupe({"make-model", tiny, "--shape", "tiny", "--scheme", "fp8"});
  ASSERT_EQ(made.code, 0) << made.output;
  const json::value config = json::parse(read_file(tiny + "/config.json"));
  EXPECT_EQ(config.at("quantization_config"),
            json::parse(R"({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                            "weight_block_size": [128, 128]})"));
  const json::array rows = results_of({"local", "--model", tiny, "-p", "4", "-n", "0", "-r", "1"});
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_NE(rows[0].at("format").as_string().find("F8_E4M3"), json::string::npos)
      << rows[0].at("format");
}

TEST(BenchCommands, RefuseWhatTheyDoNotKnow) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> wrong = {
      {{"locla"}, "did you mean 'local'?"},
      {{"local"}, "'--model' is required"},
      {{"local", "-m", kDemo, "--repetition-count", "3"}, "unrecognised option"},
      {{"local", "-m", kDemo, "-p", "8,x"}, "--n-prompt must be numbers such as 1,16"},
      {{"local", "-m", kDemo, "-p", "8,-1"}, "--n-prompt must be numbers such as 1,16"},
      {{"local", "-m", kDemo, "-b", "0"}, "--batch must be between 1 and"},
      {{"local", "-m", kDemo, "-r", "0"}, "--repetitions must be between 1 and"},
      {{"local", "-m", kDemo, "--ubatch", "0"}, "--ubatch must be between 1 and"},
      {{"local", "-m", kDemo, "--threads", "0"}, "--threads must be between 1 and 1024"},
      {{"local", "-m", kDemo, "--kv-dtype", "f16"}, "--kv-dtype must be f32 or bf16, not 'f16'"},
      {{"local", "-m", kDemo, "-p", "0", "-n", "0"}, "nothing to measure"},
      {{"local", "-m", kDemo, "-d", "4600"}, "5112 positions exceed the model's 4608"},
      {{"local", "-m", kDemo, "-o", "yaml"}, "md, json or csv, not \"yaml\""},
      {{"local", "-m", kDemo, "--output", "/no/such/folder/x"}, "cannot write"},
      {{"local", "-m", "/no/such/model"}, "/no/such/model"},
      {{"kernels", "--shape", "v4"},
       "--shape must be one of v2-lite, v2-lite-slice, v3, v3-slice, tiny, not 'v4'"},
      {{"kernels", "--rows", "1,"}, "--rows must be numbers such as 1,16"},
      {{"kernels", "--threads", "0"}, "--threads must be between 1 and 1024"},
      {{"kernels", "--time", "-1"}, "--time must be between 0 and"},
      {{"kernels", "--filter", "nothing like it"}, "no case has \"nothing like it\""},
      {{"kernels", "--device", "gpu"},
       "--device must be cpu or cuda: and numbers, each once, as cuda:0"},
      {{"local", "-m", kDemo, "--cuda-graphs", "yes"},
       "--cuda-graphs must be on or off, not 'yes'"},
      {{"local", "-m", kDemo, "--device", "cuda:x"}, "--device must be cpu or cuda: and numbers"},
      {{"kernels", "--target", "mmx"}, "no \"mmx\" on this CPU, which runs "},
      {{"kernels", "extra"}, "too many positional options"},
  };
  for (auto [arguments, message] : wrong) {
    std::string line;
    for (const std::string& argument : arguments) line += " " + argument;
    arguments.insert(arguments.begin(), "bench");
    const Finished bench = troupe(arguments);
    EXPECT_EQ(bench.code, 2) << line;
    EXPECT_NE(bench.output.find(message), std::string::npos) << line << ": " << bench.output;
  }
}

TEST(BenchCommands, SayWhyADeviceCannotBeUsed) {
  for (std::vector<std::string> arguments :
       {std::vector<std::string>{"bench", "kernels"}, {"bench", "local", "-m", kDemo}}) {
    arguments.insert(arguments.end(), {"--device", "cuda:1048576"});
    const Finished bench = troupe(arguments);
    EXPECT_NE(bench.code, 0);
    const bool is_built_without = bench.output.find("has no CUDA backend") != std::string::npos;
    const bool is_not_there = bench.output.find("GPU 1048576") != std::string::npos;
    EXPECT_TRUE(is_built_without || is_not_there) << bench.output;
  }
}

TEST(BenchCommands, TakeAsManyThreadsAsTheyMayUseCpus) {
  const std::vector<uint32_t> all = allowed_cpus();
  ASSERT_TRUE(kernels::run_this_thread_on({all.data(), 1}).ok());  // and so do its children
  for (const auto& command :
       {std::vector<std::string>{"bench", "local"}, {"bench", "kernels"}, {"quantize"}}) {
    std::vector<std::string> arguments = command;
    arguments.emplace_back("--help");
    const Finished help = troupe(arguments);
    EXPECT_NE(help.output.find("--threads arg (=1)"), std::string::npos) << help.output;
  }
  ASSERT_TRUE(kernels::run_this_thread_on(all).ok());
}

TEST(BenchCommands, HaveHelp) {
  for (const char* what : {"serve", "local", "kernels"}) {
    const Finished help = troupe({"bench", what, "--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_NE(help.output.find("usage: troupe bench " + std::string(what)), std::string::npos);
    const Finished all = troupe({"bench", "--help"});
    EXPECT_NE(all.output.find(what), std::string::npos) << all.output;
  }
}

}  // namespace
}  // namespace troupe
