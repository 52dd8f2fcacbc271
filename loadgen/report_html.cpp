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

const std::string& server_name(const Benchmark& benchmark, const Run& run) {
  return benchmark.servers[run.server_idx].name;
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

/// As many of some things as one plot shows, the first and the last among them.
template <class T>
std::vector<T> shown(const std::vector<T>& all) {
  if (all.size() <= kMaxCurves) return all;
  std::vector<T> some;
  for (size_t i = 0; i < kMaxCurves; ++i) {
    some.push_back(all[i * (all.size() - 1) / (kMaxCurves - 1)]);
  }
  return some;
}

/// The first run of each server.
std::vector<const Run*> first_runs(const RunsByServer& by_server) {
  std::vector<const Run*> runs;
  for (const auto& repeats : by_server) {
    if (!repeats.empty()) runs.push_back(repeats.front());
  }
  return runs;
}

/// @param name_of what a run's curve is called
/// @param is_ordered the runs are steps of one quantity
std::string distribution_plots(const std::string& title, const std::vector<const Run*>& runs,
                               const std::function<std::string(const Run&)>& name_of,
                               bool is_ordered) {
  std::string out = "<h2>" + title +
                    " <span class=\"unit\">part of the requests (of the gaps, for "
                    "ITL) at or below</span></h2><div class=\"plots\">";
  for (const LatencyName& name : kLatencies) {
    Plot plot{.title = name.title,
              .x_label = "ms",
              .y_label = "",
              .series = {},
              .is_ordered = is_ordered,
              .y_max = 1};
    double least = 1e300, most = 0;
    for (const Run* run : runs) {
      const Distribution& values = run->total.*name.values;
      plot.series.push_back(cdf(values, name_of(*run)));
      if (values.empty()) continue;
      least = std::min(least, values.percentile(0.5));  // some events come together: gaps of 0
      most = std::max(most, values.max());
    }
    if (least > 0 && most / least > kLogFrom) plot.log_x_from = least / 1.05;
    out += svg(plot);
  }
  return out + "</div>\n";
}

/// A curve for each load; of several servers some plots for each load, with a curve for each
/// server.
std::string all_distribution_plots(const Benchmark& benchmark) {
  const auto load_of = [&](const Run& run) { return load_name(benchmark, run); };
  const auto server_of = [&](const Run& run) { return server_name(benchmark, run); };
  const auto loads = shown(runs_by_load(benchmark));
  const bool is_swept = !benchmark.sweep.empty();
  std::string out;
  std::vector<const Run*> of_loads;
  for (const RunsByServer& by_server : loads) {
    const auto runs = first_runs(by_server);
    if (benchmark.servers.size() == 1) {
      of_loads.push_back(runs.front());
    } else {
      const std::string load = is_swept ? ", " + load_of(*runs.front()) : "";
      out += distribution_plots("Distributions" + load, runs, server_of, false);
    }
  }
  if (!of_loads.empty()) out += distribution_plots("Distributions", of_loads, load_of, is_swept);
  return out;
}

/// Without the last second, which is only a part of one.
Series per_second(const std::string& name, const std::vector<double>& values) {
  Series series{.name = name, .points = {}};
  for (size_t i = 0; i + 1 < std::max<size_t>(values.size(), 2) && i < values.size(); ++i) {
    series.points.emplace_back(static_cast<double>(i), values[i]);
  }
  return series;
}

/// What became of requests while a run went on, a line or a colour for each run.
std::string timeline_plots(const Benchmark& benchmark, const std::vector<const Run*>& runs) {
  std::vector<Series> output, in_flight, ttft, e2el;
  for (const Run* run : runs) {
    const std::string& name = server_name(benchmark, *run);
    const Instant begin = run->result.start;
    std::vector<const Record*> records;
    for (const Record& record : run->result.records) {
      if (!record.is_background) records.push_back(&record);
    }
    const Timeline line = timeline_of(records, begin, run->result.end);
    output.push_back(per_second(name, line.output_tokens));
    in_flight.push_back(per_second(name, line.in_flight));
    Series first{.name = name, .points = {}, .mark = Series::Mark::kDots}, whole = first;
    const size_t every = records.size() / (kMaxDots / runs.size()) + 1;
    for (size_t i = 0; i < records.size(); i += every) {
      const Record& record = *records[i];
      if (record.outcome != Outcome::kServed || !record.ttft()) continue;
      const double at = to_seconds(record.start - begin);
      first.points.emplace_back(at, to_seconds(*record.ttft()) * 1e3);
      whole.points.emplace_back(at, to_seconds(record.e2el()) * 1e3);
    }
    ttft.push_back(std::move(first));
    e2el.push_back(std::move(whole));
  }
  const auto plot = [](const char* title, const char* unit, std::vector<Series> series) {
    return svg({.title = title,
                .x_label = "seconds of the run",
                .y_label = unit,
                .series = std::move(series)});
  };
  return "<h2>Over time</h2><div class=\"plots\">" + plot("Output", "tokens/s", std::move(output)) +
         plot("Requests in flight", "", std::move(in_flight)) +
         plot("TTFT", "ms, by the start of the request", std::move(ttft)) +
         plot("End-to-end latency", "ms, by the start of the request", std::move(e2el)) +
         "</div>\n";
}

struct Measure {
  std::string name;
  std::function<double(const Summary&)> of;
};

Series swept(const Benchmark& benchmark, size_t server_idx, const std::string& name,
             double (*x)(const Run&), const Measure& y) {
  Series series{.name = name, .points = {}, .mark = Series::Mark::kLineAndDots};
  for (const Run& run : benchmark.runs) {
    if (run.repeat == 0 && run.server_idx == server_idx) {
      series.points.emplace_back(x(run), y.of(run.total));
    }
  }
  return series;
}

std::string sweep_plots(const Benchmark& benchmark) {
  const auto by_load = +[](const Run& run) { return *run.load; };
  const auto by_throughput = +[](const Run& run) { return run.total.output_throughput; };
  const auto percentiles = [](const Distribution Summary::*values) {
    std::vector<Measure> measures;
    for (const int percent : {50, 90, 99}) {
      measures.push_back({"P" + std::to_string(percent),
                          [=](const Summary& s) { return (s.*values).percentile(percent); }});
    }
    return measures;
  };
  const std::string load = benchmark.sweep == "rate" ? "requests/s asked for" : "clients";
  std::string out = "<h2>By load</h2><div class=\"plots\">";
  // One plot with a line for each measure; of several servers one plot for each measure, with a
  // line for each server.
  const auto add = [&](const std::string& title, const char* unit, const std::string& x_label,
                       double (*x)(const Run&), const std::vector<Measure>& measures) {
    Plot plot{.title = title, .x_label = x_label, .y_label = unit, .series = {}};
    if (benchmark.servers.size() == 1) {
      for (const Measure& y : measures) plot.series.push_back(swept(benchmark, 0, y.name, x, y));
      out += svg(plot);
      return;
    }
    for (const Measure& y : measures) {
      if (measures.size() > 1) plot.title = title + ", " + y.name;
      plot.series.clear();
      for (size_t i = 0; i < benchmark.servers.size(); ++i) {
        plot.series.push_back(swept(benchmark, i, benchmark.servers[i].name, x, y));
      }
      out += svg(plot);
    }
  };
  add("Latency against throughput: TPOT", "ms", "output tokens/s", by_throughput,
      percentiles(&Summary::tpot_ms));
  add("Latency against throughput: TTFT", "ms", "output tokens/s", by_throughput,
      percentiles(&Summary::ttft_ms));
  add("Output", "tokens/s", load, by_load,
      {{"tokens/s", [](const Summary& s) { return s.output_throughput; }}});
  std::vector<Measure> requests = {
      {"served", [](const Summary& s) { return s.request_throughput; }}};
  if (benchmark.runs.front().total.objectives.any()) {
    requests.push_back({"goodput", [](const Summary& s) { return s.request_goodput; }});
  }
  add("Requests", "per second", load, by_load, requests);
  add("TTFT", "ms", load, by_load, percentiles(&Summary::ttft_ms));
  add("TPOT", "ms", load, by_load, percentiles(&Summary::tpot_ms));
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
    const std::string& server = server_name(benchmark, run);
    const std::string name =
        (server.empty() ? "" : server + ", ") + load_name(benchmark, run) +
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

/// What was measured, where and when.
std::string heading(const Benchmark& benchmark) {
  const bool is_one = benchmark.servers.size() == 1;
  std::string title, places;
  for (const Server& server : benchmark.servers) {
    if (!title.empty()) title += ", ";
    title += is_one ? server.model : server.name;
    if (!places.empty()) places += "<br>";
    if (!server.name.empty()) places += escaped(server.name) + ": ";
    places += escaped(server.url + benchmark.endpoint);
    if (!is_one) places += " &middot; " + escaped(server.model);
  }
  return "<title>" + escaped(title) + ": serving benchmark</title><style>" + kStyle +
         "</style><main>\n<h1>" + escaped(title) + "</h1><p class=\"meta\">" + places +
         " &middot; " + escaped(benchmark.date) + "</p><p class=\"meta\">" +
         escaped(benchmark.load) + " &middot; " + escaped(benchmark.workload) + "</p><p><code>" +
         escaped(benchmark.command) + "</code></p>\n";
}

}  // namespace

std::string html_report(const Benchmark& benchmark) {
  std::string out =
      "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\">" +
      heading(benchmark);
  if (!benchmark.sweep.empty()) {
    out += sweep_plots(benchmark);
  } else if (benchmark.servers.size() == 1) {
    out += tiles(benchmark.runs.front().total);
  }
  out += all_distribution_plots(benchmark);
  if (benchmark.sweep.empty()) {
    out += timeline_plots(benchmark, first_runs(runs_by_load(benchmark).front()));
  }
  return out + run_tables(benchmark) + "</main></html>\n";
}

}  // namespace troupe::loadgen
