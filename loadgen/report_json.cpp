#include <cmath>

#include "gateway/json_writer.hpp"
#include "loadgen/report.hpp"

namespace troupe::loadgen {
namespace {

using gateway::JsonWriter;

void write_distribution(JsonWriter& json, const std::string& name, const Distribution& values) {
  json.field("mean_" + name, values.mean());
  json.field("median_" + name, values.percentile(50));
  json.field("std_" + name, values.standard_deviation());
  json.field("min_" + name, values.min());
  json.field("max_" + name, values.max());
  for (const int percent : kPercentiles) {
    json.field("p" + std::to_string(percent) + "_" + name, values.percentile(percent));
  }
}

void write_summary(JsonWriter& json, const Summary& sum) {
  json.field("duration", sum.duration_s)
      .field("completed", sum.completed)
      .field("failed", sum.failed)
      .field("refused", sum.refused)
      .field("interrupted", sum.interrupted)
      .field("total_input_tokens", sum.total_input_tokens)
      .field("total_output_tokens", sum.total_output_tokens)
      .field("total_cached_tokens", sum.cached_tokens)
      .field("request_throughput", sum.request_throughput);
  if (sum.objectives.any()) {
    json.field("request_goodput", sum.request_goodput)
        .field("slo_attainment_percent", sum.attainment_percent);
  } else {
    json.field("request_goodput", nullptr);
  }
  json.field("output_throughput", sum.output_throughput)
      .field("total_token_throughput", sum.total_token_throughput)
      .field("max_output_tokens_per_s", sum.max_output_tokens_per_s)
      .field("max_concurrent_requests", sum.max_concurrent_requests);
  for (const LatencyName& name : kLatencies) {
    write_distribution(json, std::string(name.key) + "_ms", sum.*name.values);
  }
  write_distribution(json, "refusal_ms", sum.refusal_ms);
  write_distribution(json, "send_delay_ms", sum.delay_ms);
  json.field("num_refusals", sum.refusal_ms.count())
      .field("late_arrivals", sum.late)
      .field("unsent_arrivals", sum.unsent)
      .field("short_outputs", sum.num_short)
      .field("tokens_counted_by_server", sum.has_usage);
  json.key("errors_by_kind").begin_object();
  for (const auto& [kind, error] : sum.errors) {
    json.key(kind).begin_object();
    json.field("count", error.count).field("sample", error.sample).end_object();
  }
  json.end_object();
}

double seconds_of(Duration d) { return to_seconds(d); }

/// vLLM's lists, in seconds, and what else a request is known by. All have one entry per request.
void write_details(JsonWriter& json, const Run& run) {
  const auto list = [&](const char* name, const auto& value_of) {
    json.key(name).begin_array();
    for (const Record& record : run.result.records) json.value(value_of(record));
    json.end_array();
  };
  list("input_lens", [](const Record& r) { return r.input_tokens; });
  list("output_lens", [](const Record& r) { return r.output_tokens; });
  list("ttfts", [](const Record& r) { return r.ttft() ? seconds_of(*r.ttft()) : 0.0; });
  json.key("itls").begin_array();
  for (const Record& record : run.result.records) {
    json.begin_array();
    for (size_t i = 1; i < record.tokens.size(); ++i) {
      json.value(seconds_of(record.tokens[i] - record.tokens[i - 1]));
    }
    json.end_array();
  }
  json.end_array();
  list("errors", [](const Record& r) {
    return r.error_kind.empty() ? std::string() : r.error_kind + ": " + r.error;
  });
  list("start_times", [&](const Record& r) { return seconds_of(r.start - run.result.start); });
  list("send_times", [&](const Record& r) { return seconds_of(r.sent - run.result.start); });
  list("end_times", [&](const Record& r) { return seconds_of(r.ended - run.result.start); });
  list("sources", [](const Record& r) { return r.source; });
  list("tenants", [](const Record& r) { return r.tenant; });
  list("conversations", [](const Record& r) { return r.conversation; });
  list("turns", [](const Record& r) { return r.turn; });
}

void write_run(JsonWriter& json, const Benchmark& benchmark, const Run& run, bool detailed) {
  const Server& server = benchmark.servers[run.server_idx];
  json.begin_object();
  if (!server.name.empty()) json.field("server", server.name);
  json.field("date", benchmark.date)
      .field("backend", benchmark.endpoint)
      .field("base_url", server.url)
      .field("model_id", server.model)
      .field("command", benchmark.command)
      .field("workload", benchmark.workload)
      .field("load", benchmark.load)
      .field("seed", benchmark.seed)
      .field("num_prompts", benchmark.num_prompts);
  const bool sweeps_rate = benchmark.sweep == "rate";
  const auto rate = sweeps_rate ? run.load : benchmark.request_rate;
  if (rate && std::isinf(*rate)) {
    json.field("request_rate", "inf");  // as vLLM writes it
  } else {
    json.field("request_rate", rate);
  }
  json.field("burstiness", benchmark.burstiness);
  if (benchmark.sweep == "concurrency") {
    json.field("max_concurrency", static_cast<uint64_t>(*run.load));
  } else {
    json.field("max_concurrency", benchmark.max_concurrency);
  }
  json.field("repeat", run.repeat).field("was_interrupted", run.result.interrupted);
  json.field("client_max_lag_ms", static_cast<double>(run.result.max_lag.ns) * 1e-6);
  write_summary(json, run.total);
  json.key("tenant_results").begin_object();
  for (const auto& [name, sum] : run.tenants) {
    json.key(name).begin_object();
    write_summary(json, sum);
    json.end_object();
  }
  json.end_object();
  json.key("background");
  if (run.background) {
    json.begin_object();
    write_summary(json, *run.background);
    json.end_object();
  } else {
    json.value(nullptr);
  }
  if (detailed) write_details(json, run);
  json.end_object();
}

}  // namespace

std::string json_report(const Benchmark& benchmark, bool detailed) {
  JsonWriter json;
  if (benchmark.runs.size() == 1) {
    write_run(json, benchmark, benchmark.runs.front(), detailed);
    return json.take() + "\n";
  }
  json.begin_object().field("sweep", benchmark.sweep).key("runs").begin_array();
  for (const Run& run : benchmark.runs) write_run(json, benchmark, run, detailed);
  json.end_array().end_object();
  return json.take() + "\n";
}

}  // namespace troupe::loadgen
