#pragma once

// A whole cluster in one process, with real actors and threads: scheduler, gateway actor, one
// router with its KV holder, expert shards, joined by loopback links. For tests.

#include <caf/all.hpp>
#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "actors/client.hpp"
#include "actors/expert_shard_actor.hpp"
#include "actors/gateway_actor.hpp"
#include "actors/kv_holder_actor.hpp"
#include "actors/messages.hpp"
#include "actors/node_actor.hpp"
#include "actors/router_actor.hpp"
#include "actors/scheduler_actor.hpp"
#include "actors/system.hpp"
#include "base/check.hpp"
#include "kernels/backend.hpp"
#include "transport/ports.hpp"

namespace troupe::actors {

/// What a client saw of one request.
struct Stream {
  std::vector<model::SampledToken> tokens;
  uint32_t num_cached = 0;
  bool admitted = false;
  std::optional<scheduler::FinishReason> finished;
  std::optional<Error> error;

  [[nodiscard]] std::vector<TokenId> ids() const {
    std::vector<TokenId> result;
    for (const auto& token : tokens) result.push_back(token.token);
    return result;
  }
};

class TestCluster {
 public:
  struct Options {
    std::string model;
    uint32_t num_shards = 3;
    size_t num_threads = 1;
    scheduler::SchedulerOptions scheduler{.max_queued = 64, .max_running = 16, .max_context = 512};
    scheduler::BatcherOptions batcher{.max_step_tokens = 64, .max_running = 16};
    experts::CombineOptions combine;
    uint32_t kv_blocks = 512;
    uint32_t kv_host_blocks = 0;
    uint32_t kv_block_tokens = 16;
    std::optional<transport::FaultOptions> faults;
  };

  static constexpr std::chrono::seconds kPatience{30};

  explicit TestCluster(const Options& options)
      : options_(options),
        system_config_(SystemOptions{.num_threads = 2}),
        system_(system_config_) {
    auto checkpoint = model::Checkpoint::open(options.model);
    CHECK(checkpoint.ok());
    checkpoint_ = std::make_unique<model::Checkpoint>(std::move(*checkpoint));
    SchedulerActorOptions head{
        .cluster = "test", .scheduler = options.scheduler, .model = checkpoint_->config()};
    head.membership.version = "test";
    head.membership.checkpoint_digest = checkpoint_->digest();
    head.membership.expected.emplace_back("router-0", cluster::Role::kRouter);
    for (uint32_t s = 0; s < options.num_shards; ++s) {
      head.membership.expected.emplace_back("shard-" + std::to_string(s), cluster::Role::kExperts);
    }
    scheduler_ = system_.spawn(scheduler_actor, head);
    client_ = make_cluster_client(system_, scheduler_);
    add_router();
    for (uint32_t s = 0; s < options.num_shards; ++s) add_shard("shard-" + std::to_string(s));
  }

  ~TestCluster() {
    client_.reset();
    for (auto& node : nodes_) stop(*node);
    caf::anon_send_exit(scheduler_, caf::exit_reason::user_shutdown);
    system_.await_all_actors_done();
  }

  ClusterClient& client() { return *client_; }

  [[nodiscard]] bool wait_until(const std::function<bool()>& condition) const {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!condition()) {
      if (std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::yield();
    }
    return true;
  }
  [[nodiscard]] bool wait_serving() const {
    return wait_until([this] { return client_->serving(); });
  }

  ClusterStatus status() {
    auto promise = std::make_shared<std::promise<ClusterStatus>>();
    auto future = promise->get_future();
    client_->status([promise](ClusterStatus status) { promise->set_value(std::move(status)); });
    CHECK(future.wait_for(kPatience) == std::future_status::ready);
    return future.get();
  }

  /// Submits; `on_token` runs after each token with the number so far.
  std::shared_future<Stream> submit(const scheduler::RequestSpec& spec,
                                    std::function<void(RequestId, size_t)> on_token = {}) {
    auto promise = std::make_shared<std::promise<Stream>>();
    auto stream = std::make_shared<Stream>();
    client_->submit(spec, [=](const scheduler::ClientEvent& event) {
      if (std::holds_alternative<scheduler::Admitted>(event)) stream->admitted = true;
      if (const auto* e = std::get_if<scheduler::TokensEmitted>(&event)) {
        CHECK_EQ(size_t{e->first}, stream->tokens.size());  // no gap, no repeat
        stream->num_cached = e->num_cached;
        for (const auto& token : e->tokens) {
          stream->tokens.push_back(token);
          if (on_token) on_token(e->request, stream->tokens.size());
        }
      }
      if (const auto* e = std::get_if<scheduler::Finished>(&event)) {
        stream->finished = e->reason;
        promise->set_value(*stream);
      }
      if (const auto* e = std::get_if<scheduler::Failed>(&event)) {
        stream->error = e->error;
        promise->set_value(*stream);
      }
      if (const auto* e = std::get_if<scheduler::Refused>(&event)) {
        stream->error = e->error;
        promise->set_value(*stream);
      }
    });
    return promise->get_future().share();
  }

  static Stream wait(const std::shared_future<Stream>& future) {
    CHECK(future.wait_for(kPatience) == std::future_status::ready);
    return future.get();
  }

  /// Ends a node as the death of its process would.
  void kill(const std::string& name) {
    for (auto& node : nodes_) {
      if (node->name == name) stop(*node);
    }
  }

  void add_shard(const std::string& name) {
    Node& node = add_node(name);
    node.worker =
        system_.spawn(expert_shard_actor, &node.services, scheduler_, experts::ShardOptions{});
    join(node, cluster::Role::kExperts);
  }

 private:
  struct Node {
    std::string name;
    std::unique_ptr<kernels::ThreadPool> pool;
    std::unique_ptr<kernels::Ops> ops;
    std::unique_ptr<Executor> executor;
    std::unique_ptr<transport::Port> port;
    WorkerServices services;
    caf::actor worker, node, kv_holder;
  };

  Node& add_node(const std::string& name) {
    nodes_.push_back(std::make_unique<Node>());
    Node& node = *nodes_.back();
    node.name = name;
    node.pool = std::make_unique<kernels::ThreadPool>(options_.num_threads);
    node.ops = kernels::make_cpu_ops(node.pool.get());
    node.executor = make_thread_executor();
    node.services = {.self = fresh_node_id(),
                     .cluster = cluster_hash("test"),
                     .checkpoint = checkpoint_.get(),
                     .ops = node.ops.get(),
                     .executor = node.executor.get()};
    return node;
  }

  void add_router() {
    Node& node = add_node("router-0");
    const model::ModelConfig& config = checkpoint_->config();
    auto weights = checkpoint_->load_router();
    CHECK(weights.ok());
    node.kv_holder = system_.spawn(
        kv_holder_actor, kvcache::HolderOptions{options_.kv_blocks, options_.kv_host_blocks,
                                                options_.kv_block_tokens});
    auto engine = std::make_shared<RouterEngine>(checkpoint_->config(), *weights, *node.ops,
                                                 KvShape{.num_layers = config.num_layers,
                                                         .num_blocks = options_.kv_blocks,
                                                         .block_tokens = options_.kv_block_tokens,
                                                         .kv_dim = config.kv_dim(),
                                                         .num_host_slots = options_.kv_host_blocks},
                                                 AttentionForm::kAbsorbed);
    node.worker = system_.spawn(router_actor, &node.services, engine, node.kv_holder, scheduler_,
                                RouterOptions{.batcher = options_.batcher,
                                              .block_tokens = options_.kv_block_tokens,
                                              .combine = options_.combine});
    join(node, cluster::Role::kRouter);
  }

  void join(Node& node, cluster::Role role) {
    node.port =
        network_.open(port_options_for(node.services.self, node.services.cluster, node.worker));
    if (options_.faults) {
      node.port = transport::make_fault_port(std::move(node.port),
                                             transport::FaultControl(*options_.faults));
    }
    node.services.port = node.port.get();
    NodeActorOptions options{.info = {.id = node.services.self,
                                      .name = node.name,
                                      .role = role,
                                      .version = "test",
                                      .checkpoint_digest = checkpoint_->digest(),
                                      .arithmetic_class = node.ops->arithmetic_class(),
                                      .link_address = node.port->address()},
                             .on_end = [](const Error&) {},
                             .on_accepted = [] {}};
    node.node = system_.spawn(node_actor, scheduler_, node.worker, options);
  }

  void stop(Node& node) {
    caf::scoped_actor self{system_};
    for (caf::actor* actor : {&node.node, &node.worker, &node.kv_holder}) {
      if (!*actor) continue;
      self->send_exit(*actor, caf::exit_reason::kill);
      self->wait_for(*actor);  // what it uses is gone after this
      *actor = nullptr;
    }
    node.port.reset();
    node.executor.reset();
  }

  Options options_;
  SystemConfig system_config_;
  caf::actor_system system_;
  transport::LoopbackNetwork network_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
  caf::actor scheduler_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::unique_ptr<ClusterClient> client_;
};

}  // namespace troupe::actors
