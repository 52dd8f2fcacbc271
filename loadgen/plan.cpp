#include "loadgen/plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <set>

#include "base/check.hpp"
#include "base/parse.hpp"
#include "base/random.hpp"

namespace troupe::loadgen {
namespace {

constexpr uint64_t kRunStream = 0x4045;
constexpr uint64_t kWarmupRun = ~uint64_t{0};
constexpr uint32_t kMaxClients = 10'000;  // of one source; each may hold a connection
constexpr uint32_t kWarmupClients = 8;
constexpr uint32_t kMaxBackgroundInFlight = 64;
constexpr double kMinRate = 1e-4, kMaxRate = 1e6, kAtOnce = std::numeric_limits<double>::infinity();
constexpr double kMinBurstiness = 1e-3;
constexpr uint32_t kMaxPriority = 1'000'000;

Error invalid(std::string message) { return Error{Code::kInvalidArgument, std::move(message)}; }

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

std::optional<uint32_t> count(std::string_view text, uint32_t least, uint32_t most) {
  const auto value = parse_number<uint32_t>(text);
  return value && *value >= least && *value <= most ? value : std::nullopt;
}

/// In arrivals per second; the least and most whose gaps are kept exactly enough in nanoseconds.
bool is_rate(double value) { return value >= kMinRate && value <= kMaxRate; }

std::string rate_range() {
  return short_number(kMinRate) + " to " + short_number(kMaxRate) + " per second";
}

Duration from_seconds(double s) { return nanoseconds(std::llround(s * 1e9)); }

/// What all streams of a run that are measured have in common.
SourceOptions base_source(const Plan& plan, const Workload& workload) {
  SourceOptions source;
  source.num_requests = plan.num_prompts;
  source.num_conversations = workload.size();
  source.duration = plan.duration;
  source.num_turns = workload.num_turns();
  source.think_time = plan.think_time;
  source.burstiness = plan.burstiness;
  source.max_in_flight = plan.max_concurrency.value_or(kMaxClients);
  source.seed = workload.seed();
  return source;
}

std::shared_ptr<const Workload> workload_of(const Plan& plan, uint64_t run_idx, uint64_t stream) {
  WorkloadOptions options = plan.workload;
  options.seed = random_bits(plan.seed, run_idx * 1024 + stream, kRunStream);
  return std::make_shared<const Workload>(std::move(options));
}

Stream measured_stream(const Plan& plan, std::optional<double> load, uint64_t run_idx) {
  Stream stream;
  stream.workload = workload_of(plan, run_idx, 0);
  for (uint32_t i = 0; i < plan.tenants.size(); ++i) stream.tenants.push_back(i);
  SourceOptions& source = stream.source = base_source(plan, *stream.workload);
  if (plan.replays_times()) {
    source.is_open = true;
    for (const TraceRow& row : *plan.workload.rows) source.arrivals.push_back(row.at);
  } else if (plan.sweep && plan.sweep->name == "rate") {
    source.is_open = true;
    source.rate = *load;
  } else if (plan.rate) {
    source.is_open = true;
    source.rate = *plan.rate;
  } else {
    source.num_clients = plan.sweep ? static_cast<uint32_t>(*load) : plan.concurrency.value_or(1);
  }
  return stream;
}

Stream tenant_stream(const Plan& plan, uint32_t tenant, uint64_t run_idx) {
  const TenantLoad& load = plan.tenant_loads[tenant];
  Stream stream;
  stream.workload = workload_of(plan, run_idx, 1 + tenant);
  stream.tenants = {tenant};
  stream.priority = load.priority;
  stream.source = base_source(plan, *stream.workload);
  stream.source.is_open = load.rate.has_value();
  if (load.rate) stream.source.rate = *load.rate;
  if (load.num_clients) stream.source.num_clients = *load.num_clients;
  return stream;
}

Stream background_stream(const Plan& plan, uint64_t run_idx) {
  WorkloadOptions options;
  options.seed = random_bits(plan.seed, run_idx * 1024 + 1023, kRunStream);
  options.input.mean = plan.background->input_tokens;
  options.output.mean = 1;
  Stream stream;
  stream.workload = std::make_shared<const Workload>(options);
  const bool has_key = !plan.background->api_key.empty();
  stream.tenants = {has_key ? static_cast<uint32_t>(plan.tenants.size()) : 0};
  stream.is_background = true;
  stream.source.is_open = true;
  stream.source.rate = 1 / to_seconds(plan.background->every);
  stream.source.burstiness = std::numeric_limits<double>::infinity();
  stream.source.max_in_flight = kMaxBackgroundInFlight;
  stream.source.num_conversations = uint64_t{1} << 40;  // the measured streams end it
  return stream;
}

}  // namespace

Result<void> check(const Plan& plan) {
  const int num_loads = (plan.concurrency ? 1 : 0) + (plan.rate ? 1 : 0) + (plan.sweep ? 1 : 0) +
                        (plan.tenant_loads.empty() ? 0 : 1);
  if (num_loads > 1) {
    return invalid("give one of --concurrency, --request-rate, --sweep and --tenant");
  }
  if (plan.rate && !is_rate(*plan.rate) && *plan.rate != kAtOnce) {
    return invalid("--request-rate must be " + rate_range() + ", or inf");
  }
  if (!(plan.burstiness >= kMinBurstiness)) {
    return invalid("--burstiness must be at least " + short_number(kMinBurstiness));
  }
  if (plan.concurrency && (*plan.concurrency < 1 || *plan.concurrency > kMaxClients)) {
    return invalid("--concurrency must be 1 to " + std::to_string(kMaxClients));
  }
  if (plan.max_concurrency && *plan.max_concurrency < 1) {
    return invalid("--max-concurrency must be at least 1");
  }
  const bool draws_arrivals = plan.rate || (plan.sweep && plan.sweep->name == "rate") ||
                              std::ranges::any_of(plan.tenant_loads, [](const TenantLoad& load) {
                                return load.rate.has_value();
                              });
  if (plan.max_concurrency && !draws_arrivals && !plan.replays_times()) {
    return invalid("--max-concurrency is for open loops; --concurrency bounds closed ones");
  }
  if (plan.burstiness != 1 && (!draws_arrivals || plan.rate == kAtOnce)) {
    return invalid("--burstiness is for arrivals at a finite rate; there are none");
  }
  if (plan.duration && plan.duration->ns <= 0) return invalid("--duration must be above 0");
  if (!plan.tenant_loads.empty() && (!plan.duration || plan.num_prompts || plan.workload.rows)) {
    return invalid("--tenant needs --duration, and neither --num-prompts nor a file");
  }
  if (plan.num_prompts && *plan.num_prompts < 1) return invalid("--num-prompts must be at least 1");
  if (plan.num_prompts && plan.workload.rows && *plan.num_prompts > plan.workload.rows->size()) {
    return invalid("--num-prompts is more than the " + std::to_string(plan.workload.rows->size()) +
                   " requests of the file");
  }
  if (!plan.num_prompts && !plan.duration && !plan.workload.rows) {
    return invalid("nothing bounds the run: give --num-prompts or --duration");
  }
  std::set<std::string> names;
  for (const Tenant& tenant : plan.tenants) {
    if (!names.insert(tenant.name).second) return invalid("two tenants are named " + tenant.name);
  }
  if (plan.rate == kAtOnce && !plan.num_prompts && !plan.workload.rows) {
    return invalid("--request-rate inf needs --num-prompts: it sends all at once");
  }
  const WorkloadOptions& work = plan.workload;
  for (const LengthRange range : {work.input, work.output, work.later_input}) {
    if (range.mean < 1 || range.mean > kMaxTraceTokens || !(range.range_ratio >= 0) ||
        !(range.range_ratio < 1)) {
      return invalid("lengths must be 1 to " + std::to_string(kMaxTraceTokens) +
                     " and --range-ratio at least 0 and below 1");
    }
  }
  if (work.num_prefixes < 1 || work.prefix_len > kMaxTraceTokens) {
    return invalid("--num-prefixes must be at least 1");
  }
  if (work.num_turns < 1 || (work.num_turns > 1 && work.rows)) {
    return invalid("--turns must be at least 1, and 1 with a file");
  }
  if (work.rows && work.rows->empty()) return invalid("the file, or the window, has no requests");
  if (plan.num_repeats < 1) return invalid("--repeat must be at least 1");
  return {};
}

std::vector<Stream> streams_of(const Plan& plan, std::optional<double> load, uint64_t run_idx) {
  CHECK_EQ(load.has_value(), plan.sweep.has_value());
  std::vector<Stream> streams;
  if (plan.tenant_loads.empty()) {
    streams.push_back(measured_stream(plan, load, run_idx));
  } else {
    for (uint32_t i = 0; i < plan.tenant_loads.size(); ++i) {
      streams.push_back(tenant_stream(plan, i, run_idx));
    }
  }
  if (plan.background) streams.push_back(background_stream(plan, run_idx));
  return streams;
}

std::vector<Tenant> tenants_of(const Plan& plan) {
  std::vector<Tenant> tenants = plan.tenants;
  if (plan.background && !plan.background->api_key.empty()) {
    tenants.push_back({.name = "background", .api_key = plan.background->api_key});
  }
  return tenants;
}

std::vector<Stream> warmup_of(const Plan& plan) {
  CHECK_GT(plan.num_warmups, 0U);
  Plan warmup = plan;
  warmup.workload.rows = nullptr;
  Stream stream;
  stream.workload = workload_of(warmup, kWarmupRun, 0);
  stream.tenants = {0};
  stream.source.num_clients = std::min(kWarmupClients, plan.num_warmups);
  stream.source.num_requests = plan.num_warmups;
  return {stream};
}

std::string describe_load(const Plan& plan) {
  std::string text;
  if (!plan.tenant_loads.empty()) {
    for (const TenantLoad& load : plan.tenant_loads) {
      text += (text.empty() ? "" : ", ") + load.name + " ";
      text += load.rate ? "open loop, " + short_number(*load.rate) + "/s"
                        : "closed loop, " + std::to_string(*load.num_clients) + " clients";
    }
  } else if (plan.sweep) {
    text = plan.sweep->name == "rate" ? "open loop" : "closed loop";
    text += ", " + plan.sweep->name + " swept";
  } else if (plan.replays_times()) {
    text = "open loop, the trace's arrivals";
  } else if (plan.rate) {
    text = "open loop, " + short_number(*plan.rate) + " requests/s, burstiness " +
           short_number(plan.burstiness);
  } else {
    text = "closed loop, " + std::to_string(plan.concurrency.value_or(1)) + " clients";
  }
  if (plan.max_concurrency)
    text += ", at most " + std::to_string(*plan.max_concurrency) + " at once";
  if (plan.duration) text += ", " + short_number(to_seconds(*plan.duration)) + " s";
  if (plan.num_prompts) text += ", " + std::to_string(*plan.num_prompts) + " requests";
  if (plan.background) {
    text += "; background: " + std::to_string(plan.background->input_tokens) + " tokens every " +
            short_number(to_seconds(plan.background->every)) + " s";
  }
  return text;
}

std::string describe_workload(const Plan& plan) {
  const WorkloadOptions& work = plan.workload;
  if (work.rows) return std::to_string(work.rows->size()) + " requests from a file";
  std::string text;
  if (work.prefix_len > 0) {
    text = "one of " + std::to_string(work.num_prefixes) + " prefixes of " +
           std::to_string(work.prefix_len) + ", then ";
  }
  text += std::to_string(work.input.mean) + " input and " + std::to_string(work.output.mean) +
          " output tokens";
  if (work.input.range_ratio > 0) {
    text += " +- " + short_number(100 * work.input.range_ratio) + " %";
  }
  if (work.num_turns > 1) {
    text += ", " + std::to_string(work.num_turns) + " turns, later ones add " +
            std::to_string(work.later_input.mean) + ", think time " +
            short_number(to_seconds(plan.think_time)) + " s";
  }
  return text;
}

Result<std::vector<Tenant>> parse_weights(const std::string& text) {
  std::vector<Tenant> tenants;
  for (const std::string_view part : split(text, ',')) {
    const size_t colon = part.rfind(':');
    const auto weight = colon == std::string_view::npos
                            ? std::nullopt
                            : parse_number<double>(part.substr(colon + 1));
    if (!weight || !(*weight > 0) || std::isinf(*weight) || colon == 0) {
      return invalid("\"" + std::string(part) + "\" is no NAME:WEIGHT");
    }
    const std::string name(part.substr(0, colon));
    tenants.push_back({.name = name, .api_key = name, .weight = *weight});
  }
  return tenants;
}

Result<TenantLoad> parse_tenant_load(const std::string& text) {
  const std::vector<std::string_view> parts = split(text, ':');
  TenantLoad load;
  load.name = parts[0];
  if (parts.size() >= 2 && parts[1].ends_with("/s")) {
    load.rate = parse_number<double>(parts[1].substr(0, parts[1].size() - 2));
    if (load.rate && !is_rate(*load.rate)) {
      return invalid("the rate in \"" + text + "\" must be " + rate_range());
    }
  } else if (parts.size() >= 2) {
    load.num_clients = count(parts[1], 1, kMaxClients);
  }
  if (parts.size() == 3) load.priority = count(parts[2], 0, kMaxPriority);
  if (load.name.empty() || (!load.rate && !load.num_clients) || parts.size() > 3 ||
      (parts.size() == 3 && !load.priority)) {
    return invalid("\"" + text + "\" is neither NAME:CLIENTS nor NAME:RATE/s, with :PRIORITY (a " +
                   "whole number) or without");
  }
  return load;
}

Result<Background> parse_background(const std::string& text) {
  const auto parts = split(text, ':');
  const auto tokens = count(parts[0], 1, kMaxTraceTokens);
  const auto every = parts.size() < 2 ? std::nullopt : parse_number<double>(parts[1]);
  if (!tokens || !every || !(*every >= 0.001) || *every > 1e6 || parts.size() > 3 ||
      (parts.size() == 3 && parts[2].empty())) {
    return invalid("\"" + text + "\" is neither TOKENS:SECONDS nor TOKENS:SECONDS:KEY");
  }
  Background background{.input_tokens = *tokens, .every = from_seconds(*every), .api_key = {}};
  if (parts.size() == 3) background.api_key = parts[2];
  return background;
}

Result<Sweep> parse_sweep(const std::string& text) {
  const size_t equals = text.find('=');
  Sweep sweep{.name = text.substr(0, equals), .values = {}};
  const bool sweeps_rate = sweep.name == "rate";
  if (equals == std::string::npos || (!sweeps_rate && sweep.name != "concurrency")) {
    return invalid("\"" + text + "\" is neither concurrency=N,... nor rate=R,...");
  }
  for (const std::string_view part : split(std::string_view(text).substr(equals + 1), ',')) {
    const auto value = sweeps_rate ? parse_number<double>(part)
                                   : std::optional<double>(count(part, 1, kMaxClients));
    if (!value || (sweeps_rate && !is_rate(*value))) {
      return invalid("\"" + std::string(part) + "\" is no value for " + sweep.name + ": " +
                     (sweeps_rate ? rate_range() : "1 to " + std::to_string(kMaxClients)));
    }
    sweep.values.push_back(*value);
  }
  return sweep;
}

}  // namespace troupe::loadgen
