#include "gateway/metrics.hpp"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cmath>
#include <map>

namespace troupe::gateway {
namespace {

using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

// vLLM's boundaries, so that its dashboards read the same. Source: vllm/v1/metrics/loggers.py.
const Buckets kFirstToken = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                             1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Buckets kBetweenTokens = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
const Buckets kEndToEnd = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                           30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
// Finer where a small model on a near node answers.
const Buckets kFine = {.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05,
                       .1,    .25,    .5,    1,    2.5,   5,    10,  30,   60};
const Buckets kTokenCounts = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                              1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

std::string status_class(int status) { return std::to_string(status / 100) + "xx"; }

/// A counter of somebody else's total, which begins anew when that one does.
struct Total {
  prometheus::Counter& counter;
  uint64_t last = 0;

  void set(uint64_t total) {
    counter.Increment(static_cast<double>(total >= last ? total - last : total));
    last = total;
  }
};

}  // namespace

struct Metrics::Families {
  explicit Families(std::string_view model_name)
      : labels{{"model_name", std::string(model_name)}, {"engine", "0"}} {}

  prometheus::Gauge& gauge(const std::string& name, const std::string& help,
                           const prometheus::Labels& with) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry).Add(with);
  }
  prometheus::Counter& counter(const std::string& name, const std::string& help,
                               const prometheus::Labels& with) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add(with);
  }
  Histogram& histogram(const std::string& name, const std::string& help,
                       const prometheus::Labels& with, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(with, buckets);
  }

  void count_rows(const actors::NodeStatus& node) {
    if (node.member.info.role != cluster::Role::kExperts) return;
    const std::string& name = node.member.info.name;
    auto rows = rows_of_shards.find(name);
    if (rows == rows_of_shards.end()) {
      rows = rows_of_shards.emplace(name, Total{shard_rows.Add({{"shard", name}})}).first;
    }
    rows->second.set(node.rows_computed);
  }

  prometheus::Registry registry;
  prometheus::Labels labels;

  prometheus::Gauge& running = gauge("vllm:num_requests_running", "Requests on a router.", labels);
  prometheus::Gauge& waiting = gauge("vllm:num_requests_waiting", "Requests in the queue.", labels);
  prometheus::Gauge& kv_usage =
      gauge("vllm:kv_cache_usage_perc", "Used part of the KV blocks, 0 to 1.", labels);
  Total prefix_queries{
      counter("vllm:prefix_cache_queries_total", "Tokens looked up in the prefix cache.", labels)};
  Total prefix_hits{
      counter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache.", labels)};
  Total preemptions{counter("vllm:num_preemptions_total",
                            "Requests that gave up their KV blocks for others.", labels)};
  Total fetched{counter("troupe_kv_blocks_fetched_total",
                        "KV blocks that came from other routers instead of being computed.", {})};
  Total resumed{
      counter("troupe_requests_resumed_total", "Starts of requests after their first.", {})};
  Total moved{counter("troupe_requests_moved_total",
                      "Requests moved away from a router without enough KV blocks.", {})};
  Total sooner{counter("troupe_requests_moved_to_begin_total",
                       "Requests moved, before they had begun, to a router where they begin "
                       "sooner.",
                       {})};
  Total yielded{counter("troupe_requests_yielded_total",
                        "Running requests that gave their place to another tenant's.", {})};
  prometheus::Counter& prompt_tokens =
      counter("vllm:prompt_tokens_total", "Prompt tokens of ended requests.", labels);
  prometheus::Counter& generated_tokens =
      counter("vllm:generation_tokens_total", "Tokens generated for clients.", labels);
  prometheus::Family<prometheus::Counter>& success = prometheus::BuildCounter()
                                                         .Name("vllm:request_success_total")
                                                         .Help("Ended requests by reason.")
                                                         .Register(registry);
  Histogram& ttft =
      histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", labels, kFirstToken);
  Histogram& itl =
      histogram("vllm:inter_token_latency_seconds", "Time between tokens.", labels, kBetweenTokens);
  Histogram& e2e =
      histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", labels, kEndToEnd);
  Histogram& prompt_sizes =
      histogram("vllm:request_prompt_tokens", "Prompt tokens per request.", labels, kTokenCounts);
  Histogram& answer_sizes = histogram("vllm:request_generation_tokens",
                                      "Generated tokens per request.", labels, kTokenCounts);

  prometheus::Gauge& serving = gauge("troupe_serving", "1 while the cluster takes requests.", {});
  prometheus::Gauge& epoch = gauge("troupe_epoch", "Cluster epoch in force.", {});
  prometheus::Gauge& inflight =
      gauge("troupe_inflight_requests", "Client requests being answered.", {});
  prometheus::Gauge& queued =
      gauge("troupe_queued_requests", "Requests in the scheduler's queue.", {});
  prometheus::Family<prometheus::Gauge>& nodes = prometheus::BuildGauge()
                                                     .Name("troupe_nodes")
                                                     .Help("Nodes by role and state.")
                                                     .Register(registry);
  prometheus::Gauge& balancedness =
      gauge("troupe_expert_balancedness",
            "Of the recent rows: the mean over expert shards / the busiest shard's in each layer, "
            "both summed over layers; 0 to 1.",
            {});
  Total placement_changes{counter("troupe_placement_changes_total",
                                  "Changes of the experts' placement without a stop.", {})};
  prometheus::Family<prometheus::Counter>& shard_rows =
      prometheus::BuildCounter()
          .Name("troupe_expert_shard_rows_total")
          .Help("Token rows that an expert shard has computed.")
          .Register(registry);
  std::map<std::string, Total> rows_of_shards;  ///< by name; nodes are those of a configuration
  prometheus::Family<prometheus::Counter>& http = prometheus::BuildCounter()
                                                      .Name("troupe_http_requests_total")
                                                      .Help("HTTP requests answered.")
                                                      .Register(registry);
  prometheus::Family<Histogram>& http_seconds =
      prometheus::BuildHistogram()
          .Name("troupe_http_request_duration_seconds")
          .Help("First byte of a request to last byte of its answer.")
          .Register(registry);
  prometheus::Counter& disconnects =
      counter("troupe_client_disconnects_total", "Clients gone before their answer.", {});
  prometheus::Counter& retries =
      counter("troupe_request_retries_total", "Requests that a client marked as a retry.", {});
  Histogram& fine_ttft = histogram("troupe_ttft_seconds", "Arrival to first token.", {}, kFine);
  Histogram& fine_itl = histogram("troupe_itl_seconds", "Time between tokens.", {}, kFine);
};

Metrics::Metrics(std::string_view model_name, std::string_view version)
    : families_(std::make_unique<Families>(model_name)) {
  families_
      ->gauge("troupe_build_info", "Version of this program.", {{"version", std::string(version)}})
      .Set(1);
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    prometheus::Labels labels = families_->labels;
    labels["finished_reason"] = reason;
    families_->success.Add(labels);
  }
}

Metrics::~Metrics() = default;

void Metrics::http_request(std::string_view route, std::string_view method, int status,
                           Duration took) {
  families_->http
      .Add({{"handler", std::string(route)},
            {"method", std::string(method)},
            {"status", status_class(status)}})
      .Increment();
  families_->http_seconds.Add({{"handler", std::string(route)}}, kEndToEnd)
      .Observe(to_seconds(took));
}

void Metrics::client_disconnected() { families_->disconnects.Increment(); }

void Metrics::client_retried() { families_->retries.Increment(); }

void Metrics::first_token(Duration since_arrival) {
  families_->ttft.Observe(to_seconds(since_arrival));
  families_->fine_ttft.Observe(to_seconds(since_arrival));
  families_->generated_tokens.Increment();
}

void Metrics::next_tokens(uint64_t count, Duration gap) {
  families_->itl.Observe(to_seconds(gap));
  families_->fine_itl.Observe(to_seconds(gap));
  families_->generated_tokens.Increment(static_cast<double>(count));
}

void Metrics::choice_ended(std::string_view reason, uint64_t num_prompt, uint64_t num_generated,
                           Duration took) {
  prometheus::Labels labels = families_->labels;
  labels["finished_reason"] = std::string(reason);
  families_->success.Add(labels).Increment();
  families_->prompt_tokens.Increment(static_cast<double>(num_prompt));
  families_->prompt_sizes.Observe(static_cast<double>(num_prompt));
  families_->answer_sizes.Observe(static_cast<double>(num_generated));
  families_->e2e.Observe(to_seconds(took));
}

void Metrics::in_flight(int change) { families_->inflight.Increment(change); }

std::string Metrics::render(const actors::ClusterStatus& status) {
  Families& f = *families_;
  f.serving.Set(status.serving ? 1 : 0);
  f.epoch.Set(static_cast<double>(status.epoch.value));
  f.running.Set(static_cast<double>(status.counts.running));
  f.waiting.Set(static_cast<double>(status.counts.queued));
  f.queued.Set(static_cast<double>(status.counts.queued));
  f.resumed.set(status.counts.resumed_total);
  f.balancedness.Set(status.expert_balancedness);
  f.placement_changes.set(status.num_placement_changes);
  f.moved.set(status.counts.moved_total);
  f.sooner.set(status.counts.moved_to_begin_total);
  f.yielded.set(status.counts.yielded_total);
  uint64_t used = 0;
  uint64_t total = 0;
  uint64_t queries = 0;
  uint64_t hits = 0;
  uint64_t preemptions = 0;
  uint64_t fetched = 0;
  uint64_t num_nodes[2][3] = {};
  for (const auto& node : status.nodes) {
    used += node.kv_blocks_used;
    total += node.kv_blocks_total;
    queries += node.prefix_cache.queried_tokens;
    hits += node.prefix_cache.hit_tokens;
    preemptions += node.num_preempted;
    f.count_rows(node);
    fetched += node.num_fetched_blocks;
    ++num_nodes[static_cast<size_t>(node.member.info.role)][static_cast<size_t>(node.member.state)];
  }
  f.kv_usage.Set(total == 0 ? 0.0 : static_cast<double>(used) / static_cast<double>(total));
  f.prefix_queries.set(queries);
  f.prefix_hits.set(hits);
  f.preemptions.set(preemptions);
  f.fetched.set(fetched);
  constexpr const char* kRoles[2] = {"router", "experts"};
  constexpr const char* kStates[3] = {"joined", "forming", "ready"};
  for (size_t role = 0; role < 2; ++role) {
    for (size_t state = 0; state < 3; ++state) {
      f.nodes.Add({{"role", kRoles[role]}, {"state", kStates[state]}})
          .Set(static_cast<double>(num_nodes[role][state]));
    }
  }
  return prometheus::TextSerializer().Serialize(f.registry.Collect());
}

}  // namespace troupe::gateway
