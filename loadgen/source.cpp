#include "loadgen/source.hpp"

#include <algorithm>
#include <cmath>

#include "base/check.hpp"
#include "base/random.hpp"

namespace troupe::loadgen {
namespace {

constexpr uint64_t kArrivalStream = 0xa7717a15;
constexpr uint64_t kDrawsPerGap = 256;
constexpr Instant kBeforeAll{std::numeric_limits<int64_t>::min()};
constexpr Instant kNever{std::numeric_limits<int64_t>::max()};

/// Draws of one gap.
class Draws {
 public:
  Draws(uint64_t seed, uint64_t gap) : seed_(seed), position_(gap * kDrawsPerGap) {}
  /// In (0, 1].
  double uniform() { return 1 - random_uniform(seed_, position_++, kArrivalStream); }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(2 * 3.14159265358979323846 * uniform());
  }

 private:
  uint64_t seed_;
  uint64_t position_;
};

/// Marsaglia and Tsang, "A simple method for generating gamma variables" (2000): mean = shape.
/// Each round is accepted with a probability above 0.95, so the rounds are bounded.
double gamma(double shape, Draws& draws) {
  const double boost = shape < 1 ? std::pow(draws.uniform(), 1 / shape) : 1;
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  for (uint64_t round = 0; round < kDrawsPerGap / 4; ++round) {
    const double x = draws.normal();
    const double v = std::pow(1 + c * x, 3);
    if (v > 0 && std::log(draws.uniform()) < x * x / 2 + d - d * v + d * std::log(v)) {
      return boost * d * v;
    }
  }
  return boost * d;
}

}  // namespace

Duration Arrivals::gap(uint64_t index) const {
  if (std::isinf(rate_)) return {};
  double mean_gaps = 1;
  if (!std::isinf(burstiness_)) {
    Draws draws(seed_, index);
    mean_gaps =
        burstiness_ == 1 ? -std::log(draws.uniform()) : gamma(burstiness_, draws) / burstiness_;
  }
  return nanoseconds(std::llround(mean_gaps / rate_ * 1e9));
}

Source::Source(SourceOptions options, Instant start)
    : options_(std::move(options)),
      arrivals_(options_.rate, options_.burstiness, options_.seed),
      start_(start) {
  CHECK(options_.num_requests || options_.num_conversations || !options_.arrivals.empty() ||
        (options_.duration && (!options_.is_open || !std::isinf(options_.rate))));
  if (options_.is_open) {
    // The first drawn arrival is at the start, as in vLLM, so that a run begins at once.
    next_arrival_ = start + (options_.arrivals.empty() ? Duration{} : options_.arrivals.front());
  } else {
    for (uint32_t i = 0; i < options_.num_clients; ++i) next_conversation(start);
  }
}

bool Source::has_conversations() const {
  const bool in_workload =
      !options_.num_conversations || num_conversations_ < *options_.num_conversations;
  const bool in_list = options_.arrivals.empty() || num_conversations_ < options_.arrivals.size();
  // Each conversation has at least one request.
  const bool wanted = !options_.num_requests || num_conversations_ < *options_.num_requests;
  return in_workload && in_list && wanted;
}

void Source::wait(Due request) { waiting_.push({request, num_waited_++}); }

void Source::next_conversation(Instant at) {
  if (has_conversations()) wait({num_conversations_++, 0, at});
}

void Source::let_arrive(Instant now) {
  while (next_arrival_ && *next_arrival_ <= now) {
    const Instant at = *next_arrival_;
    if (options_.duration && at >= start_ + *options_.duration) {
      next_arrival_.reset();
      return;
    }
    next_conversation(at);
    const uint64_t next = num_conversations_;
    if (!has_conversations()) {
      next_arrival_.reset();  // nobody waits for a time at which nothing comes
    } else {
      next_arrival_ = options_.arrivals.empty() ? at + arrivals_.gap(next - 1)
                                                : start_ + options_.arrivals[next];
    }
  }
}

std::vector<Due> Source::poll(Instant now) {
  std::vector<Due> due;
  if (ended_) return due;
  let_arrive(now);
  const Instant end_at = options_.duration ? start_ + *options_.duration : kNever;
  const uint32_t places = options_.is_open ? options_.max_in_flight : options_.num_clients;
  while (now < end_at && !waiting_.empty() && waiting_.top().request.scheduled <= now &&
         num_in_flight_ < places &&
         (!options_.num_requests || num_sent_ < *options_.num_requests)) {
    due.push_back(waiting_.top().request);
    waiting_.pop();
    ++num_in_flight_;
    ++num_sent_;
  }
  const bool sent_all = options_.num_requests && num_sent_ == *options_.num_requests;
  if (now >= end_at) {
    end(end_at);
  } else if (sent_all) {
    end(kBeforeAll);
  }
  return due;
}

void Source::ended(const Due& request, bool served, Instant now) {
  CHECK_GT(num_in_flight_, 0U);
  --num_in_flight_;
  if (ended_) return;
  if (served && request.turn + 1 < options_.num_turns) {
    wait({request.conversation, request.turn + 1, now + options_.think_time});
  } else if (!options_.is_open) {
    next_conversation(served ? now : now + kPauseAfterFailure);
  }
}

std::optional<Instant> Source::next_wake() const {
  if (ended_) return std::nullopt;
  std::optional<Instant> wake = next_arrival_;
  if (!waiting_.empty()) {
    const Instant first = waiting_.top().request.scheduled;
    const bool full = options_.is_open && num_in_flight_ >= options_.max_in_flight;
    if (!full && (!wake || first < *wake)) wake = first;
  }
  if (options_.duration) {
    const Instant end_at = start_ + *options_.duration;
    if (!wake || end_at < *wake) wake = end_at;
  }
  return wake;
}

void Source::end(Instant unsent_before) {
  ended_ = true;
  next_arrival_.reset();
  while (!waiting_.empty()) {
    const Due& request = waiting_.top().request;
    if (options_.is_open && request.scheduled < unsent_before) {
      unsent_.push_back(request.conversation);
    }
    waiting_.pop();
  }
}

void Source::stop() {
  if (!ended_) end(kBeforeAll);
}

bool Source::done() const {
  if (num_in_flight_ > 0) return false;
  return ended_ || (waiting_.empty() && !next_arrival_);
}

}  // namespace troupe::loadgen
