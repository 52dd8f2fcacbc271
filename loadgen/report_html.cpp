#include <algorithm>
#include <cmath>
#include <functional>

#include "loadgen/report.hpp"
#include "loadgen/svg_plot.hpp"

namespace troupe::loadgen {
namespace {

constexpr size_t kMaxCurves = 8;   // of one plot: more cannot be told apart
constexpr size_t kMaxDots = 3000;  // of one plot: more only make the page heavy
constexpr double kLogFrom = 20;    // a wider range of latencies gets a logarithmic axis

constexpr const char* kStyle = R"css(
:root{--bg:#fbfbfa;--card:#fff;--ink:#1b1d21;--soft:#667;--grid:#e7e8ea;--axis:#9a9ea6;
--s0:#2a6fdb;--s1:#e0662b;--s2:#1f9d78;--s3:#b1459a;--s4:#c99a06;--s5:#5a55c9;--s6:#3aa6c4;--s7:#7b8290;
--ramp-from:#a9cbf5;--ramp-to:#10357a}
@media(prefers-color-scheme:dark){:root{--bg:#15171b;--card:#1d2025;--ink:#e8e9ec;--soft:#9aa1ad;
--grid:#2c3037;--axis:#5d646f;--s0:#6ea8ff;--s1:#ff9663;--s2:#4ecba4;--s3:#e07cc9;--s4:#e8c04a;
--s5:#9d98ff;--s6:#6fd0ea;--s7:#aab1bd;--ramp-from:#2c5591;--ramp-to:#b8d8ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1160px;margin:0 auto;padding:32px 20px 48px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 12px}
p{margin:4px 0}.unit,.meta{color:var(--soft);font-weight:400}
code{font:13px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:20px}
.tile,figure,table{background:var(--card);border:1px solid var(--grid);border-radius:8px}
.tile{padding:12px 14px}.tile b{display:block;font-size:24px;font-weight:600;line-height:1.25}
.tile span{color:var(--soft);font-size:13px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:14px}
figure{margin:0;padding:12px 14px 6px}figcaption{font-weight:600;font-size:14px}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:12.5px;color:var(--soft);margin-top:3px}
.legend i{display:inline-block;width:14px;height:3px;border-radius:2px;background:var(--c);
vertical-align:middle;margin-right:5px}
svg{display:block;width:100%;height:auto}
.grid{stroke:var(--grid)}.axis{stroke:var(--axis)}
.tick,.label{fill:var(--soft);font-size:11.5px}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}
.dot{fill:var(--c);stroke:var(--card);stroke-width:.8}
.wide{overflow-x:auto}table{border-collapse:separate;border-spacing:0;width:100%;font-size:13.5px}
th,td{padding:6px 9px;text-align:right;border-bottom:1px solid var(--grid);
font-variant-numeric:tabular-nums;white-space:nowrap}
th{color:var(--soft);font-weight:500}tr:last-child td{border-bottom:0}
th:first-child,td:first-child{text-align:left}
@media(max-width:500px){.plots{grid-template-columns:1fr}}
)css";

std::string tile(const std::string& name, const std::string& value) {
  return "<div class=\"tile\"><b>" + value + "</b><span>" + name + "</span></div>";
}

std::string row(const char* cell, const std::vector<std::string>& cells) {
  std::string out = "<tr>";
  for (const std::string& text : cells) {
    out += std::string("<") + cell + ">" + escaped(text) + "</" + cell + ">";
  }
  return out + "</tr>";
}

std::string load_name(const Benchmark& benchmark, const Run& run) {
  return run.load ? benchmark.sweep + " " + readable(*run.load) : "all requests";
}

/// The part of values at or below x. Drawn through at most 300 quantiles, denser in the tail.
Series cdf(const Distribution& values, const std::string& name) {
  Series series{.name = name, .points = {}};
  if (values.empty()) return series;
  const auto add = [&](double percent) {
    series.points.emplace_back(values.percentile(percent), percent / 100);
  };
  for (int i = 0; i < 190; ++i) add(i * 0.5);
  for (int i = 0; i <= 100; ++i) add(95 + i * 0.05);
  return series;
}

/// First runs of each load, at most as many as one plot shows.
std::vector<const Run*> shown_runs(const Benchmark& benchmark) {
  std::vector<const Run*> runs;
  for (const Run& run : benchmark.runs) {
    if (run.repeat == 0) runs.push_back(&run);
  }
  if (runs.size() <= kMaxCurves) return runs;
  std::vector<const Run*> some;
  for (size_t i = 0; i < kMaxCurves; ++i)
    some.push_back(runs[i * (runs.size() - 1) / (kMaxCurves - 1)]);
  return some;
}

std::string distribution_plots(const Benchmark& benchmark) {
  std::string out =
      "<h2>Distributions <span class=\"unit\">part of the requests (of the gaps, for "
      "ITL) at or below</span></h2><div class=\"plots\">";
  for (const LatencyName& name : kLatencies) {
    Plot plot{.title = name.title,
              .x_label = "ms",
              .y_label = "",
              .series = {},
              .is_ordered = !benchmark.sweep.empty(),
              .y_max = 1};
    double least = 1e300, most = 0;
    for (const Run* run : shown_runs(benchmark)) {
      const Distribution& values = run->total.*name.values;
      plot.series.push_back(cdf(values, load_name(benchmark, *run)));
      if (values.empty()) continue;
      least = std::min(least, values.percentile(0.5));  // some events come together: gaps of 0
      most = std::max(most, values.max());
    }
    if (least > 0 && most / least > kLogFrom) plot.log_x_from = least / 1.05;
    out += svg(plot);
  }
  return out + "</div>\n";
}

/// Without the last second, which is only a part of one.
Series per_second(const std::string& name, const std::vector<double>& values) {
  Series series{.name = name, .points = {}};
  for (size_t i = 0; i + 1 < std::max<size_t>(values.size(), 2) && i < values.size(); ++i) {
    series.points.emplace_back(static_cast<double>(i), values[i]);
  }
  return series;
}

std::string timeline_plots(const Run& run) {
  std::vector<const Record*> records;
  for (const Record& record : run.result.records) {
    if (!record.is_background) records.push_back(&record);
  }
  const Timeline line = timeline_of(records, run.result.start, run.result.end);
  const auto plot = [](const char* title, const char* unit, std::vector<Series> series) {
    return svg({.title = title,
                .x_label = "seconds of the run",
                .y_label = unit,
                .series = std::move(series)});
  };
  Series first{.name = "TTFT", .points = {}, .mark = Series::Mark::kDots};
  Series whole{.name = "E2EL", .points = {}, .mark = Series::Mark::kDots};
  const size_t every = records.size() / kMaxDots + 1;
  for (size_t i = 0; i < records.size(); i += every) {
    const Record& record = *records[i];
    if (record.outcome != Outcome::kServed || !record.ttft()) continue;
    const double at = to_seconds(record.start - run.result.start);
    first.points.emplace_back(at, to_seconds(*record.ttft()) * 1e3);
    whole.points.emplace_back(at, to_seconds(record.e2el()) * 1e3);
  }
  return "<h2>Over time</h2><div class=\"plots\">" +
         plot("Output", "tokens/s", {per_second("tokens", line.output_tokens)}) +
         plot("Requests in flight", "", {per_second("in flight", line.in_flight)}) +
         plot("TTFT", "ms, by the start of the request", {first}) +
         plot("End-to-end latency", "ms, by the start of the request", {whole}) + "</div>\n";
}

Series swept(const Benchmark& benchmark, const std::string& name, double (*x)(const Run&),
             const std::function<double(const Summary&)>& y) {
  Series series{.name = name, .points = {}, .mark = Series::Mark::kLineAndDots};
  for (const Run& run : benchmark.runs) {
    if (run.repeat == 0) series.points.emplace_back(x(run), y(run.total));
  }
  return series;
}

std::string sweep_plots(const Benchmark& benchmark) {
  const auto by_load = [](const Run& run) { return *run.load; };
  const auto by_throughput = [](const Run& run) { return run.total.output_throughput; };
  const auto percentiles = [&](const Distribution Summary::*values, auto x) {
    std::vector<Series> series;
    for (const int percent : {50, 90, 99}) {
      series.push_back(swept(benchmark, "P" + std::to_string(percent), x,
                             [=](const Summary& s) { return (s.*values).percentile(percent); }));
    }
    return series;
  };
  const std::string load = benchmark.sweep == "rate" ? "requests/s asked for" : "clients";
  std::string out = "<h2>By load</h2><div class=\"plots\">";
  const auto add = [&](const char* title, const char* unit, const std::string& x_label,
                       std::vector<Series> series) {
    out += svg({.title = title, .x_label = x_label, .y_label = unit, .series = std::move(series)});
  };
  add("Latency against throughput: TPOT", "ms", "output tokens/s",
      percentiles(&Summary::tpot_ms, +by_throughput));
  add("Latency against throughput: TTFT", "ms", "output tokens/s",
      percentiles(&Summary::ttft_ms, +by_throughput));
  add("Output", "tokens/s", load, {swept(benchmark, "tokens/s", by_load, [](const Summary& s) {
        return s.output_throughput;
      })});
  std::vector<Series> requests = {
      swept(benchmark, "served", by_load, [](const Summary& s) { return s.request_throughput; })};
  if (benchmark.runs.front().total.objectives.any()) {
    requests.push_back(
        swept(benchmark, "goodput", by_load, [](const Summary& s) { return s.request_goodput; }));
  }
  add("Requests", "per second", load, std::move(requests));
  add("TTFT", "ms", load, percentiles(&Summary::ttft_ms, +by_load));
  add("TPOT", "ms", load, percentiles(&Summary::tpot_ms, +by_load));
  return out + "</div>\n";
}

std::string tiles(const Summary& sum) {
  std::string out = "<div class=\"tiles\">";
  out += tile("requests served", readable(static_cast<double>(sum.completed)));
  out += tile("failed, refused ones included", readable(static_cast<double>(sum.failed)));
  out += tile("requests/s", readable(sum.request_throughput));
  out += tile("output tokens/s", readable(sum.output_throughput));
  if (sum.objectives.any()) out += tile("met the objectives, %", readable(sum.attainment_percent));
  out += tile("TTFT P50, ms", readable(sum.ttft_ms.percentile(50)));
  out += tile("TTFT P99, ms", readable(sum.ttft_ms.percentile(99)));
  out += tile("TPOT P50, ms", readable(sum.tpot_ms.percentile(50)));
  out += tile("ITL P99, ms", readable(sum.itl_ms.percentile(99)));
  return out + "</div>\n";
}

std::vector<std::string> figures(const Summary& sum) {
  std::vector<std::string> cells;
  for (const double value :
       {static_cast<double>(sum.completed), static_cast<double>(sum.failed),
        static_cast<double>(sum.refused), static_cast<double>(sum.unsent), sum.request_throughput,
        sum.output_throughput, sum.ttft_ms.percentile(50), sum.ttft_ms.percentile(99),
        sum.tpot_ms.percentile(50), sum.tpot_ms.percentile(99), sum.itl_ms.percentile(99),
        sum.e2el_ms.percentile(50)}) {
    cells.push_back(readable(value));
  }
  cells.push_back(sum.objectives.any() ? readable(sum.request_goodput) : "-");
  return cells;
}

std::string table(const std::string& first,
                  const std::vector<std::pair<std::string, const Summary*>>& lines) {
  std::vector<std::string> head = {first,      "served",       "failed",   "refused",  "unsent",
                                   "req/s",    "output tok/s", "TTFT P50", "TTFT P99", "TPOT P50",
                                   "TPOT P99", "ITL P99",      "E2EL P50", "goodput/s"};
  std::string out = "<div class=\"wide\"><table>" + row("th", head);
  for (const auto& [name, sum] : lines) {
    std::vector<std::string> cells = figures(*sum);
    cells.insert(cells.begin(), name);
    out += row("td", cells);
  }
  return out + "</table></div>\n";
}

std::string error_line(const std::string& run, const std::string& kind, const ErrorCount& error) {
  return "<p>" + std::to_string(error.count) + " x " + escaped(kind) + ", " + escaped(run) +
         ": <code>" + escaped(error.sample) + "</code></p>";
}

std::string run_tables(const Benchmark& benchmark) {
  std::vector<std::pair<std::string, const Summary*>> runs, tenants;
  std::string errors;
  for (const Run& run : benchmark.runs) {
    const std::string name =
        load_name(benchmark, run) +
        (run.repeat > 0 ? ", again (" + std::to_string(run.repeat + 1) + ")" : "");
    runs.emplace_back(name, &run.total);
    for (const auto& [tenant, sum] : run.tenants) {
      std::string who = tenant;
      if (benchmark.runs.size() > 1) who.append(", ").append(name);
      tenants.emplace_back(std::move(who), &sum);
    }
    if (run.background) {
      tenants.emplace_back(std::string("background, ").append(name), &*run.background);
    }
    for (const auto& [kind, error] : run.total.errors) errors += error_line(name, kind, error);
  }
  std::string out =
      "<h2>Runs <span class=\"unit\">latencies in ms</span></h2>" + table("load", runs);
  if (!tenants.empty()) out += "<h2>Tenants and background</h2>" + table("who", tenants);
  if (!errors.empty()) out += "<h2>Errors</h2>" + errors;
  return out;
}

}  // namespace

std::string html_report(const Benchmark& benchmark) {
  std::string out =
      "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\"><title>" +
      escaped(benchmark.model) + ": serving benchmark</title><style>" + kStyle +
      "</style><main>\n<h1>" + escaped(benchmark.model) + "</h1><p class=\"meta\">" +
      escaped(benchmark.url + benchmark.endpoint) + " &middot; " + escaped(benchmark.date) +
      "</p><p class=\"meta\">" + escaped(benchmark.load) + " &middot; " +
      escaped(benchmark.workload) + "</p><p><code>" + escaped(benchmark.command) + "</code></p>\n";
  if (!benchmark.sweep.empty()) {
    out += sweep_plots(benchmark);
  } else {
    out += tiles(benchmark.runs.front().total);
  }
  out += distribution_plots(benchmark);
  if (benchmark.sweep.empty()) out += timeline_plots(benchmark.runs.front());
  return out + run_tables(benchmark) + "</main></html>\n";
}

}  // namespace troupe::loadgen
