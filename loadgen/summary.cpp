#include "loadgen/summary.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/parse.hpp"

namespace troupe::loadgen {
namespace {

double ms(Duration d) { return static_cast<double>(d.ns) * 1e-6; }

double per_second(uint64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

/// What an event with text stands for: servers may put several tokens into one.
double tokens_per_event(const Record& record) {
  return static_cast<double>(record.output_tokens) / static_cast<double>(record.tokens.size());
}

/// Times at which a request began (+1) or ended (-1) to be in flight, in order.
std::vector<std::pair<Instant, int>> changes_of(const std::vector<const Record*>& records) {
  std::vector<std::pair<Instant, int>> changes;
  for (const Record* record : records) {
    changes.emplace_back(record->sent, 1);
    changes.emplace_back(record->ended, -1);
  }
  std::sort(changes.begin(), changes.end());  // at one time the ends come first
  return changes;
}

void count_outcome(Summary& sum, const Record& record) {
  switch (record.outcome) {
    case Outcome::kServed: ++sum.completed; return;
    case Outcome::kInterrupted: ++sum.interrupted; return;
    case Outcome::kRefused: ++sum.refused; break;
    case Outcome::kFailed: break;
  }
  ++sum.failed;
  ErrorCount& error = sum.errors[record.error_kind];
  ++error.count;
  if (error.sample.empty()) error.sample = record.error;
}

struct Values {
  std::vector<double> ttft, tpot, itl, e2el, refusal, delay;
};

void add_served(Summary& sum, Values& values, const Record& record) {
  sum.total_input_tokens += record.input_tokens;
  sum.total_output_tokens += record.output_tokens;
  if (record.cached_tokens)
    sum.cached_tokens = sum.cached_tokens.value_or(0) + *record.cached_tokens;
  if (record.output_tokens < record.asked_output_tokens) ++sum.num_short;
  sum.has_usage = sum.has_usage && record.has_usage;
  if (const auto ttft = record.ttft()) values.ttft.push_back(ms(*ttft));
  if (const auto tpot = record.tpot_ms()) values.tpot.push_back(*tpot);
  for (size_t i = 1; i < record.tokens.size(); ++i) {
    values.itl.push_back(ms(record.tokens[i] - record.tokens[i - 1]));
  }
  values.e2el.push_back(ms(record.e2el()));
}

}  // namespace

bool Objectives::met_by(const Record& record) const {
  if (record.outcome != Outcome::kServed) return false;
  if (ttft_ms && (!record.ttft() || ms(*record.ttft()) > *ttft_ms)) return false;
  if (tpot_ms && record.tpot_ms().value_or(0) > *tpot_ms) return false;
  return !e2el_ms || ms(record.e2el()) <= *e2el_ms;
}

Result<Objectives> parse_objectives(const std::vector<std::string>& words) {
  Objectives objectives;
  for (const std::string& word : words) {
    const size_t colon = word.find(':');
    const std::string name = word.substr(0, colon);
    std::optional<double>* field = name == "ttft"   ? &objectives.ttft_ms
                                   : name == "tpot" ? &objectives.tpot_ms
                                   : name == "e2el" ? &objectives.e2el_ms
                                                    : nullptr;
    const auto value = colon == std::string::npos
                           ? std::nullopt
                           : parse_number<double>(std::string_view(word).substr(colon + 1));
    if (field == nullptr || !value || !(*value > 0) || std::isinf(*value)) {
      return Error{Code::kInvalidArgument,
                   "\"" + word + "\" is no objective: ttft:MS, tpot:MS or e2el:MS"};
    }
    if (*field) return Error{Code::kInvalidArgument, "two objectives for " + name};
    *field = value;
  }
  return objectives;
}

Summary summarize(const std::vector<const Record*>& records, Instant start, Instant end,
                  const Objectives& objectives, uint64_t num_unsent) {
  Summary sum;
  sum.duration_s = to_seconds(end - start);
  sum.objectives = objectives;
  sum.unsent = num_unsent;
  Values values;
  uint64_t num_good = 0;
  for (const Record* record : records) {
    count_outcome(sum, *record);
    if (record->outcome == Outcome::kServed) add_served(sum, values, *record);
    for (const Duration refusal : record->refusals) values.refusal.push_back(ms(refusal));
    values.delay.push_back(ms(record->sent - record->start));
    if (record->sent - record->start > kLateAfter) ++sum.late;
    if (objectives.met_by(*record)) ++num_good;
  }
  sum.request_throughput = per_second(sum.completed, sum.duration_s);
  sum.output_throughput = per_second(sum.total_output_tokens, sum.duration_s);
  sum.total_token_throughput =
      per_second(sum.total_input_tokens + sum.total_output_tokens, sum.duration_s);
  sum.request_goodput = per_second(num_good, sum.duration_s);
  const uint64_t asked = records.size() - sum.interrupted + num_unsent;
  sum.attainment_percent =
      asked == 0 ? 0 : 100 * static_cast<double>(num_good) / static_cast<double>(asked);

  int in_flight = 0;
  for (const auto& [at, change] : changes_of(records)) {
    in_flight += change;
    sum.max_concurrent_requests =
        std::max(sum.max_concurrent_requests, static_cast<uint32_t>(std::max(in_flight, 0)));
  }
  for (const double tokens : timeline_of(records, start, end).output_tokens) {
    sum.max_output_tokens_per_s = std::max(sum.max_output_tokens_per_s, tokens);
  }
  sum.ttft_ms = Distribution(std::move(values.ttft));
  sum.tpot_ms = Distribution(std::move(values.tpot));
  sum.itl_ms = Distribution(std::move(values.itl));
  sum.e2el_ms = Distribution(std::move(values.e2el));
  sum.refusal_ms = Distribution(std::move(values.refusal));
  sum.delay_ms = Distribution(std::move(values.delay));
  return sum;
}

Timeline timeline_of(const std::vector<const Record*>& records, Instant start, Instant end) {
  Timeline line;
  const size_t num_seconds =
      end > start ? static_cast<size_t>((end - start).ns / 1'000'000'000) + 1 : 0;
  line.output_tokens.resize(num_seconds);
  line.requests_ended.resize(num_seconds);
  line.in_flight.resize(num_seconds);
  if (num_seconds == 0) return line;
  const auto second_of = [&](Instant at) {
    const int64_t ns = std::max<int64_t>((at - start).ns, 0);
    return std::min(static_cast<size_t>(ns / 1'000'000'000), num_seconds - 1);
  };
  for (const Record* record : records) {
    if (record->outcome != Outcome::kServed) continue;
    for (const Instant at : record->tokens) {
      line.output_tokens[second_of(at)] += tokens_per_event(*record);
    }
    line.requests_ended[second_of(record->ended)] += 1;
  }
  double in_flight = 0;
  size_t second = 0;
  for (const auto& [at, change] : changes_of(records)) {
    for (const size_t now = second_of(at); second < now; line.in_flight[++second] = in_flight) {
    }
    in_flight += change;
    line.in_flight[second] = std::max(line.in_flight[second], in_flight);
  }
  return line;
}

}  // namespace troupe::loadgen
