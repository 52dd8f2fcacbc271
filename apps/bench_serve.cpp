// troupe bench serve: measures a server that speaks OpenAI's interface.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <thread>

#include "apps/ask.hpp"
#include "apps/bench_options.hpp"
#include "apps/bench_results.hpp"
#include "apps/command.hpp"
#include "apps/whole_file.hpp"
#include "gateway/http_client.hpp"
#include "loadgen/report.hpp"

namespace troupe::apps {
namespace {

constexpr auto kReadyPoll = std::chrono::milliseconds(200);
constexpr int64_t kPlainProgressSeconds = 10;

/// The line as it was typed, with the secrets in it left out.
std::string command_of(const Arguments& arguments, std::vector<std::string> secrets) {
  // The longest first, or one that begins like another would lose its beginning alone.
  std::ranges::sort(secrets, std::ranges::greater{}, &std::string::size);
  std::string text = "troupe bench serve";
  for (const std::string& argument : arguments) {
    const bool needs_quotes = argument.find_first_of(" {}\"*") != std::string::npos;
    text.append(needs_quotes ? " '" : " ").append(argument).append(needs_quotes ? "'" : "");
  }
  constexpr std::string_view kHidden = "...";
  for (const std::string& secret : secrets) {
    if (secret.empty()) continue;
    for (size_t at = 0; (at = text.find(secret, at)) != std::string::npos; at += kHidden.size()) {
      text.replace(at, secret.size(), kHidden);
    }
  }
  return text;
}

/// The model to ask for, once the server answers. Who names it needs no list from the server, which
/// some servers only give for a key.
Result<std::string> wait_for_model(const gateway::HttpClient& client, const std::string& named,
                                   Duration ready_timeout) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::nanoseconds(ready_timeout.ns);
  while (true) {
    auto model = first_model(client);
    const bool answers = model.ok() || model.error().code == Code::kInvalidArgument;
    if (answers && !named.empty()) return named;
    if (model.ok()) return model;
    if (std::chrono::steady_clock::now() >= deadline) return model;
    std::this_thread::sleep_for(kReadyPoll);
  }
}

/// The options to load each server with, once all answer; fills in the models to ask for.
Result<std::vector<loadgen::LoadOptions>> reach_all(ServeOptions& options) {
  std::vector<loadgen::LoadOptions> targets;
  for (loadgen::Server& server : options.servers) {
    const auto client = TRY(gateway::HttpClient::create(server.url));
    auto model = wait_for_model(client, server.model, options.ready_timeout);
    if (!model.ok() && !server.name.empty()) {
      return std::move(model).error().with_context(server.name);
    }
    server.model = TRY(std::move(model));
    loadgen::LoadOptions& target = targets.emplace_back(options.load);
    target.body.model = server.model;
    target.host = client.host();
    target.port = client.port();
    target.path = client.base_path() + options.endpoint;
  }
  return targets;
}

/// Prints how a load goes on: a line that changes on a terminal, else one every ten seconds.
class ProgressLine {
 public:
  explicit ProgressLine(std::string label) : label_(std::move(label)) {}
  ~ProgressLine() {
    if (shown_ && terminal_) std::fprintf(stderr, "\r\033[K");
  }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const loadgen::Progress& progress) {
    const int64_t second = progress.elapsed.ns / 1'000'000'000;
    if (!terminal_ && second < next_plain_) return;
    next_plain_ = second + kPlainProgressSeconds;
    shown_ = true;
    std::fprintf(stderr, "%s%s: %lld s, %llu ended (%llu failed), %u in flight, %.0f events/s%s",
                 terminal_ ? "\r\033[K" : "", label_.c_str(), static_cast<long long>(second),
                 static_cast<unsigned long long>(progress.num_ended),
                 static_cast<unsigned long long>(progress.num_failed), progress.num_in_flight,
                 progress.output_events_per_s, terminal_ ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  std::string label_;
  bool terminal_ = isatty(STDERR_FILENO) != 0;
  bool shown_ = false;
  int64_t next_plain_ = kPlainProgressSeconds;
};

Result<loadgen::LoadResult> run_load(const loadgen::LoadOptions& target,
                                     const loadgen::WordPool& pool,
                                     const std::vector<loadgen::Stream>& streams,
                                     const std::string& label) {
  ProgressLine line(label);
  return loadgen::run_load(target, pool, streams,
                           [&](const loadgen::Progress& progress) { line.show(progress); });
}

/// "troupe, concurrency 4 (2)"
std::string label_of(const loadgen::Plan& plan, const std::string& server,
                     std::optional<double> load, uint32_t repeat) {
  std::string label = server;
  if (load) {
    char text[96];
    std::snprintf(text, sizeof text, "%s %g", plan.sweep->name.c_str(), *load);
    label.append(label.empty() ? "" : ", ").append(text);
  } else if (label.empty()) {
    label = "run";
  }
  if (plan.num_repeats > 1) label += " (" + std::to_string(repeat + 1) + ")";
  return label;
}

/// Every run, each printed when it has ended. A round is one load and repeat: it asks all servers
/// the same, one after the other, and begins with the next one each time.
Result<void> run_all(const ServeOptions& options, const std::vector<loadgen::LoadOptions>& targets,
                     loadgen::Benchmark& benchmark) {
  const loadgen::Plan& plan = options.plan;
  for (size_t i = 0; plan.num_warmups > 0 && i < targets.size(); ++i) {
    const std::string& server = benchmark.servers[i].name;
    const auto warmup = TRY(run_load(targets[i], options.pool, loadgen::warmup_of(plan),
                                     server.empty() ? "warm-up" : server + ", warm-up"));
    if (warmup.interrupted) return Error{Code::kCancelled, "interrupted while warming up"};
  }
  std::vector<std::optional<double>> loads{std::nullopt};
  if (plan.sweep) loads.assign(plan.sweep->values.begin(), plan.sweep->values.end());
  const uint64_t num_servers = targets.size();
  const uint64_t num_runs = loads.size() * plan.num_repeats * num_servers;
  for (uint64_t run_idx = 0; run_idx < num_runs; ++run_idx) {
    const uint64_t round = run_idx / num_servers, turn = run_idx % num_servers;
    const uint64_t server_idx = (round + turn) % num_servers;
    const std::optional<double> load = loads[round / plan.num_repeats];
    const auto repeat = static_cast<uint32_t>(round % plan.num_repeats);
    const auto streams = loadgen::streams_of(plan, load, round);
    const std::string label = label_of(plan, benchmark.servers[server_idx].name, load, repeat);
    auto result = TRY(run_load(targets[server_idx], options.pool, streams, label));
    loadgen::Run run =
        loadgen::make_run(std::move(result), streams, plan.tenants, options.objectives);
    run.server_idx = static_cast<uint32_t>(server_idx);
    run.load = load;
    run.repeat = repeat;
    if (num_runs > 1) std::printf("%s\n", label.c_str());
    std::printf("%s\n", loadgen::text_report(benchmark, run).c_str());
    std::fflush(stdout);
    benchmark.runs.push_back(std::move(run));
    if (benchmark.runs.back().result.interrupted) return {};
  }
  return {};
}

/// The files that were asked for; what keeps one from being written does not keep the other.
Result<void> write_reports(const ServeOptions& options, const loadgen::Benchmark& benchmark) {
  Result<void> json, html;
  if (!options.json_path.empty()) {
    json = write_whole(options.json_path, loadgen::json_report(benchmark, options.saves_details));
  }
  if (!options.html_path.empty()) {
    html = write_whole(options.html_path, loadgen::html_report(benchmark));
  }
  return json.ok() ? html : json;
}

int exit_code_of(const loadgen::Benchmark& benchmark) {
  uint64_t completed = 0, failed = 0;
  for (const loadgen::Run& run : benchmark.runs) {
    if (run.result.interrupted) return kInterrupted;
    completed += run.total.completed;
    failed += run.total.failed - run.total.refused;  // refusing under overload is no fault
  }
  return completed == 0 ? kFailure : failed > 0 ? kPartial : kSuccess;
}

Result<int> bench_serve(const Arguments& arguments, const Values& values) {
  ServeOptions options = TRY(read_serve_options(values));
  for (const std::string& path : {options.json_path, options.html_path}) {
    if (!path.empty()) TRY(check_writable(path));  // now, not after an hour of measuring
  }
  const auto targets = TRY(reach_all(options));

  const loadgen::Plan& plan = options.plan;
  loadgen::Benchmark benchmark{
      .command = command_of(arguments, {values["api-key"].as<std::string>(),
                                        plan.background ? plan.background->api_key : ""}),
      .date = utc_now(),
      .servers = options.servers,
      .endpoint = options.endpoint,
      .workload = loadgen::describe_workload(plan),
      .load = loadgen::describe_load(plan),
      .max_concurrency = plan.concurrency ? plan.concurrency : plan.max_concurrency,
      .request_rate = plan.rate,
      .burstiness = plan.burstiness,
      .num_prompts = plan.num_prompts.value_or(0),
      .seed = plan.seed,
      .sweep = plan.sweep ? plan.sweep->name : "",
      .runs = {}};
  for (const auto& [name, url, model] : benchmark.servers) {
    std::fprintf(stderr, "%s%s%s%s, model %s\n", name.c_str(), name.empty() ? "" : ": ",
                 url.c_str(), benchmark.endpoint.c_str(), model.c_str());
  }
  std::fprintf(stderr, "%s; %s\n", benchmark.load.c_str(), benchmark.workload.c_str());
  TRY(run_all(options, targets, benchmark));
  if (benchmark.runs.size() > 1) std::printf("%s", loadgen::sweep_table(benchmark).c_str());
  TRY(write_reports(options, benchmark));
  return exit_code_of(benchmark);
}

}  // namespace

int run_bench_serve(const Arguments& arguments) {
  const CommandLine line{
      .usage = "troupe bench serve [OPTIONS]",
      .text =
          "Measures any server with OpenAI's streaming interface (Troupe, vLLM, SGLang, "
          "llama.cpp):\n"
          "throughput, TTFT, TPOT, ITL and end-to-end latency, with vLLM's names and definitions.\n"
          "\n"
          "  troupe bench serve --concurrency 8 --input-len 512 --output-len 64\n"
          "  troupe bench serve --request-rate 4 --duration 60 --goodput ttft:500 tpot:100\n"
          "  troupe bench serve --sweep concurrency=1,4,16 --duration 30 --html sweep.html\n"
          "  troupe bench serve --mooncake trace.jsonl --trace-to 600 --trace-speedup 2\n"
          "  troupe bench serve --url a=http://127.0.0.1:8000 --url b=http://127.0.0.1:8001 "
          "--repeat 3\n"
          "\n"
          "Load: one client in a closed loop unless --concurrency, --request-rate, --sweep, "
          "--tenant "
          "or a\ntrace says otherwise. A trace brings its own arrivals; with --concurrency or "
          "--request-rate it\nonly gives the lengths.\n"
          "\n"
          "Latency counts from the sending in a closed loop, and from the scheduled arrival in an "
          "open\none, even if the request was sent later; late arrivals are counted. TTFT ends at "
          "the "
          "first\nevent with text, TPOT is (E2EL - TTFT) / (output tokens - 1) of each request, "
          "and "
          "ITL is every\ngap between events with text. Tokens are the server's own counts "
          "(usage).\n"
          "\n"
          "Prompts are drawn from the seed. /v1/completions gets token ids, so lengths are exact; "
          "a "
          "text\nhas so many frequent words, which is near, or exact with --tokenizer. "
          "docs/benchmarking.md\nshows how to compare servers.\n"
          "\n"
          "Exit codes: 0 done (refusals included), 4 some requests failed, 1 all did or a report "
          "could not be\nwritten, 2 wrong options (those without effect included), 3 no server, "
          "130 interrupted.",
      .options = serve_option_table()};
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto code = bench_serve(arguments, values);
  return code.ok() ? *code : fail(code.error());
}

}  // namespace troupe::apps
