#pragma once

// A whole cluster in one process, with real actors, threads and time, joined by loopback links.

#include <caf/all.hpp>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "actors/system.hpp"
#include "base/check.hpp"
#include "tests/actors/skewed_load.hpp"
#include "tests/support/cluster_nodes.hpp"
#include "tests/support/stream.hpp"
#include "transport/ports.hpp"

namespace troupe::actors {

/// Nodes as threads of this process.
class ThreadedHost final : public ClusterHost {
 public:
  ThreadedHost(std::optional<transport::FaultOptions> faults, Duration delay)
      : faults_(std::move(faults)),
        delay_(delay),
        config_(SystemOptions{.num_threads = 2}),
        system_(config_) {}

  caf::actor_system& head() override { return system_; }
  Process start_process(const std::string&, const caf::actor& scheduler) override {
    return {&system_, scheduler};
  }
  void process_dies(const std::string&) override {}
  NodeId fresh_id() override { return fresh_node_id(); }
  std::unique_ptr<Executor> make_executor() override { return make_thread_executor(); }
  RunHere* run_here() override { return &run_here_; }
  std::unique_ptr<transport::Port> open_port(transport::PortOptions options) override {
    auto port = network_.open(std::move(options));
    if (delay_.ns > 0) port = transport::make_delay_port(std::move(port), delay_);
    if (!faults_) return port;
    return transport::make_fault_port(std::move(port), transport::FaultControl(*faults_));
  }
  void end(const caf::actor& actor) override {
    caf::anon_send_exit(actor, caf::exit_reason::kill);
    caf::scoped_actor self(system_);
    self->wait_for(actor);
  }

 private:
  std::optional<transport::FaultOptions> faults_;
  Duration delay_;
  SystemConfig config_;
  caf::actor_system system_;
  RunHere run_here_{system_};
  transport::LoopbackNetwork network_;
};

class TestCluster {
 public:
  static constexpr std::chrono::seconds kPatience{30};

  explicit TestCluster(const ClusterOptions& options,
                       std::optional<transport::FaultOptions> faults = std::nullopt,
                       Duration delay = {})  ///< of every frame
      : model_(options.model), host_(std::move(faults), delay), nodes_(host_, options) {}

  ClusterNodes& nodes() { return nodes_; }
  ClusterClient& client() { return nodes_.client(); }

  [[nodiscard]] bool wait_until(const std::function<bool()>& condition) const {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }
  [[nodiscard]] bool wait_serving() {
    return wait_until([this] { return client().serving(); });
  }

  ClusterStatus status(bool check = false) {
    auto promise = std::make_shared<std::promise<ClusterStatus>>();
    auto future = promise->get_future();
    client().status(check,
                    [promise](ClusterStatus status) { promise->set_value(std::move(status)); });
    CHECK(future.wait_for(kPatience) == std::future_status::ready);
    return future.get();
  }

  /// Submits; `on_token` runs after each token with the number so far.
  std::shared_future<Stream> submit(const scheduler::RequestSpec& spec,
                                    std::function<void(RequestId, size_t)> on_token = {}) {
    auto promise = std::make_shared<std::promise<Stream>>();
    auto stream = std::make_shared<Stream>();
    client().submit(spec, [=](const scheduler::ClientEvent& event) {
      stream->take(event);
      CHECK_EQ(stream->violation, "");
      const auto* emitted = std::get_if<scheduler::TokensEmitted>(&event);
      if (emitted != nullptr && on_token) on_token(emitted->request, stream->tokens.size());
      if (stream->ended()) promise->set_value(*stream);
    });
    return promise->get_future().share();
  }

  static Stream wait(const std::shared_future<Stream>& future) {
    CHECK(future.wait_for(kPatience) == std::future_status::ready);
    return future.get();
  }

  /// Orders a change of placement for loads of this `round`. Nothing comes of it while another
  /// change is under way.
  void change_placement(uint64_t round) {
    const NodeId shard = nodes_.at("shard-0").services.self;
    caf::anon_send(nodes_.scheduler(), skewed_load(opened_model(model_).config(), shard, round));
    std::promise<void> answered;
    client().experts(true, [&](const Result<ExpertsStatus>&) { answered.set_value(); });
    answered.get_future().wait();
  }

 private:
  std::string model_;
  ThreadedHost host_;
  ClusterNodes nodes_;
};

/// All at once in the cluster, and each gets what it gets alone.
inline void expect_same_together(TestCluster& cluster,
                                 const std::vector<scheduler::RequestSpec>& specs,
                                 const std::vector<Stream>& expected) {
  std::vector<std::shared_future<Stream>> streams;
  for (const auto& spec : specs) streams.push_back(cluster.submit(spec));
  for (size_t i = 0; i < specs.size(); ++i) {
    expect_same(TestCluster::wait(streams[i]), expected[i], "request " + std::to_string(i));
  }
}

}  // namespace troupe::actors
