#pragma once

// When requests are sent: the pure core of the load generator. A source has its own clients (closed
// loop: each sends its next request when its last one was answered) or its own arrivals (open loop:
// requests arrive at times that the server cannot influence, and latency counts from the arrival
// even where the request could be sent only later, so a stalled server cannot hide its stall).

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <queue>
#include <vector>

#include "base/time.hpp"

namespace troupe::loadgen {

/// A closed-loop client waits so long after a refusal or a failure, so that a server that refuses
/// at once is not asked thousands of times per second.
inline constexpr Duration kPauseAfterFailure = milliseconds(100);

/// Times between arrivals, drawn from a gamma distribution with mean 1 / rate and shape
/// `burstiness` (vLLM's definition): 1 is a Poisson process, less comes in bursts, more is
/// steadier, infinity is a fixed interval.
class Arrivals {
 public:
  Arrivals(double rate, double burstiness, uint64_t seed)
      : rate_(rate), burstiness_(burstiness), seed_(seed) {}

  /// The gap behind arrival `index`; 0 for an infinite rate.
  [[nodiscard]] Duration gap(uint64_t index) const;

 private:
  double rate_;
  double burstiness_;
  uint64_t seed_;
};

struct SourceOptions {
  bool is_open = false;
  uint32_t num_clients = 1;  ///< closed loop

  double rate = std::numeric_limits<double>::infinity();  ///< open loop, conversations per second
  double burstiness = 1;
  std::vector<Duration> arrivals;  ///< open loop: at these times, if any, instead of drawn ones
  uint32_t max_in_flight = std::numeric_limits<uint32_t>::max();  ///< open loop; more wait here

  std::optional<uint64_t> num_requests;
  std::optional<uint64_t> num_conversations;  ///< the workload has no more
  std::optional<Duration> duration;           ///< nothing is sent afterwards
  uint32_t num_turns = 1;
  Duration think_time;  ///< from an answer to the next turn
  uint64_t seed = 0;    ///< of drawn arrivals
};

/// A request whose time has come.
struct Due {
  uint64_t conversation = 0;
  uint32_t turn = 0;
  Instant scheduled;  ///< when it should have been sent
  friend bool operator==(const Due&, const Due&) = default;
};

class Source {
 public:
  /// REQUIRES: a bound: num_requests, num_conversations, or duration with a finite rate.
  Source(SourceOptions options, Instant start);

  /// Requests to send now, in order.
  std::vector<Due> poll(Instant now);

  /// A request from poll() has ended; without `served` its conversation ends too.
  void ended(const Due& request, bool served, Instant now);

  /// When to poll() next if nothing ends before.
  [[nodiscard]] std::optional<Instant> next_wake() const;

  /// Nothing more is sent.
  void stop();

  /// Nothing is in flight and nothing will be sent.
  [[nodiscard]] bool done() const;

  /// Conversations of the arrivals that the end of the run found still waiting for one of
  /// max_in_flight places, one entry per arrival.
  [[nodiscard]] const std::vector<uint64_t>& unsent() const { return unsent_; }

 private:
  struct Waiting {
    Due request;
    uint64_t order;
    friend bool operator>(const Waiting& a, const Waiting& b) {
      return a.request.scheduled != b.request.scheduled ? a.request.scheduled > b.request.scheduled
                                                        : a.order > b.order;
    }
  };

  void let_arrive(Instant now);
  void wait(Due request);
  void next_conversation(Instant at);
  /// Those still waiting that arrived before `unsent_before` count as unsent.
  void end(Instant unsent_before);
  [[nodiscard]] bool has_conversations() const;

  SourceOptions options_;
  Arrivals arrivals_;
  Instant start_;
  std::priority_queue<Waiting, std::vector<Waiting>, std::greater<>> waiting_;
  std::optional<Instant> next_arrival_;
  uint64_t num_conversations_ = 0;
  uint64_t num_waited_ = 0;
  uint64_t num_sent_ = 0;
  std::vector<uint64_t> unsent_;
  uint32_t num_in_flight_ = 0;
  bool ended_ = false;
};

}  // namespace troupe::loadgen
