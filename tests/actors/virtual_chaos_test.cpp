// Many things go wrong at once, drawn from a seed: nodes die, hang, lose their links and come back,
// frames are doubled and reordered, clients come and go. Meanwhile nothing wrong may be seen; and
// when all is mended, every request has ended and the cluster serves as on its first day.

#include <gtest/gtest.h>

#include "base/random.hpp"
#include "experts/combine.hpp"
#include "tests/actors/short_requests.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::actors {
namespace {

constexpr uint64_t kNumMisfortunes = 60;

/// How the requests of all seeds ended.
struct Tally {
  uint64_t finished = 0, failed = 0, refused = 0, unwatched = 0;
};

class Chaos {
 public:
  Chaos(uint64_t seed, Tally& tally)
      : seed_(seed),
        tally_(tally),
        options_({.model = kModel,
                  .num_routers = 1 + static_cast<uint32_t>(seed % 2),
                  .num_shards = 2 + static_cast<uint32_t>(seed / 2 % 2),
                  .scheduler =
                      {.max_queued = 3, .max_running = 2, .min_fetch_tokens = 2, .max_context = 64},
                  .batcher = {.max_step_tokens = 4, .max_running = 2},
                  .micro_batches = static_cast<uint32_t>(seed % 3),
                  .kv_blocks = 9,
                  .kv_block_tokens = 2}),
        cluster_(options_, {.seed = seed,
                            .max_job_time = milliseconds(1),
                            .max_frame_time = milliseconds(1),
                            .duplicate = 0.1,
                            .reorder = seed % 3 == 0,
                            .networked = seed / 4 % 2 == 1}) {
    for (uint32_t r = 0; r < options_.num_routers; ++r) {
      names_.push_back("router-" + std::to_string(r));
    }
    for (uint32_t s = 0; s < options_.num_shards; ++s) {
      names_.push_back("shard-" + std::to_string(s));
    }
    for (const std::string& name : names_) cluster_.supervise(name);
  }

  void run() {
    for (uint64_t i = 0; i < kNumMisfortunes; ++i) {
      cluster_.run_for(milliseconds(50), draw(150));
      misfortune();
    }
    mend();
    if (!cluster_.run_until_ended(awaited_)) return;
    // A step may still wait for a frame that was lost, though its requests were cancelled.
    cluster_.run_for(experts::CombineOptions{}.timeout + seconds(1));
    cluster_.run_for(seconds(2));  // for who was left out for that to come back
    for (size_t i = 0; i < all_.size(); ++i) check(all_[i]);
    EXPECT_EQ(cluster_.left_over(), "");
    expect_good_service(cluster_);
  }

 private:
  struct Submitted {
    std::shared_ptr<Stream> stream;
    size_t which = 0;     ///< of the two requests
    bool watched = true;  ///< not cancelled before its end, nor was its gateway dead
  };

  uint64_t draw(uint64_t end) { return random_bits(seed_, num_draws_++, kStream) % end; }

  void misfortune() {
    ClusterNodes& nodes = cluster_.nodes();
    const std::string& name = names_[draw(names_.size())];
    ClusterNodes::Node* node = nodes.find(name);
    switch (draw(28)) {
      case 0:
        if (node != nullptr) nodes.kill(name);
        return;
      case 1:
      case 2:
      case 3:
        if (node == nullptr) nodes.add(name);
        return;
      case 4:
        if (node != nullptr) cluster_.world().network().cut(node->services.self);
        return;
      case 5:
      case 6: return mend_connections();
      case 7:
        if (node != nullptr) cluster_.world().stall(node->worker);
        return;
      case 8:
      case 9: return cluster_.world().unstall_all();
      case 10:
        cluster_.crash_client();
        for (Submitted& submitted : all_) turn_away_from(submitted);
        return;
      case 11:
      case 12: {
        if (all_.empty()) return;
        Submitted& submitted = all_[draw(all_.size())];
        nodes.client().cancel(submitted.stream->request);
        return turn_away_from(submitted);
      }
      case 13: return cluster_.world().control().cut(name);
      case 14: return nodes.client().drain(name, true);
      case 15:
      case 16: return nodes.client().drain(name, false);
      default: return submit();
    }
  }

  void mend_connections() {
    cluster_.world().control().mend();
    cluster_.world().network().mend_all();
  }

  static void turn_away_from(Submitted& submitted) {
    if (!submitted.stream->ended()) submitted.watched = false;
  }

  void submit() {
    const size_t which = draw(2);
    scheduler::RequestSpec spec = two_requests()[which];
    if (draw(3) == 0) spec.timeout = milliseconds(1 + static_cast<int64_t>(draw(30)));
    all_.push_back({cluster_.submit(spec), which});
  }

  void mend() {
    mend_connections();
    cluster_.world().unstall_all();
    for (const std::string& name : names_) {
      cluster_.nodes().client().drain(name, false);
      if (cluster_.nodes().find(name) == nullptr) cluster_.nodes().add(name);
    }
    for (const Submitted& submitted : all_) {
      if (submitted.watched) awaited_.push_back(submitted.stream);
    }
  }

  void check(const Submitted& submitted) {
    const Stream& stream = *submitted.stream;
    ++(!submitted.watched ? tally_.unwatched
       : stream.finished  ? tally_.finished
       : !stream.admitted ? tally_.refused
                          : tally_.failed);
    expect_nothing_wrong(stream, expected()[submitted.which]);
    if (!stream.error) return;
    const Code code = stream.error->code;
    EXPECT_TRUE(code == Code::kUnavailable || code == Code::kDeadlineExceeded ||
                code == Code::kResourceExhausted)
        << stream.error->message;
  }

  static constexpr uint64_t kStream = 77;

  const uint64_t seed_;
  Tally& tally_;
  const ClusterOptions options_;
  VirtualCluster cluster_;
  std::vector<std::string> names_;
  std::vector<Submitted> all_;
  VirtualCluster::Streams awaited_;
  uint64_t num_draws_ = 0;
};

TEST(Chaos, ShowsNothingWrongAndPasses) {
  Tally tally;
  for_each_seed(200, [&](uint64_t seed) { Chaos(seed, tally).run(); });
  // Requests of each fate were there, or this tests little.
  RecordProperty("finished", std::to_string(tally.finished));
  RecordProperty("failed", std::to_string(tally.failed));
  RecordProperty("refused", std::to_string(tally.refused));
  RecordProperty("unwatched", std::to_string(tally.unwatched));
  if (!usual_seeds()) return;
  EXPECT_GT(std::min({tally.finished, tally.failed, tally.refused, tally.unwatched}), 100U);
}

}  // namespace
}  // namespace troupe::actors
