#include "loadgen/report.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>

namespace troupe::loadgen {
namespace {

constexpr int kWidth = 50;

std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

std::string centred(const std::string& title, char fill) {
  const auto left = static_cast<size_t>(kWidth - static_cast<int>(title.size())) / 2;
  std::string line = std::string(left, fill) + title;
  return line + std::string(kWidth - line.size(), fill) + "\n";
}

/// "Name:      value"
std::string line(const std::string& name, const std::string& value) {
  std::string text = name + ":";
  text.resize(std::max<size_t>(41, text.size() + 1), ' ');
  return text + value + "\n";
}
std::string line(const std::string& name, double value) {
  return line(name, formatted("%.2f", value));
}
std::string line(const std::string& name, uint64_t value) {
  return line(name, std::to_string(value));
}

std::string latency_lines(const LatencyName& name, const Distribution& values) {
  std::string text = centred(name.title, '-');
  const std::string unit = std::string(" ") + name.label + " (ms)";
  text += line("Mean" + unit, values.mean());
  text += line("Median" + unit, values.percentile(50));
  for (const int percent : kPercentiles) {
    text += line("P" + std::to_string(percent) + unit, values.percentile(percent));
  }
  return text;
}

/// The latencies once more as AIPerf shows them, a row each.
std::string latency_table(const Summary& sum) {
  char row[128];
  std::snprintf(row, sizeof row, "%-13s %9s %9s %9s %9s %9s %9s %9s\n", "ms", "avg", "min", "max",
                "p99", "p90", "p75", "std");
  std::string text = row;
  for (const LatencyName& name : kLatencies) {
    const Distribution& values = sum.*name.values;
    std::snprintf(row, sizeof row, "%-13s %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", name.label,
                  values.mean(), values.min(), values.max(), values.percentile(99),
                  values.percentile(90), values.percentile(75), values.standard_deviation());
    text += row;
  }
  return text;
}

/// What spoils a run, said next to its figures.
std::string notes(const Run& run) {
  const Summary& sum = run.total;
  std::string text;
  if (run.result.interrupted) text += "Interrupted: the figures are of what had ended by then.\n";
  if (!sum.has_usage) {
    text += "The server sent no usage: tokens are events with text and planned words.\n";
  }
  if (sum.num_short > 0) {
    text += std::to_string(sum.num_short) + " answers were shorter than asked for.\n";
  }
  for (const auto& [kind, error] : sum.errors) {
    text += std::to_string(error.count) + " x " + kind + ": " + error.sample + "\n";
  }
  return text;
}

std::string overload_lines(const Summary& sum) {
  std::string text;
  if (!sum.refusal_ms.empty()) {
    text += centred("Refusals (429, 503)", '-');
    text += line("Refused requests", sum.refused);
    text += line("Refusals, retried ones included", uint64_t{sum.refusal_ms.count()});
    text += line("Median time to refuse (ms)", sum.refusal_ms.percentile(50));
    text += line("P99 time to refuse (ms)", sum.refusal_ms.percentile(99));
    text += line("Max time to refuse (ms)", sum.refusal_ms.max());
  }
  return text;
}

std::string objective_lines(const Summary& sum) {
  if (!sum.objectives.any()) return "";
  return line("Request goodput (req/s)", sum.request_goodput) +
         line("SLO attainment (%)", sum.attainment_percent);
}

std::string open_loop_lines(const Summary& sum) {
  return centred("Arrivals", '-') + line("Late arrivals (sent > 5 ms late)", sum.late) +
         line("Mean delay of sending (ms)", sum.delay_ms.mean()) +
         line("Max delay of sending (ms)", sum.delay_ms.max()) +
         line("Arrivals never sent", sum.unsent);
}

std::string tenant_table(const Run& run) {
  if (run.tenants.empty()) return "";
  std::string text = centred("Tenants", '-');
  char row[256];
  std::snprintf(row, sizeof row, "%-16s %8s %8s %8s %8s %9s %10s %10s %10s\n", "tenant", "served",
                "failed", "refused", "unsent", "tok/s", "TTFT p50", "TTFT p99", "TPOT p50");
  text += row;
  for (const auto& [name, sum] : run.tenants) {
    std::snprintf(
        row, sizeof row, "%-16.16s %8llu %8llu %8llu %8llu %9.1f %10.2f %10.2f %10.2f\n",
        name.c_str(), static_cast<unsigned long long>(sum.completed),
        static_cast<unsigned long long>(sum.failed), static_cast<unsigned long long>(sum.refused),
        static_cast<unsigned long long>(sum.unsent), sum.output_throughput,
        sum.ttft_ms.percentile(50), sum.ttft_ms.percentile(99), sum.tpot_ms.percentile(50));
    text += row;
  }
  return text;
}

/// The median of values and, if there are several, the least and the most; "-" if there is none.
std::string spread(std::vector<double> values) {
  if (values.empty()) return "-";
  const Distribution all(std::move(values));
  std::string text = formatted("%.2f", all.percentile(50));
  if (all.count() > 1) {
    text += " (" + formatted("%.2f", all.min()) + "-" + formatted("%.2f", all.max()) + ")";
  }
  return text;
}

using Value = std::function<double(const Summary&)>;

std::vector<double> values_of(const std::vector<const Run*>& runs, const Value& value) {
  std::vector<double> values;
  values.reserve(runs.size());
  for (const Run* run : runs) values.push_back(value(run->total));
  return values;
}

/// Of each repeat that both have; without those where one has nothing to compare.
std::vector<double> ratios(const std::vector<double>& values, const std::vector<double>& first) {
  std::vector<double> ratios;
  for (size_t i = 0; i < std::min(values.size(), first.size()); ++i) {
    if (values[i] > 0 && first[i] > 0) ratios.push_back(values[i] / first[i]);
  }
  return ratios;
}

}  // namespace

std::vector<RunsByServer> runs_by_load(const Benchmark& benchmark) {
  std::vector<RunsByServer> loads;
  for (const Run& run : benchmark.runs) {
    const bool begins = loads.empty() || (run.repeat == 0 && !loads.back()[run.server_idx].empty());
    if (begins) loads.emplace_back(benchmark.servers.size());
    loads.back()[run.server_idx].push_back(&run);
  }
  return loads;
}

Run make_run(LoadResult result, const std::vector<Stream>& streams,
             const std::vector<Tenant>& tenants, const Objectives& objectives) {
  Run run;
  std::vector<const Record*> measured, background;
  std::vector<std::vector<const Record*>> by_tenant(tenants.size());
  for (const Record& record : result.records) {
    if (record.is_background) {
      background.push_back(&record);
    } else {
      measured.push_back(&record);
      by_tenant[record.tenant].push_back(&record);
    }
  }
  bool has_background = false;
  for (const Stream& stream : streams) {
    has_background = has_background || stream.is_background;
    run.has_arrivals = run.has_arrivals || (stream.source.is_open && !stream.is_background);
  }
  const uint64_t num_unsent =
      std::accumulate(result.num_unsent.begin(), result.num_unsent.end(), uint64_t{0});
  run.total = summarize(measured, result.start, result.end, objectives, num_unsent);
  if (has_background) {
    run.background = summarize(background, result.start, result.end, {}, 0);
  }
  for (size_t i = 0; tenants.size() > 1 && i < tenants.size(); ++i) {
    run.tenants.emplace_back(tenants[i].name, summarize(by_tenant[i], result.start, result.end,
                                                        objectives, result.num_unsent[i]));
  }
  run.result = std::move(result);
  return run;
}

std::string text_report(const Benchmark& benchmark, const Run& run) {
  const Summary& sum = run.total;
  const bool sweeps_rate = benchmark.sweep == "rate",
             sweeps_clients = benchmark.sweep == "concurrency";
  std::string text = centred(" Serving Benchmark Result ", '=');
  text += line("Successful requests", sum.completed);
  text += line("Failed requests", sum.failed);
  if (sum.interrupted > 0) text += line("Interrupted requests", sum.interrupted);
  const auto cap =
      sweeps_clients ? std::optional(static_cast<uint32_t>(*run.load)) : benchmark.max_concurrency;
  const auto rate = sweeps_rate ? run.load : benchmark.request_rate;
  if (cap) text += line("Maximum request concurrency", uint64_t{*cap});
  if (rate) text += line("Request rate configured (RPS)", *rate);
  text += line("Benchmark duration (s)", sum.duration_s);
  text += line("Total input tokens", sum.total_input_tokens);
  if (sum.cached_tokens) text += line("Cached input tokens", *sum.cached_tokens);
  text += line("Total generated tokens", sum.total_output_tokens);
  text += line("Request throughput (req/s)", sum.request_throughput);
  text += objective_lines(sum);
  text += line("Output token throughput (tok/s)", sum.output_throughput);
  text += line("Peak output token throughput (tok/s)", sum.max_output_tokens_per_s);
  text += line("Peak concurrent requests", uint64_t{sum.max_concurrent_requests});
  text += line("Total token throughput (tok/s)", sum.total_token_throughput);
  for (const LatencyName& name : kLatencies) text += latency_lines(name, sum.*name.values);
  text += overload_lines(sum);
  if (run.has_arrivals) text += open_loop_lines(sum);
  text += tenant_table(run);
  if (run.background) {
    text += centred("Background", '-');
    text += line("Background requests served", run.background->completed);
    text += line("Background requests failed", run.background->failed);
    text += line("Median background E2EL (ms)", run.background->e2el_ms.percentile(50));
  }
  text += centred("This client", '-');
  text += line("Max lag of its own timer (ms)", static_cast<double>(run.result.max_lag.ns) * 1e-6);
  text += std::string(kWidth, '=') + "\n";
  if (sum.completed > 0) text += latency_table(sum);
  return text + notes(run);
}

std::string sweep_table(const Benchmark& benchmark) {
  std::vector<std::pair<const char*, Value>> columns = {
      {"req/s", [](const Summary& s) { return s.request_throughput; }},
      {"output tok/s", [](const Summary& s) { return s.output_throughput; }},
      {"TTFT p50 ms", [](const Summary& s) { return s.ttft_ms.percentile(50); }},
      {"TTFT p99 ms", [](const Summary& s) { return s.ttft_ms.percentile(99); }},
      {"TPOT p50 ms", [](const Summary& s) { return s.tpot_ms.percentile(50); }},
      {"ITL p99 ms", [](const Summary& s) { return s.itl_ms.percentile(99); }}};
  if (benchmark.runs.front().total.objectives.any()) {
    columns.emplace_back("goodput req/s", [](const Summary& s) { return s.request_goodput; });
  }
  columns.emplace_back("failed", [](const Summary& s) { return static_cast<double>(s.failed); });

  const std::vector<Server>& servers = benchmark.servers;
  const bool has_names = !servers.front().name.empty();
  std::string text = "| " + (benchmark.sweep.empty() ? "load" : benchmark.sweep) + " |";
  std::string rule = "|---|";
  if (has_names) {
    text += " server |";
    rule += "---|";
  }
  for (const auto& [name, value] : columns) {
    text += std::string(" ") + name + " |";
    rule += "---|";
  }
  text += "\n" + rule + "\n";
  for (const RunsByServer& runs : runs_by_load(benchmark)) {
    for (size_t i = 0; i < runs.size(); ++i) {
      if (runs[i].empty()) continue;
      const auto load = runs[i].front()->load;
      const std::string begin = "| " + (load ? formatted("%g", *load) : benchmark.load) + " |";
      std::string line = begin, ratio_line = begin;
      if (has_names) {
        line += " " + servers[i].name + " |";
        ratio_line += " " + servers[i].name + " / " + servers.front().name + " |";
      }
      for (const auto& [name, value] : columns) {
        const auto values = values_of(runs[i], value);
        line += " " + spread(values) + " |";
        ratio_line += " " + spread(ratios(values, values_of(runs.front(), value))) + " |";
      }
      text += line + "\n";
      if (i > 0) text += ratio_line + "\n";
    }
  }
  return text;
}

}  // namespace troupe::loadgen
