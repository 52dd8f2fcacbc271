// `troupe bench serve` against a real cluster: what it counts is what the cluster did.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <memory>

#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

namespace json = boost::json;

/// One small cluster for all tests: two requests run at a time, four wait.
class BenchServe : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    scratch_ = std::make_unique<Scratch>();
    const uint16_t http_port = free_port(), control_port = free_port();
    const auto config = *scratch_ / "cluster.yaml";
    std::ofstream(config) << "name: bench-" << getpid() << "\nmodel: " << kDemo
                          << "\nserved_name: demo\nhttp: {host: 127.0.0.1, port: " << http_port
                          << "}\ncontrol: {host: 127.0.0.1, port: " << control_port
                          << "}\nnodes:\n  - {name: router-0, role: router}\n"
                          << "  - {name: shard-0, role: experts}\n"
                          << "limits: {max_queued: 4, max_running: 2}\n";
    url_ = "http://127.0.0.1:" + std::to_string(http_port);
    up_ = std::make_unique<Process>(
        std::vector<std::string>{kTroupe, "up", "--config", config.string(), "--logs",
                                 config.parent_path().string()},
        *scratch_ / "up");
    const bool ready = wait_until([] {
      return up_->ended() || up_->output().find("Serving until Ctrl-C") != std::string::npos;
    });
    ASSERT_TRUE(ready && !up_->ended()) << up_->output();
  }
  static void TearDownTestSuite() {
    up_.reset();
    scratch_.reset();
  }

  static std::vector<std::string> command(std::vector<std::string> options) {
    std::vector<std::string> words = {kTroupe, "bench",        "serve",     "--url",
                                      url_,    "--json",       json_path(), "--input-len",
                                      "64",    "--output-len", "16"};
    words.insert(words.end(), options.begin(), options.end());
    return words;
  }
  static std::string json_path() { return (*scratch_ / "result.json").string(); }
  static json::value result() { return json::parse(read_file(json_path())); }
  static int64_t counted(const char* what) {
    return ClusterView(url_).status().at("requests").at(what).to_number<int64_t>();
  }

  static std::unique_ptr<Scratch> scratch_;
  static std::unique_ptr<Process> up_;
  static std::string url_;
};

std::unique_ptr<Scratch> BenchServe::scratch_;
std::unique_ptr<Process> BenchServe::up_;
std::string BenchServe::url_;

TEST_F(BenchServe, CountsInAClosedLoopWhatTheClusterDid) {
  const int64_t prompt_before = counted("prompt_tokens_total");
  const int64_t generated_before = counted("generated_tokens_total");
  const Finished bench = finish(command(
      {"--concurrency", "2", "--num-prompts", "20", "--save-detailed", "--goodput", "e2el:60000"}));
  ASSERT_EQ(bench.code, 0) << bench.output;
  EXPECT_NE(bench.output.find("Successful requests:                     20\n"), std::string::npos)
      << bench.output;
  const json::value report = result();
  EXPECT_EQ(report.at("completed"), 20);
  EXPECT_EQ(report.at("failed"), 0);
  EXPECT_EQ(report.at("total_input_tokens"), 20 * 64);
  EXPECT_EQ(report.at("total_output_tokens"), 20 * 16);
  EXPECT_EQ(report.at("slo_attainment_percent"), 100);
  EXPECT_EQ(report.at("max_concurrent_requests"), 2);
  EXPECT_EQ(report.at("short_outputs"), 0);
  EXPECT_GT(report.at("mean_ttft_ms").to_number<double>(), 0);
  EXPECT_GT(report.at("mean_tpot_ms").to_number<double>(), 0);
  EXPECT_EQ(counted("prompt_tokens_total") - prompt_before, 20 * 64);
  EXPECT_EQ(counted("generated_tokens_total") - generated_before, 20 * 16);
}

TEST_F(BenchServe, SharesPrefixesThatTheClusterFindsInItsCache) {
  const Finished bench = finish(command({"--num-prompts", "10", "--prefix-len", "128"}));
  ASSERT_EQ(bench.code, 0) << bench.output;
  EXPECT_EQ(result().at("total_input_tokens"), 10 * (64 + 128));
  // All but the first find the prefix, in whole blocks or more.
  EXPECT_GE(result().at("total_cached_tokens").to_number<int64_t>(), 9 * 112);
}

TEST_F(BenchServe, ConversesWithTheClustersOwnAnswers) {
  const Finished bench = finish(
      command({"--endpoint", "chat", "--turns", "3", "--num-prompts", "6", "--tokenizer", kDemo}));
  ASSERT_EQ(bench.code, 0) << bench.output;
  EXPECT_EQ(result().at("completed"), 6);
  // Each turn sends at least what came before: 64 + 128 + 192 and two answers, twice.
  EXPECT_GT(result().at("total_input_tokens").to_number<int64_t>(), 2 * (64 + 128 + 192));
}

TEST_F(BenchServe, SweepsLoadsIntoOneReport) {
  const std::string html = (*scratch_ / "sweep.html").string();
  const Finished bench = finish(command(
      {"--sweep", "concurrency=1,2", "--num-prompts", "6", "--repeat", "2", "--html", html}));
  ASSERT_EQ(bench.code, 0) << bench.output;
  const json::array runs = result().at("runs").as_array();
  ASSERT_EQ(runs.size(), 4U);
  EXPECT_EQ(runs[0].at("max_concurrent_requests"), 1);
  EXPECT_EQ(runs[3].at("max_concurrent_requests"), 2);
  for (const json::value& run : runs) EXPECT_EQ(run.at("completed"), 6);
  EXPECT_NE(bench.output.find("| concurrency | req/s |"), std::string::npos) << bench.output;
  EXPECT_NE(read_file(html).find("<svg"), std::string::npos);
}

TEST_F(BenchServe, MeasuresRefusalsOfAnOpenLoop) {
  const int64_t refused_before = counted("refused_total");
  const Finished bench = finish(command({"--request-rate", "inf", "--num-prompts", "40"}));
  EXPECT_EQ(bench.code, 0) << bench.output;  // a server that refuses under overload works
  const json::value report = result();
  const auto refused = report.at("refused").to_number<int64_t>();
  EXPECT_GT(refused, 0);
  EXPECT_EQ(report.at("completed").to_number<int64_t>() + refused, 40);
  EXPECT_EQ(report.at("num_refusals"), refused);
  EXPECT_GT(report.at("median_refusal_ms").to_number<double>(), 0);
  EXPECT_EQ(report.at("errors_by_kind").at("HTTP 429").at("count"), refused);
  EXPECT_EQ(counted("refused_total") - refused_before, refused);
}

TEST_F(BenchServe, ServesEveryRequestInTheEndWithRetry) {
  const Finished bench =
      finish(command({"--request-rate", "inf", "--num-prompts", "12", "--retry"}));
  EXPECT_EQ(bench.code, 0) << bench.output;
  EXPECT_EQ(result().at("completed"), 12);
}

TEST_F(BenchServe, ReportsWhatItMeasuredWhenInterrupted) {
  const int64_t before = counted("finished_total");
  Process bench(command({"--duration", "600"}), *scratch_ / "bench");
  ASSERT_TRUE(wait_until([&] { return counted("finished_total") > before; }));
  bench.signal(SIGINT);
  EXPECT_EQ(bench.wait(), 130) << bench.output();
  const json::value report = result();
  EXPECT_EQ(report.at("was_interrupted"), true);
  EXPECT_GE(report.at("completed").to_number<int64_t>(), 1);
  EXPECT_EQ(report.at("failed"), 0);
}

TEST_F(BenchServe, SaysWhatIsWrongWithItsCommandLine) {
  for (const std::vector<std::string>& options :
       std::vector<std::vector<std::string>>{{"--concurrency", "1", "--request-rate", "1"},
                                             {"--goodput", "speed:1"},
                                             {"--endpoint", "embeddings"},
                                             {"--turns", "2", "--prompt-as", "tokens"},
                                             {"--mooncake", "/nonexistent"},
                                             {"--extra-body", "[]"},
                                             {"--sweep", "size=1"},
                                             {"--token-ids", "5"},
                                             {"--nonsense"}}) {
    const Finished bench = finish(command(options));
    EXPECT_EQ(bench.code, 2) << options[0] << "\n" << bench.output;
    EXPECT_EQ(bench.output.find("troupe: "), 0U) << bench.output;
  }
  const Finished nobody = troupe({"bench", "serve", "--url", "http://127.0.0.1:1"});
  EXPECT_EQ(nobody.code, 3) << nobody.output;
}

TEST(BenchServeHelp, NamesEveryOption) {
  const Finished help = troupe({"bench", "serve", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* option : {"--url",
                             "--endpoint",
                             "--model",
                             "--api-key",
                             "--timeout",
                             "--retry",
                             "--no-ignore-eos",
                             "--extra-body",
                             "--input-len",
                             "--output-len",
                             "--range-ratio",
                             "--num-prefixes",
                             "--prefix-len",
                             "--turns",
                             "--think-time",
                             "--mooncake",
                             "--azure",
                             "--prompts",
                             "--trace-speedup",
                             "--trace-from",
                             "--trace-to",
                             "--prompt-as",
                             "--token-ids",
                             "--tokenizer",
                             "--seed",
                             "--concurrency",
                             "--request-rate",
                             "--burstiness",
                             "--max-concurrency",
                             "--num-prompts",
                             "--duration",
                             "--num-warmups",
                             "--sweep",
                             "--repeat",
                             "--tenants",
                             "--tenant",
                             "--background",
                             "--goodput",
                             "--json",
                             "--save-detailed",
                             "--html"}) {
    EXPECT_NE(help.output.find(option), std::string::npos) << option;
  }
}

}  // namespace
}  // namespace troupe
