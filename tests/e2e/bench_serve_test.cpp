// `troupe bench serve` against a real cluster: what it counts is what the cluster did.

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>

#include <boost/json.hpp>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>

#include "tests/e2e/processes.hpp"
#include "tests/loadgen/scripted_server.hpp"

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

/// The lines of the option table: "  --name" or "  -h [ --name ]", then its value or its meaning.
std::set<std::string> options_in(const std::string& help) {
  std::set<std::string> names;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("  -")) continue;
    const size_t begin = line.find("--");
    names.insert(line.substr(begin, line.find(' ', begin) - begin));
  }
  return names;
}

TEST(BenchServeHelp, NamesEveryOption) {
  const Finished help = troupe({"bench", "serve", "--help"});
  EXPECT_EQ(help.code, 0);
  const std::set<std::string> expected = {"--help",
                                          "--url",
                                          "--endpoint",
                                          "--model",
                                          "--api-key",
                                          "--ready-timeout",
                                          "--timeout",
                                          "--retry",
                                          "--no-ignore-eos",
                                          "--temperature",
                                          "--extra-body",
                                          "--input-len",
                                          "--output-len",
                                          "--range-ratio",
                                          "--num-prefixes",
                                          "--prefix-len",
                                          "--turns",
                                          "--turn-input-len",
                                          "--think-time",
                                          "--mooncake",
                                          "--azure",
                                          "--prompts",
                                          "--trace-speedup",
                                          "--trace-from",
                                          "--trace-to",
                                          "--trace-max-input",
                                          "--trace-max-output",
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
                                          "--html"};
  EXPECT_EQ(options_in(help.output), expected);
}

/// A port where nobody listens: these tests end before anybody is asked, or when nobody answers.
const std::vector<std::string> kNobody = {"bench", "serve", "--url", "http://127.0.0.1:1"};

Finished bench_nobody(const std::vector<std::string>& options) {
  std::vector<std::string> words = kNobody;
  words.insert(words.end(), options.begin(), options.end());
  return troupe(words);
}

TEST(BenchServeOptions, AreRefusedWhereTheyWouldHaveNoEffectOrAnotherOne) {
  const Scratch scratch;
  const std::string prompts = (scratch / "prompts").string(), trace = (scratch / "trace").string();
  std::ofstream(prompts) << R"({"prompt": "a"})";
  std::ofstream(trace) << R"({"timestamp":0,"input_length":1,"output_length":1})" << '\n'
                       << R"({"timestamp":9000,"input_length":1,"output_length":1})";
  const std::string json = (scratch / "json").string();
  std::filesystem::create_symlink("json", scratch / "link");
  const std::pair<std::vector<std::string>, const char*> cases[] = {
      {{"--request-rate", "1e-12"}, "--request-rate must be 0.0001"},
      {{"--request-rate", "0"}, "--request-rate must be 0.0001"},
      {{"--request-rate", "1x"}, "--request-rate must be a number"},
      {{"--sweep", "rate=1,1e-12"}, "no value for rate"},
      {{"--tenant", "a:1e-12/s", "--duration", "1"}, "the rate in"},
      {{"--tenant", "a:1:1.9", "--duration", "1"}, "PRIORITY"},
      {{"--tenant", "a:1", "--tenants", "b:1", "--duration", "1"}, "one of --tenants and --tenant"},
      {{"--tenant", "a:1", "--tenant", "a:2", "--duration", "1"}, "two tenants are named a"},
      {{"--tenants", "a:1,b:1,a:2"}, "two tenants are named a"},
      {{"--tenants", "a:1", "--api-key", "k"}, "--api-key"},
      {{"--save-detailed"}, "--save-detailed needs --json"},
      {{"--json", json, "--html", json}, "same file"},
      {{"--json", json, "--html", (scratch / "." / "json").string()}, "same file"},
      {{"--json", json, "--html", (scratch / "link").string()}, "same file"},
      {{"--num-prompts=-1"}, "--num-prompts must be a whole number"},
      {{"--concurrency=-1"}, "--concurrency must be a whole number"},
      {{"--timeout", "1e-12"}, "--timeout"},
      {{"--num-prefixes", "4"}, "--num-prefixes needs --prefix-len"},
      {{"--turn-input-len", "4"}, "--turn-input-len needs --turns"},
      {{"--think-time", "1"}, "--think-time needs --turns"},
      {{"--burstiness", "2"}, "--burstiness"},
      {{"--request-rate", "inf", "--num-prompts", "1", "--burstiness", "2"}, "--burstiness"},
      {{"--trace-speedup", "2"}, "--trace-speedup needs"},
      {{"--mooncake", trace, "--trace-speedup", "2", "--concurrency", "1"},
       "--trace-speedup needs"},
      {{"--mooncake", trace, "--trace-speedup", "1e-300"}, "--trace-speedup must be"},
      {{"--mooncake", trace, "--num-prompts", "3"}, "more than the 2 requests"},
      {{"--prompts", prompts, "--trace-to", "2"}, "--trace-to needs"},
      {{"--mooncake", trace, "--input-len", "9"}, "--input-len needs"},
      {{"--mooncake", trace, "--output-len", "9"}, "--output-len needs"},
      {{"--mooncake", trace, "--range-ratio", "0.5"}, "--range-ratio needs"},
      {{"--mooncake", trace, "--prefix-len", "9"}, "--prefix-len needs"},
      {{"--prompts", prompts, "--input-len", "9"}, "--input-len needs"},
      {{"--prompt-as", "text", "--token-ids", "1:2"}, "--token-ids is for"},
      {{"--url", "http://127.0.0.1:1"}, "two servers are named 127.0.0.1:1: say --url NAME=URL"},
      {{"--url", "a=http://h:1", "--url", "a=http://h:2"}, "two servers are named a"},
      {{"--url", "=http://h:1"}, "no name before the ="},
      {{"--url", "a=b"}, "\"b\" is not of the form http://"},
      {{"--url", "a=http://h:1", "--model", "b=m"}, "no server is named b"},
      {{"--url", "a=http://h:1", "--model", "m", "--model", "a=n"}, "two models for http://h:1"},
      {{"--model", "m", "--model", "n"}, "two models for http://127.0.0.1:1"},
      {{"--goodput", "ttft:1", "ttft:2"}, "two objectives"}};
  for (const auto& [options, message] : cases) {
    const Finished bench = bench_nobody(options);
    EXPECT_EQ(bench.code, 2) << options[0] << "\n" << bench.output;
    EXPECT_NE(bench.output.find(message), std::string::npos)
        << options[0] << ": " << message << "\n"
        << bench.output;
  }
}

TEST(BenchServeOptions, OfDrawnPromptsGoWithAFileWhereTheyHaveAnEffect) {
  const Scratch scratch;
  const std::string prompts = (scratch / "prompts").string(), trace = (scratch / "trace").string();
  std::ofstream(prompts) << R"({"prompt": "a"})";
  std::ofstream(trace) << R"({"timestamp":0,"input_length":1,"output_length":1})";
  for (const std::vector<std::string>& options : std::vector<std::vector<std::string>>{
           {"--prompts", prompts, "--output-len", "9"},
           {"--mooncake", trace, "--num-warmups", "1", "--input-len", "9", "--prefix-len", "9"}}) {
    const Finished bench = bench_nobody(options);
    EXPECT_EQ(bench.code, 3) << bench.output;
  }
}

TEST(BenchServeFiles, StayWhatTheyWereUntilThereIsSomethingToWrite) {
  const Scratch scratch;
  const auto json = scratch / "result.json";
  std::ofstream(json) << "of last week";
  EXPECT_EQ(bench_nobody({"--json", json.string()}).code, 3);
  EXPECT_EQ(read_file(json), "of last week");
  const auto fresh = scratch / "fresh.html";
  EXPECT_EQ(bench_nobody({"--html", fresh.string()}).code, 3);
  EXPECT_FALSE(std::filesystem::exists(fresh));
  EXPECT_EQ(std::ranges::distance(std::filesystem::directory_iterator(json.parent_path())), 1)
      << "nothing else stays there";
}

TEST(BenchServeFiles, ThatCannotBeWrittenAreToldBeforeAnybodyIsAsked) {
  const Scratch scratch;
  for (const std::string& path : {(scratch / "missing" / "x").string(), (scratch / "").string()}) {
    for (const char* option : {"--json", "--html"}) {
      const Finished bench = bench_nobody({option, path});
      EXPECT_EQ(bench.code, 2) << path;
      EXPECT_NE(bench.output.find("cannot write " + path), std::string::npos) << bench.output;
    }
  }
}

using loadgen::plain;
using loadgen::Scripted;
using loadgen::ScriptedServer;

Scripted models() {
  return plain(200, "content-type: application/json\r\n",
               R"({"object":"list","data":[{"id":"peer","object":"model"}]})");
}

/// An answer to a chat as vLLM streams it, and what else the standards of HTTP and of server-sent
/// events allow: a role first, usage last without choices, comments, CRLF, an unknown field, and
/// chunks whose borders heed neither events nor characters.
Scripted foreign_chat() {
  const std::string head = R"(data: {"id":"chatcmpl-1","object":"chat.completion.chunk",)"
                           R"("created":1700000000,"model":"peer",)";
  const auto delta = [&](const std::string& fields, const std::string& reason) {
    return head + R"("choices":[{"index":0,"delta":{)" + fields +
           R"(},"logprobs":null,"finish_reason":)" + reason + "}],\"usage\":null}\r\n\r\n";
  };
  const std::string events =
      ": ping\r\n\r\n" + delta(R"("role":"assistant","content":"")", "null") +
      "event: message\r\nid: 7\r\n" + delta(R"("content":"Grüße")", "null") + ": ping\r\n\r\n" +
      delta(R"("content":" 日本")", "null") + delta(R"("content":" 🙂")", "null") +
      delta(R"("content":"")", R"("length","stop_reason":null)") + head +
      R"("choices":[],"usage":{"prompt_tokens":21,"total_tokens":25,"completion_tokens":4,)"
      R"("prompt_tokens_details":{"cached_tokens":16}}})"
      "\r\n\r\ndata: [DONE]\r\n\r\n";
  std::string bytes =
      "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\nserver: uvicorn\r\n"
      "content-type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
  constexpr size_t kChunk = 7;  // shorter than any event; cuts characters of several bytes
  for (size_t at = 0; at < events.size(); at += kChunk) {
    const std::string piece = events.substr(at, kChunk);
    bytes += std::to_string(piece.size()) + "\r\n" + piece + "\r\n";
  }
  return {bytes + "0\r\n\r\n"};
}

TEST(BenchServeFiles, AreReplacedAsTheyWereAndOneFailureKeepsNoOtherBack) {
  const Scratch scratch;
  const auto file = scratch / "file.json", link = scratch / "link.json";
  std::ofstream(file) << "of last week";
  std::filesystem::permissions(file, std::filesystem::perms(0600));
  std::filesystem::create_symlink(file, link);
  ScriptedServer server([](const std::string& request, int) {
    return request.starts_with("GET ") ? models() : loadgen::streamed(4);
  });
  const Finished bench =
      troupe({"bench", "serve", "--url", "http://127.0.0.1:" + server.port(), "--num-prompts", "2",
              "--json", link.string(), "--html", "/dev/full"});
  EXPECT_EQ(bench.code, 1) << bench.output;
  EXPECT_NE(bench.output.find("cannot write /dev/full: "), std::string::npos) << bench.output;
  EXPECT_EQ(json::parse(read_file(file)).at("completed"), 2);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(std::filesystem::status(file).permissions(), std::filesystem::perms(0600));
  const Finished other =
      troupe({"bench", "serve", "--url", "http://127.0.0.1:" + server.port(), "--num-prompts", "2",
              "--json", "/dev/full", "--html", link.string()});
  EXPECT_EQ(other.code, 1) << other.output;
  EXPECT_NE(other.output.find("cannot write /dev/full: "), std::string::npos) << other.output;
  EXPECT_NE(read_file(file).find("</html>"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_EQ(std::ranges::distance(std::filesystem::directory_iterator(file.parent_path())), 2);
}

TEST(BenchServeFiles, AreWrittenWhereALinkPointsThoughNothingIsThere) {
  const Scratch scratch;
  const auto link = scratch / "link.json";
  std::filesystem::create_symlink("file.json", link);
  ScriptedServer server([](const std::string& request, int) {
    return request.starts_with("GET ") ? models() : loadgen::streamed(4);
  });
  const Finished bench = troupe({"bench", "serve", "--url", "http://127.0.0.1:" + server.port(),
                                 "--num-prompts", "2", "--json", link.string()});
  EXPECT_EQ(bench.code, 0) << bench.output;
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  EXPECT_TRUE(
      std::filesystem::is_regular_file(std::filesystem::symlink_status(scratch / "file.json")));
}

TEST(BenchServeFiles, MayBeAPipe) {
  const Scratch scratch;
  ScriptedServer server([](const std::string& request, int) {
    return request.starts_with("GET ") ? models() : loadgen::streamed(4);
  });
  const Finished bench =
      finish({"/bin/sh", "-c",
              kTroupe + " bench serve --num-prompts 2 --json /dev/stdout --url " +
                  "http://127.0.0.1:" + server.port() + " | cat"});
  EXPECT_NE(bench.output.find("\"completed\":2"), std::string::npos) << bench.output;
}

TEST(BenchServeFiles, ThatAreMountedAreWrittenOver) {
  const Scratch scratch;
  const auto file = scratch / "file.json";
  std::ofstream(file) << "of last week";
  constexpr int kCannotMount = 99;
  const auto fork_with_mount = [&] {
    const pid_t child = fork();
    if (child != 0) return child;
    // Nobody else shall see the mount, and it goes with the process.
    const bool mounted = (unshare(CLONE_NEWNS) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) &&
                         mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                         mount(file.c_str(), file.c_str(), nullptr, MS_BIND, nullptr) == 0;
    if (!mounted) _exit(kCannotMount);
    return child;
  };
  ScriptedServer server([](const std::string& request, int) {
    return request.starts_with("GET ") ? models() : loadgen::streamed(4);
  });
  const Finished bench =
      finish({kTroupe, "bench", "serve", "--url", "http://127.0.0.1:" + server.port(),
              "--num-prompts", "2", "--json", file.string()},
             fork_with_mount);
  if (bench.code == kCannotMount) GTEST_SKIP() << "this user may not mount";
  EXPECT_EQ(bench.code, 0) << bench.output;
  EXPECT_EQ(json::parse(read_file(file)).at("completed"), 2);
  EXPECT_EQ(std::ranges::distance(std::filesystem::directory_iterator(file.parent_path())), 1);
}

TEST(BenchServeBackground, SendsItsKeyWhichNoReportShows) {
  const Scratch scratch;
  const std::string json = (scratch / "json").string();
  int with_key = 0;
  Finished bench;
  {
    ScriptedServer server([&](const std::string& request, int) {
      if (request.starts_with("GET ")) return models();
      if (request.find("\r\nAuthorization: Bearer batch\r\n") != std::string::npos) ++with_key;
      return loadgen::streamed(4);
    });
    bench = troupe({"bench", "serve", "--url", "http://127.0.0.1:" + server.port(), "--num-prompts",
                    "4", "--api-key", "bat", "--background", "8:0.05:batch", "--json", json});
  }
  ASSERT_EQ(bench.code, 0) << bench.output;
  EXPECT_GE(with_key, 1);
  const std::string report = read_file(json);
  EXPECT_NE(report.find("--background 8:0.05:... "), std::string::npos) << report;
  EXPECT_EQ(report.find("bat"), std::string::npos) << report;
}

TEST(BenchServePeer, IsMeasuredThoughItsStreamIsShapedInItsOwnWay) {
  std::vector<std::string> asked;
  Finished bench;
  const Scratch scratch;
  const std::string json_path = (scratch / "peer.json").string();
  {
    ScriptedServer server([&](const std::string& request, int) {
      if (request.starts_with("GET /v1/models ")) {
        return models();
      }
      asked.push_back(request);
      return foreign_chat();
    });
    bench =
        troupe({"bench", "serve", "--url", "http://127.0.0.1:" + server.port(), "--endpoint",
                "chat", "--turns", "2", "--num-prompts", "4", "--concurrency", "1", "--input-len",
                "5", "--output-len", "4", "--json", json_path, "--save-detailed"});
  }
  ASSERT_EQ(bench.code, 0) << bench.output;
  const json::value report = json::parse(read_file(json_path));
  EXPECT_EQ(report.at("model_id"), "peer");
  EXPECT_EQ(report.at("completed"), 4);
  EXPECT_EQ(report.at("failed"), 0);
  EXPECT_EQ(report.at("tokens_counted_by_server"), true);
  EXPECT_EQ(report.at("total_input_tokens"), 4 * 21);
  EXPECT_EQ(report.at("total_output_tokens"), 4 * 4);
  EXPECT_EQ(report.at("total_cached_tokens"), 4 * 16);
  EXPECT_EQ(report.at("short_outputs"), 0);
  // Three events brought text: neither the role nor the end is one.
  for (const json::value& gaps : report.at("itls").as_array()) {
    EXPECT_EQ(gaps.as_array().size(), 2U);
  }
  ASSERT_EQ(asked.size(), 4U);
  EXPECT_TRUE(asked[1].starts_with("POST /v1/chat/completions HTTP/1.1\r\n")) << asked[1];
  const json::value second = json::parse(asked[1].substr(asked[1].find("\r\n\r\n") + 4));
  EXPECT_EQ(second.at("model"), "peer");
  EXPECT_EQ(second.at("messages").at(1),
            json::parse(R"({"role":"assistant","content":"Grüße 日本 🙂"})"));
}

/// Servers that write down, in one list, who was asked what.
class BenchServePeers : public testing::Test {
 protected:
  struct Asked {
    std::string server;
    json::value body;
  };

  std::string url_of(const ScriptedServer& server) { return "http://127.0.0.1:" + server.port(); }

  std::function<Scripted(const std::string&, int)> scripted(const std::string& name,
                                                            int status = 200) {
    return [=, this](const std::string& request, int) {
      if (request.starts_with("GET ")) {
        return plain(200, "", R"({"data":[{"id":"model of )" + name + R"("}]})");
      }
      const std::lock_guard lock(mutex_);
      asked_.push_back({name, json::parse(request.substr(request.find("\r\n\r\n") + 4))});
      return status == 200 ? loadgen::streamed(4) : plain(status, "", "{}");
    };
  }

  Scratch scratch_;
  std::string json_path_ = (scratch_ / "json").string();
  std::mutex mutex_;
  std::vector<Asked> asked_;
};

TEST_F(BenchServePeers, AreAskedTheSameByTurnsAndComparedInOneReport) {
  Finished bench;
  const std::string html = (scratch_ / "html").string();
  {
    ScriptedServer ours(scripted("ours")), peer(scripted("peer"));
    bench = troupe({"bench", "serve", "--url", "ours=" + url_of(ours), "--url",
                    "peer=" + url_of(peer), "--num-warmups", "1", "--num-prompts", "2", "--repeat",
                    "3", "--sweep", "concurrency=1,2", "--json", json_path_, "--html", html});
  }
  ASSERT_EQ(bench.code, 0) << bench.output;
  // One warm-up each; then six rounds, each begun by the other one.
  std::vector<std::string> expected = {"ours", "peer"};
  for (int round = 0; round < 6; ++round) {
    for (const int turn : {0, 1}) {
      expected.insert(expected.end(), 2, (round + turn) % 2 == 0 ? "ours" : "peer");
    }
  }
  ASSERT_EQ(asked_.size(), expected.size());
  std::set<std::string> prompts;
  for (size_t i = 0; i < asked_.size(); ++i) {
    EXPECT_EQ(asked_[i].server, expected[i]) << i;
    EXPECT_EQ(asked_[i].body.at("model"), json::string("model of " + expected[i]));
    prompts.insert(json::serialize(asked_[i].body.at("prompt")));
  }
  for (size_t round = 0; round < 6; ++round) {
    std::set<std::string> of_turn[2];
    for (size_t i = 0; i < 4; ++i) {
      of_turn[i / 2].insert(json::serialize(asked_[2 + 4 * round + i].body.at("prompt")));
    }
    EXPECT_EQ(of_turn[0], of_turn[1]) << "at one repeat all are asked the same";
  }
  EXPECT_EQ(prompts.size(), 1U + 6 * 2) << "and something else at another one";

  const json::array runs = json::parse(read_file(json_path_)).at("runs").as_array();
  ASSERT_EQ(runs.size(), 12U);
  EXPECT_EQ(runs[2].at("server"), "peer");
  EXPECT_EQ(runs[2].at("model_id"), "model of peer");
  EXPECT_EQ(runs[2].at("repeat"), 1);
  for (const char* text :
       {"\npeer, concurrency 1 (1)\n====", "| concurrency | server |", "| 2 | peer / ours | "}) {
    EXPECT_NE(bench.output.find(text), std::string::npos) << text << "\n" << bench.output;
  }
  EXPECT_NE(read_file(html).find("<i></i>peer</span>"), std::string::npos);
}

TEST_F(BenchServePeers, AreNamedByHostAndPortAndMayHaveModelsOfTheirOwn) {
  Finished bench;
  std::string name;
  {
    ScriptedServer ours(scripted("ours")), peer(scripted("peer"));
    name = "127.0.0.1:" + peer.port();
    bench = troupe({"bench", "serve", "--url", url_of(ours), "--url", url_of(peer), "--num-prompts",
                    "1", "--model", name + "=special", "--json", json_path_});
  }
  ASSERT_EQ(bench.code, 0) << bench.output;
  ASSERT_EQ(asked_.size(), 2U);
  EXPECT_EQ(asked_[0].body.at("model"), "model of ours");
  EXPECT_EQ(asked_[1].body.at("model"), "special");
  EXPECT_EQ(json::parse(read_file(json_path_)).at("runs").at(1).at("server"), json::string(name));
}

TEST_F(BenchServePeers, ThatFailOrAreNotThereAreTold) {
  ScriptedServer ours(scripted("ours")), broken(scripted("broken", 400));
  const Finished partial = troupe({"bench", "serve", "--url", "ours=" + url_of(ours), "--url",
                                   "broken=" + url_of(broken), "--num-prompts", "1"});
  EXPECT_EQ(partial.code, 4) << partial.output;
  const Finished nobody = troupe({"bench", "serve", "--url", "ours=" + url_of(ours), "--url",
                                  "gone=http://127.0.0.1:1", "--num-prompts", "1"});
  EXPECT_EQ(nobody.code, 3) << nobody.output;
  EXPECT_NE(nobody.output.find("gone: cannot reach http://127.0.0.1:1"), std::string::npos)
      << nobody.output;
  EXPECT_EQ(asked_.size(), 2U) << "nobody is measured before all answer";
}

}  // namespace
}  // namespace troupe
