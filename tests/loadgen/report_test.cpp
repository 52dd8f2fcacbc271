#include "loadgen/report.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <boost/json.hpp>
#include <tuple>

#include "loadgen/plan.hpp"
#include "loadgen/svg_plot.hpp"

namespace troupe::loadgen {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;
using ::testing::Not;

Instant at_ms(int64_t ms) { return Instant{} + milliseconds(ms); }

Record served(int64_t start, uint32_t tenant) {
  Record record;
  record.tenant = tenant;
  record.start = record.sent = at_ms(start);
  record.tokens = {at_ms(start + 20), at_ms(start + 30)};
  record.last = record.ended = at_ms(start + 30);
  record.input_tokens = 5;
  record.output_tokens = 2;
  record.outcome = Outcome::kServed;
  record.has_usage = true;
  return record;
}

Run run(std::optional<double> load, uint32_t repeat, int64_t step = 100) {
  LoadResult result;
  result.start = at_ms(0);
  result.end = at_ms(1000);
  result.num_unsent = {0, 0};
  for (int i = 0; i < 5; ++i) result.records.push_back(served(i * step, i % 2));
  Record failed;
  failed.error_kind = "timeout";
  failed.error = "timeout";
  result.records.push_back(failed);
  Stream stream;
  stream.tenants = {0, 1};
  Run r = make_run(std::move(result), {stream},
                   {{.name = "a", .api_key = "a"}, {.name = "b<", .api_key = "b"}},
                   parse_objectives({"ttft:25"}).value());
  r.load = load;
  r.repeat = repeat;
  return r;
}

Benchmark benchmark() {
  Benchmark b{.command = "troupe bench serve",
              .date = "d",
              .servers = {{.name = "", .url = "http://h:1", .model = "m & <m>"}},
              .endpoint = "/v1/completions",
              .workload = "w",
              .load = "closed loop",
              .max_concurrency = 4,
              .request_rate = {},
              .num_prompts = 6,
              .sweep = "",
              .runs = {}};
  b.runs.push_back(run({}, 0));
  return b;
}

TEST(Report, PrintsTheBlockThatVllmPrints) {
  const Benchmark b = benchmark();
  const std::string text = text_report(b, b.runs[0]);
  for (const char* line : {"============ Serving Benchmark Result ============\n",
                           "Successful requests:                     5\n",
                           "Failed requests:                         1\n",
                           "Maximum request concurrency:             4\n",
                           "Benchmark duration (s):                  1.00\n",
                           "Total input tokens:                      25\n",
                           "Total generated tokens:                  10\n",
                           "Request throughput (req/s):              5.00\n",
                           "Request goodput (req/s):                 5.00\n",
                           "SLO attainment (%):                      83.33\n",
                           "Output token throughput (tok/s):         10.00\n",
                           "Total token throughput (tok/s):          35.00\n",
                           "---------------Time to First Token----------------\n",
                           "Mean TTFT (ms):                          20.00\n",
                           "P50 TTFT (ms):                           20.00\n",
                           "P99 TTFT (ms):                           20.00\n",
                           "-----Time per Output Token (excl. 1st token)------\n",
                           "Median TPOT (ms):                        10.00\n",
                           "---------------Inter-token Latency----------------\n",
                           "----------------End-to-end Latency----------------\n",
                           "ms                  avg       min       max       p99       p90"
                           "       p75       std\n",
                           "TTFT              20.00     20.00     20.00     20.00     20.00"
                           "     20.00      0.00\n",
                           "1 x timeout: timeout\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(Report, CountsArrivalsThatWereNeverSentWhateverMadeThem) {
  Benchmark b = benchmark();
  EXPECT_THAT(text_report(b, b.runs[0]), Not(HasSubstr("Arrivals")));
  LoadResult result;
  result.records = {served(0, 0)};
  result.num_unsent = {3, 4};
  Stream open, closed;  // as a trace or a tenant's rate make it: no --request-rate says so
  open.source.is_open = true;
  b.runs[0] = make_run(std::move(result), {closed, open},
                       {{.name = "a", .api_key = "a"}, {.name = "b", .api_key = "b"}}, {});
  EXPECT_THAT(text_report(b, b.runs[0]), HasSubstr("Arrivals never sent:                     7\n"));
  EXPECT_EQ(b.runs[0].tenants[0].second.unsent, 3U);
  EXPECT_EQ(b.runs[0].tenants[1].second.unsent, 4U);
}

TEST(Report, HasVllmsKeysInItsJson) {
  const json::value report = json::parse(json_report(benchmark(), true));
  for (const char* key : {"duration",
                          "completed",
                          "failed",
                          "total_input_tokens",
                          "total_output_tokens",
                          "request_throughput",
                          "request_goodput",
                          "output_throughput",
                          "total_token_throughput",
                          "max_output_tokens_per_s",
                          "max_concurrent_requests",
                          "input_lens",
                          "output_lens",
                          "ttfts",
                          "itls",
                          "errors",
                          "start_times",
                          "date",
                          "model_id",
                          "num_prompts",
                          "request_rate",
                          "burstiness",
                          "max_concurrency",
                          "errors_by_kind",
                          "tenant_results"}) {
    EXPECT_TRUE(report.as_object().contains(key)) << key;
  }
  for (const char* latency : {"ttft", "tpot", "itl", "e2el"}) {
    for (const char* statistic : {"mean", "median", "std", "p50", "p90", "p95", "p99"}) {
      const std::string key = std::string(statistic) + "_" + latency + "_ms";
      EXPECT_TRUE(report.as_object().contains(key)) << key;
    }
  }
  EXPECT_EQ(report.at("completed"), 5);
  EXPECT_EQ(report.at("mean_ttft_ms"), 20);
  EXPECT_EQ(report.at("ttfts").as_array().size(), 6U);
  EXPECT_EQ(report.at("ttfts").at(0).to_number<double>(), 0.02);
  EXPECT_EQ(report.at("itls").at(0).as_array().size(), 1U);
  EXPECT_EQ(report.at("errors").at(5), "timeout: timeout");
  EXPECT_EQ(report.at("tenant_results").at("a").at("completed"), 3);
  EXPECT_FALSE(json::parse(json_report(benchmark(), false)).as_object().contains("ttfts"));
}

TEST(Report, OfSeveralRunsHoldsThemAllAndShowsTheirSpread) {
  Benchmark b = benchmark();
  b.runs.clear();
  b.sweep = "concurrency";
  for (const double load : {1.0, 4.0}) {
    for (uint32_t repeat = 0; repeat < 3; ++repeat) b.runs.push_back(run(load, repeat));
  }
  b.runs[4].total.request_throughput = 7;
  const json::value report = json::parse(json_report(b, false));
  ASSERT_EQ(report.at("runs").as_array().size(), 6U);
  EXPECT_EQ(report.at("runs").at(3).at("max_concurrency"), 4);
  const std::string table = sweep_table(b);
  EXPECT_THAT(table, HasSubstr("| concurrency | req/s |"));
  EXPECT_THAT(table, HasSubstr("| 1 | 5.00 (5.00-5.00) |"));
  EXPECT_THAT(table, HasSubstr("| 4 | 5.00 (5.00-7.00) |"));
}

/// Two servers by turns at two loads; the second serves 4 requests per second, the first one 5.
Benchmark of_two_servers() {
  Benchmark b = benchmark();
  b.sweep = "concurrency";
  b.servers = {{.name = "ours", .url = "http://h:1", .model = "m"},
               {.name = "peer <", .url = "http://h:2", .model = "n"}};
  b.runs.clear();
  uint32_t round = 0;
  for (const double load : {1.0, 4.0}) {
    for (uint32_t repeat = 0; repeat < 3; ++repeat, ++round) {
      for (const uint32_t turn : {0U, 1U}) {
        b.runs.push_back(run(load, repeat));
        b.runs.back().server_idx = (round + turn) % 2;
        if (b.runs.back().server_idx == 1) b.runs.back().total.request_throughput = 4;
      }
    }
  }
  return b;
}

TEST(Report, OfSeveralServersComparesThemAtEachLoad) {
  Benchmark b = of_two_servers();
  // Both slow down in the last repeat: values spread, their ratios do not.
  b.runs[10].total.request_throughput /= 2;
  b.runs[11].total.request_throughput /= 2;
  const std::string table = sweep_table(b);
  EXPECT_THAT(table, HasSubstr("| concurrency | server | req/s |"));
  EXPECT_THAT(table, HasSubstr("| 4 | ours | 5.00 (2.50-5.00) |"));
  EXPECT_THAT(table, HasSubstr("| 4 | peer < | 4.00 (2.00-4.00) |"));
  EXPECT_THAT(table, HasSubstr("| 4 | peer < / ours | 0.80 (0.80-0.80) |"));
  EXPECT_EQ(std::ranges::count(table, '\n'), 2 + 2 * 3);

  const json::value report = json::parse(json_report(b, false));
  ASSERT_EQ(report.at("runs").as_array().size(), 12U);
  for (const auto& [run_idx, server, url, model] :
       {std::tuple(0, "ours", "http://h:1", "m"), std::tuple(2, "peer <", "http://h:2", "n")}) {
    const json::value& of_run = report.at("runs").at(run_idx);
    EXPECT_EQ(of_run.at("server"), server);
    EXPECT_EQ(of_run.at("base_url"), url);
    EXPECT_EQ(of_run.at("model_id"), model);
    EXPECT_EQ(of_run.at("completed"), 5);
  }
}

TEST(Report, HasNoRatioWhereOneServerHasNoValue) {
  Benchmark b = of_two_servers();
  b.runs.resize(3);  // interrupted: the second server has no second repeat
  b.runs[1].total.tpot_ms = {};
  const std::string table = sweep_table(b);
  EXPECT_THAT(table, HasSubstr("| 1 | peer < / ours | 0.80 | 1.00 | 1.00 | 1.00 | - |"));
  b.runs.resize(1);  // it had no turn at all
  EXPECT_THAT(sweep_table(b), Not(HasSubstr("peer")));
}

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return count;
}

TEST(Report, InHtmlHasALineForEachServerInEveryPlot) {
  Benchmark swept = of_two_servers();
  Benchmark single = of_two_servers();
  single.sweep = "";
  single.runs = {run({}, 0), run({}, 0)};
  single.runs[1].server_idx = 1;
  for (const Benchmark& b : {swept, single}) {
    const std::string page = html_report(b);
    const size_t num_plots = count_of(page, "<svg");
    EXPECT_GT(num_plots, 4U);
    EXPECT_EQ(count_of(page, "<i></i>ours</span>"), num_plots);
    EXPECT_EQ(count_of(page, "<i></i>peer &lt;</span>"), num_plots);
    EXPECT_EQ(count_of(page, "<g style=\"--c:var(--s1)\">"), num_plots);
    EXPECT_THAT(page, HasSubstr("<h1>ours, peer &lt;</h1>"));
    EXPECT_THAT(page, HasSubstr("peer &lt;: http://h:2/v1/completions &middot; n"));
    EXPECT_THAT(page, Not(HasSubstr("peer <")));
  }
  EXPECT_THAT(html_report(swept), HasSubstr("<td>peer &lt;, concurrency 4, again (2)</td>"));
  EXPECT_THAT(html_report(swept), HasSubstr("Distributions, concurrency 4"));
}

TEST(Report, OfTheOnlyServerNamesItWhereItsUserDid) {
  Benchmark b = benchmark();
  EXPECT_FALSE(json::parse(json_report(b, false)).as_object().contains("server"));
  EXPECT_THAT(sweep_table(b), HasSubstr("| load | req/s |"));
  b.servers.front().name = "ours";
  EXPECT_EQ(json::parse(json_report(b, false)).at("server"), "ours");
  EXPECT_THAT(sweep_table(b), HasSubstr("| load | server | req/s |"));
}

TEST(Report, InHtmlIsOnePageWithoutScriptOrFetches) {
  Benchmark b = benchmark();
  const std::string page = html_report(b);
  EXPECT_THAT(page, HasSubstr("<svg"));
  EXPECT_THAT(page, HasSubstr("m &amp; &lt;m&gt;"));
  EXPECT_THAT(page, Not(HasSubstr("<m>")));
  for (const char* foreign :
       {"<script", "<link", "src=", "@import", "url(", ",nan", ">nan", "\"nan"}) {
    EXPECT_EQ(page.find(foreign), std::string::npos) << foreign;
  }
}

TEST(Readable, HasThreeDigitsAndGroupsOfThree) {
  const std::pair<double, const char*> cases[] = {
      {0, "0"},          {0.25, "0.25"},         {0.12345, "0.123"},    {12.34, "12.3"},
      {999.4, "999"},    {999.6, "1,000"},       {-999.6, "-1,000"},    {1000, "1,000"},
      {12345, "12,345"}, {1234567, "1,234,567"}, {-123456, "-123,456"}, {999'999.6, "1,000,000"}};
  for (const auto& [value, text] : cases) EXPECT_EQ(readable(value), text);
}

TEST(Report, OfARunWithoutAnAnswerIsStillOne) {
  Benchmark b = benchmark();
  LoadResult nothing;
  nothing.num_unsent = {3};
  Stream stream;
  stream.tenants = {0};
  b.runs = {make_run(std::move(nothing), {stream}, {{.name = "a", .api_key = ""}}, {})};
  EXPECT_THAT(text_report(b, b.runs[0]), HasSubstr("Successful requests:                     0\n"));
  EXPECT_TRUE(json::parse(json_report(b, true)).is_object());
  EXPECT_THAT(html_report(b), HasSubstr("no values"));
}

}  // namespace
}  // namespace troupe::loadgen
