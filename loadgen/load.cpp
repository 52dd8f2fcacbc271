#include "loadgen/load.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <chrono>
#include <csignal>
#include <map>
#include <set>

#include "base/check.hpp"
#include "base/random.hpp"
#include "gateway/http_client.hpp"
#include "loadgen/exchange.hpp"

namespace troupe::loadgen {
using boost::system::error_code;

namespace {

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr int kMaxRefusals = 100;  // of one request
constexpr uint64_t kTenantStream = 0x7e4a47;

std::chrono::steady_clock::time_point clock_time(Instant at) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(at.ns));
}

/// Hundreds of connections need as many descriptors.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

class Load {
 public:
  Load(const LoadOptions& options, const WordPool& pool, const std::vector<Stream>& streams,
       const std::function<void(const Progress&)>& on_progress)
      : options_(options),
        pool_(pool),
        streams_(streams),
        on_progress_(on_progress),
        wake_(io_),
        tick_(io_),
        signals_(io_, SIGINT, SIGTERM) {}

  Result<LoadResult> run();

 private:
  using Conversation = std::pair<uint32_t, uint64_t>;  // stream and number

  void pump();
  void watch();
  void report_progress(Instant at);
  void interrupt();
  void finish();
  asio::awaitable<void> perform(uint32_t stream_idx, Due due);
  [[nodiscard]] std::string make_request(uint32_t stream_idx, const Due& due, Record& record);
  [[nodiscard]] uint32_t tenant_of(const Stream& stream, uint64_t conversation) const;
  void keep_turn(uint32_t stream_idx, const Due& due, bool served, std::string text);
  static void judge(const Active& active, const Answer& answer, Record& record);

  const LoadOptions& options_;
  const WordPool& pool_;
  const std::vector<Stream>& streams_;
  const std::function<void(const Progress&)>& on_progress_;

  asio::io_context io_{1};
  asio::steady_timer wake_;
  asio::steady_timer tick_;
  asio::signal_set signals_;
  Exchanges exchanges_{io_};
  std::vector<Source> sources_;
  std::map<Conversation, std::vector<Message>> conversations_;  ///< those with turns to come
  std::set<Active*> active_;
  LoadResult result_;
  Instant next_tick_;
  Instant next_progress_;
  uint64_t num_events_reported_ = 0;
  uint64_t num_failed_ = 0;
  bool finished_ = false;
};

Result<LoadResult> Load::run() {
  raise_descriptor_limit();
  TRY(exchanges_.resolve(options_.host, options_.port));
  signals_.async_wait([this](error_code failed, int) {
    if (!failed) interrupt();
  });
  result_.start = result_.end = now();
  for (const Stream& stream : streams_) sources_.emplace_back(stream.source, result_.start);
  next_tick_ = result_.start;
  next_progress_ = result_.start + seconds(1);
  watch();
  pump();
  io_.run();
  result_.num_unsent.resize(options_.tenants.size());
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (streams_[i].is_background) continue;
    for (const uint64_t conversation : sources_[i].unsent()) {
      ++result_.num_unsent[tenant_of(streams_[i], conversation)];
    }
  }
  return std::move(result_);
}

/// Sends what is due, and sets the timer for what comes next.
void Load::pump() {
  if (finished_) return;
  const Instant at = now();
  bool measured_done = true;
  for (uint32_t i = 0; i < sources_.size(); ++i) {
    for (const Due& due : sources_[i].poll(at)) {
      asio::co_spawn(io_, perform(i, due), asio::detached);
    }
    measured_done = measured_done && (streams_[i].is_background || sources_[i].done());
  }
  if (measured_done) {
    for (uint32_t i = 0; i < sources_.size(); ++i) sources_[i].stop();
    for (Active* active : active_) {
      active->interrupted = true;
      active->cut();
    }
  }
  std::optional<Instant> wake;
  bool all_done = true;
  for (const Source& source : sources_) {
    all_done = all_done && source.done();
    const auto next = source.next_wake();
    if (next && (!wake || *next < *wake)) wake = next;
  }
  if (all_done) return finish();
  wake_.cancel();
  if (!wake) return;
  wake_.expires_at(clock_time(*wake));
  wake_.async_wait([this](error_code failed) {
    if (!failed) pump();
  });
}

void Load::finish() {
  finished_ = true;
  wake_.cancel();
  tick_.cancel();
  signals_.cancel();
  exchanges_.close_idle();
}

void Load::interrupt() {
  result_.interrupted = true;
  for (Source& source : sources_) source.stop();
  for (Active* active : active_) {
    active->interrupted = true;
    active->cut();
  }
  pump();
}

/// Cuts requests that take too long, and notices when this process is late itself.
void Load::watch() {
  const Instant at = now();
  result_.max_lag = std::max(result_.max_lag, at - next_tick_);
  for (Active* active : active_) {
    if (at < active->deadline || active->timed_out) continue;
    active->timed_out = true;
    active->cut();
  }
  if (at >= next_progress_) report_progress(at);
  next_tick_ = at + nanoseconds(std::chrono::nanoseconds(kTick).count());
  tick_.expires_at(clock_time(next_tick_));
  tick_.async_wait([this](error_code failed) {
    if (!failed && !finished_) watch();
  });
}

void Load::report_progress(Instant at) {
  const double since = 1 + to_seconds(at - next_progress_);
  on_progress_({.elapsed = at - result_.start,
                .num_ended = result_.records.size(),
                .num_failed = num_failed_,
                .num_in_flight = static_cast<uint32_t>(active_.size()),
                .output_events_per_s =
                    static_cast<double>(exchanges_.num_events() - num_events_reported_) / since});
  num_events_reported_ = exchanges_.num_events();
  next_progress_ = at + seconds(1);
}

uint32_t Load::tenant_of(const Stream& stream, uint64_t conversation) const {
  double sum = 0;
  for (const uint32_t tenant : stream.tenants) sum += options_.tenants[tenant].weight;
  double left = sum * random_uniform(stream.workload->seed(), conversation, kTenantStream);
  for (const uint32_t tenant : stream.tenants) {
    left -= options_.tenants[tenant].weight;
    if (left < 0) return tenant;
  }
  return stream.tenants.back();
}

std::string Load::make_request(uint32_t stream_idx, const Due& due, Record& record) {
  const Stream& stream = streams_[stream_idx];
  const PlannedRequest planned = stream.workload->plan(due.conversation, due.turn);
  record.source = stream_idx;
  record.is_background = stream.is_background;
  record.tenant = tenant_of(stream, due.conversation);
  record.conversation = due.conversation;
  record.turn = due.turn;
  record.asked_output_tokens = planned.output_tokens;
  record.input_tokens = planned.num_words();  // until the server tells

  BodyOptions body_options = options_.body;
  if (stream.priority) body_options.priority = stream.priority;
  std::string body;
  if (options_.sends_tokens && planned.text.empty()) {
    body =
        completion_body(body_options, tokens_of(pool_, stream.workload->seed(), planned.segments),
                        planned.output_tokens);
  } else {
    std::vector<Message>& messages = conversations_[{stream_idx, due.conversation}];
    messages.emplace_back("user", planned.text.empty()
                                      ? text_of(pool_, stream.workload->seed(), planned.segments)
                                      : planned.text);
    body = text_body(body_options, messages, planned.output_tokens);
  }
  const Tenant& tenant = options_.tenants[record.tenant];
  std::string request = "POST " + options_.path +
                        " HTTP/1.1\r\nHost: " + gateway::authority(options_.host, options_.port) +
                        "\r\nContent-Type: application/json\r\nAccept: text/event-stream\r\n";
  if (!tenant.api_key.empty()) request += "Authorization: Bearer " + tenant.api_key + "\r\n";
  request += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  return request;
}

asio::awaitable<void> Load::perform(uint32_t stream_idx, Due due) {
  Record record;
  const std::string request = make_request(stream_idx, due, record);
  Active active(io_);
  active.keeps_text = streams_[stream_idx].source.num_turns > 1;
  record.sent = now();
  record.start = streams_[stream_idx].source.is_open ? due.scheduled : record.sent;
  active.deadline = record.sent + options_.timeout;
  active_.insert(&active);

  Answer answer;
  while (true) {
    const Instant asked = now();
    answer = co_await exchanges_.exchange(active, request, record);
    if (!answer.refused()) break;
    record.refusals.push_back(now() - asked);
    if (!options_.retries || record.refusals.size() >= kMaxRefusals || active.interrupted) break;
    error_code ignored;
    active.pause.expires_at(clock_time(now() + answer.retry_after));
    co_await active.pause.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    if (active.interrupted || active.timed_out) break;
  }
  active_.erase(&active);
  record.ended = now();
  judge(active, answer, record);
  const bool served = record.outcome == Outcome::kServed;
  if (!served) ++num_failed_;
  if (!streams_[stream_idx].is_background) result_.end = record.ended;
  keep_turn(stream_idx, due, served, std::move(answer.text));
  sources_[stream_idx].ended(due, served, record.ended);
  result_.records.push_back(std::move(record));
  pump();
}

void Load::keep_turn(uint32_t stream_idx, const Due& due, bool served, std::string text) {
  const auto found = conversations_.find({stream_idx, due.conversation});
  if (found == conversations_.end()) return;
  if (served && due.turn + 1 < streams_[stream_idx].source.num_turns) {
    found->second.emplace_back("assistant", std::move(text));
  } else {
    conversations_.erase(found);
  }
}

void Load::judge(const Active& active, const Answer& answer, Record& record) {
  record.error_kind = answer.error_kind;
  record.error = answer.error;
  if (active.interrupted && !answer.finished) {
    record.outcome = Outcome::kInterrupted;
  } else if (active.timed_out && !answer.finished) {
    record.outcome = Outcome::kFailed;
    record.error_kind = record.error = "timeout";
  } else if (answer.refused()) {
    record.outcome = Outcome::kRefused;
  } else {
    record.outcome = answer.error_kind.empty() ? Outcome::kServed : Outcome::kFailed;
  }
  if (!record.has_usage) record.output_tokens = static_cast<uint32_t>(record.tokens.size());
}

}  // namespace

Result<LoadResult> run_load(const LoadOptions& options, const WordPool& pool,
                            const std::vector<Stream>& streams,
                            const std::function<void(const Progress&)>& on_progress) {
  for (const Stream& stream : streams) CHECK(!stream.tenants.empty());
  return Load(options, pool, streams, on_progress).run();
}

}  // namespace troupe::loadgen
