// The scheduler under random interleavings: clients that come and go, routers that come up, die,
// repeat themselves, resend old messages and lie.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/random.hpp"
#include "scheduler/scheduler.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::scheduler {
namespace {

/// What one client has heard, held against the grammar
/// Refused | Admitted TokensEmitted* (Finished | Failed).
class Client {
 public:
  void hear(const ClientEvent& event) {
    ASSERT_FALSE(ended) << "something follows the end";
    if (std::holds_alternative<Refused>(event)) {
      ASSERT_FALSE(admitted);
      ended = true;
    } else if (std::holds_alternative<Admitted>(event)) {
      ASSERT_FALSE(admitted) << "admitted twice";
      admitted = true;
    } else {
      ASSERT_TRUE(admitted);
      if (const auto* emitted = std::get_if<TokensEmitted>(&event)) {
        ASSERT_FALSE(emitted->tokens.empty());
        ASSERT_EQ(emitted->first, num_tokens) << "a gap or a repeat";
        for (const model::SampledToken& token : emitted->tokens) {
          ASSERT_EQ(token.token, static_cast<TokenId>(num_tokens)) << "another token than sent";
          ++num_tokens;
        }
      } else {
        ended = true;
      }
    }
  }

  bool admitted = false, ended = false, gone = false;
  uint32_t num_tokens = 0;
};

/// A router that works on what it is given; token number i of every stream is i.
struct Router {
  struct Work {
    uint32_t attempt = 0, num_sent = 0, max_tokens = 0;
  };
  std::map<RequestId, Work> work;
  bool up = false;
};

class World {
 public:
  World(uint64_t seed, uint64_t kv_tokens)
      : seed_(seed),
        scheduler_({.max_queued = 6,
                    .max_running = 4,
                    .kv_tokens = kv_tokens,
                    .min_gain_tokens = 8,
                    .max_context = 20}) {}

  uint64_t draw(uint64_t n) { return random_bits(seed_, draws_++) % n; }

  void act() {
    now_ = now_ + milliseconds(static_cast<int64_t>(draw(8)));
    switch (draw(20)) {
      case 0:
      case 1:
      case 2: return submit();
      case 3: return cancel();
      case 4: return draw(12) == 0 ? toggle() : void();
      case 5: return tick();
      case 6: return repeat();
      case 7: return draw(20) == 0 ? lie() : void();
      default: return work();
    }
  }

  void settle() {  // routers up, no faults: everything must end
    for (uint64_t r = 1; r <= kRouters; ++r) {
      routers_[NodeId{r}].up = true;
      ASSERT_NO_FATAL_FAILURE(tell(RouterUp{NodeId{r}}));
      ASSERT_NO_FATAL_FAILURE(tell(Drained{NodeId{r}, false}));
    }
    for (int i = 0; i < 100'000 && scheduler_.counts().queued + scheduler_.counts().running > 0;
         ++i) {
      now_ = now_ + milliseconds(1);
      ASSERT_NO_FATAL_FAILURE(work());
      ASSERT_NO_FATAL_FAILURE(tick());
    }
    for (const auto& [request, client] : clients_) {
      ASSERT_TRUE(client.ended || client.gone) << "request " << request << " hangs";
    }
    const SchedulerCounts counts = scheduler_.counts();
    ASSERT_EQ(counts.admitted_total,
              counts.finished_total + counts.failed_total + counts.cancelled_total);
    ASSERT_EQ(scheduler_.next_deadline(), std::nullopt);
    for (const auto& [node, router] : routers_) {
      ASSERT_TRUE(router.work.empty()) << "a router was not told to stop";
    }
  }

  [[nodiscard]] SchedulerCounts counts() const { return scheduler_.counts(); }
  [[nodiscard]] uint64_t num_events() const { return num_events_; }

 private:
  static constexpr uint64_t kRouters = 3;

  void tell(const SchedulerEvent& event) {
    ++num_events_;
    for (const SchedulerEffect& effect : scheduler_.handle(event, now_)) {
      if (const auto* heard = std::get_if<Tell>(&effect)) {
        Client& client = clients_[heard->request];
        ASSERT_FALSE(client.gone) << "told a client that is gone";
        ASSERT_NO_FATAL_FAILURE(client.hear(heard->event));
      } else if (const auto* start = std::get_if<StartOnRouter>(&effect)) {
        Router& router = routers_[start->router];
        ASSERT_TRUE(router.up);
        ASSERT_TRUE(
            router.work
                .emplace(start->request,
                         Router::Work{start->attempt, static_cast<uint32_t>(start->emitted.size()),
                                      start->spec.max_tokens})
                .second);
        ASSERT_LE(router.work.size(), 4U);
      } else {
        const auto& cancel = std::get<CancelOnRouter>(effect);
        routers_[cancel.router].work.erase(cancel.request);
      }
    }
    ASSERT_EQ(scheduler_.check(), "");
  }

  void submit() {
    const RequestId request{++last_request_};
    clients_[request];
    tell(Submitted{request,
                   {.prompt = std::vector<TokenId>(draw(12), 5),
                    .max_tokens = static_cast<uint32_t>(draw(12)),
                    .sampling = {},
                    .stop_token_ids = {},
                    .tenant = std::string(1, static_cast<char>('a' + draw(3))),
                    .priority = static_cast<uint32_t>(draw(3)),
                    .timeout = milliseconds(static_cast<int64_t>(draw(1'000)))}});
  }
  void cancel() {
    const RequestId request{last_request_ - std::min(last_request_, draw(12))};
    const auto client = clients_.find(request);
    if (client == clients_.end()) return;
    if (!client->second.ended) client->second.gone = true;
    tell(Cancelled{request});
  }
  void toggle() {
    const NodeId node{1 + draw(kRouters)};
    if (draw(4) == 0) return tell(Drained{node, draw(2) == 0});
    Router& router = routers_[node];
    router.up = !router.up;
    if (router.up) return tell(RouterUp{node});
    tell(RoutersDown{{node}, {Code::kUnavailable, "gone"}, draw(2) == 0});
    if (draw(2) == 0) tell(RouterGone{node});
    if (draw(2) == 0) tell(CannotServe{{Code::kUnavailable, "too few nodes"}});
    ASSERT_TRUE(router.work.empty()) << "its requests were not cancelled";
  }
  void tick() {
    const auto due = scheduler_.next_deadline();
    tell(Tick{});
    if (!due || *due > now_) return;
    ASSERT_NE(scheduler_.next_deadline(), due) << "the timer would spin";
  }
  void work() {
    const NodeId node{1 + draw(kRouters)};
    Router& router = routers_[node];
    if (router.work.empty()) return;
    const auto at = std::next(router.work.begin(), static_cast<int64_t>(draw(router.work.size())));
    auto& [request, work] = *at;
    if (work.num_sent == work.max_tokens || draw(30) == 0) {
      const RouterFinished finished{node, request, work.attempt, FinishReason::kStop};
      router.work.erase(at);
      return say(finished);
    }
    if (draw(8) == 0) return say(RouterEmitted{node, request, work.attempt, work.num_sent, {}});
    if (draw(60) == 0) {
      const Code code = draw(2) == 0 ? Code::kInternal : Code::kUnavailable;
      const RouterFailed failed{node, request, work.attempt, {code, "broken"}};
      router.work.erase(at);
      return say(failed);
    }
    const auto again = static_cast<uint32_t>(draw(work.num_sent + 1));  // resends a tail
    const auto first = draw(4) == 0 ? again : work.num_sent;
    const auto end = work.num_sent + 1 + draw(work.max_tokens - work.num_sent);
    RouterEmitted emitted{node, request, work.attempt, first, {}};
    for (auto i = first; i < end; ++i) emitted.tokens.push_back({.token = static_cast<TokenId>(i)});
    work.num_sent = static_cast<uint32_t>(end);
    say(emitted);
  }
  void say(const SchedulerEvent& event) {
    said_.push_back(event);
    if (said_.size() > 200) said_.erase(said_.begin());
    tell(event);
  }
  void repeat() {
    if (!said_.empty()) tell(SchedulerEvent(said_[draw(said_.size())]));
  }
  void lie() {
    const NodeId node{1 + draw(kRouters)};
    Router& router = routers_[node];
    if (router.work.empty()) return;
    const auto [request, work] = *router.work.begin();
    tell(RouterEmitted{node,
                       request,
                       work.attempt,
                       work.num_sent + 1 + (draw(2) == 0 ? 1U : 99U),
                       {{.token = 1}}});
    tell(RouterFailed{node, RequestId{draw(last_request_ + 5)}, 7, {}});
  }

  uint64_t seed_, draws_ = 0, last_request_ = 0, num_events_ = 0;
  Instant now_{seconds(1).ns};
  Scheduler scheduler_;
  std::map<RequestId, Client> clients_;
  std::map<NodeId, Router> routers_;
  std::vector<SchedulerEvent> said_;
};

TEST(Scheduler, EndsEveryAdmittedRequestOnceUnderRandomInterleavings) {
  const auto run = [](uint64_t seed) {
    const bool few_blocks = seed % 2 == 0;
    World world(seed, few_blocks ? 30 : 0);
    while (world.num_events() < 250'000) {
      ASSERT_NO_FATAL_FAILURE(world.act()) << "event " << world.num_events();
    }
    const SchedulerCounts counts = world.counts();
    if (!few_blocks) {
      EXPECT_EQ(counts.moved_total, 0U);
    }
    if (usual_seeds()) {
      EXPECT_GT(counts.finished_total, 500U);
      EXPECT_GT(counts.failed_total, 200U);
      EXPECT_GT(counts.resumed_total, 100U);
      EXPECT_GT(counts.cancelled_total, 100U);
      EXPECT_GT(counts.refused_total, 500U);
      EXPECT_EQ(counts.moved_total > 100, few_blocks);
      EXPECT_GT(counts.moved_to_begin_total, 100U);
      EXPECT_GT(counts.yielded_total, 100U);
    }
    ASSERT_NO_FATAL_FAILURE(world.settle());
  };
  for_each_seed(4, run, 1);
}

}  // namespace
}  // namespace troupe::scheduler
