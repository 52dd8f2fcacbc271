#pragma once

// A run that is repeated, and each time a disaster strikes one step later.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>

#include "tests/actors/short_requests.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/virtual_cluster.hpp"

namespace troupe::actors {

/// A run of two requests that is struck after some steps, unless it is over before.
class StruckRun {
 public:
  /// Odd seeds give each node a process; those have connected before the first step counts.
  StruckRun(const ClusterOptions& options, uint64_t seed)
      : cluster_(options, {.seed = seed,
                           .max_job_time = milliseconds(1),
                           .max_frame_time = milliseconds(1),
                           .networked = seed % 2 == 1}) {}

  VirtualCluster& cluster() { return cluster_; }
  [[nodiscard]] const VirtualCluster::Streams& streams() const { return streams_; }
  [[nodiscard]] bool struck() const { return disaster_ == nullptr; }

  /// REQUIRES: called once.
  void strike_after(uint64_t num_steps, std::function<void()> disaster) {
    strike_at_ = cluster_.world().num_steps() + num_steps;
    disaster_ = std::move(disaster);
  }
  [[nodiscard]] bool run_until_serving() {
    return run_until([this] { return cluster_.nodes().client().serving(); });
  }
  void submit() { streams_ = cluster_.submit_all(two_requests()); }
  [[nodiscard]] bool run_until_ended() {
    return run_until([this] { return all_ended(streams_); });
  }
  [[nodiscard]] bool run_until(const std::function<bool()>& done) {
    return cluster_.run_until([&] {
      if (disaster_ && cluster_.world().num_steps() >= strike_at_) {
        std::exchange(disaster_, nullptr)();
      }
      return done();
    });
  }

 private:
  VirtualCluster cluster_;
  uint64_t strike_at_ = 0;
  std::function<void()> disaster_;
  VirtualCluster::Streams streams_;
};

/// Repeats a run that is struck one step later each time, until one is over before: it gives false.
inline void strike_after_every_step(
    const std::function<bool(uint64_t seed, uint64_t num_steps)>& run) {
  uint64_t num_runs = 0;
  for_each_seed(2, [&](uint64_t seed) {
    bool struck = true;
    for (uint64_t steps = 0; struck && !testing::Test::HasFailure(); ++steps) {
      const Situation situation("struck after " + std::to_string(steps) + " steps");
      struck = run(seed, steps);
      ++num_runs;
    }
  });
  testing::Test::RecordProperty("runs", std::to_string(num_runs));
  EXPECT_GT(num_runs, 100U);  // else the run was not what it is meant to be
}

}  // namespace troupe::actors
