#pragma once

// The actors of a whole cluster in one process: head, gateway actor, routers with their KV-cache
// holders, expert shards. How they run, and what joins them, is the host's affair: threads and
// real time in TestCluster, one event at a time in VirtualCluster.

#include <caf/all.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/client.hpp"
#include "actors/executor.hpp"
#include "actors/expert_balance.hpp"
#include "actors/router_engine.hpp"
#include "actors/services.hpp"
#include "cluster/membership.hpp"
#include "experts/combine.hpp"
#include "kernels/backend.hpp"
#include "scheduler/batcher.hpp"
#include "scheduler/scheduler.hpp"
#include "transport/link.hpp"

namespace troupe::actors {

/// What the nodes run on; outlives them.
class ClusterHost {
 public:
  /// Where a node's actors run, and the head's scheduler as seen from there.
  struct Process {
    caf::actor_system* system = nullptr;
    caf::actor scheduler;
  };

  virtual ~ClusterHost() = default;
  /// Where the head and its client run.
  virtual caf::actor_system& head() = 0;
  virtual Process start_process(const std::string& node, const caf::actor& scheduler) = 0;
  /// Called before the actors of a killed node are ended: from now on nothing comes out of it.
  virtual void process_dies(const std::string& node) = 0;
  virtual NodeId fresh_id() = 0;
  virtual std::unique_ptr<Executor> make_executor() = 0;
  /// For the workers' services.
  virtual RunHere* run_here() { return nullptr; }
  virtual std::unique_ptr<transport::Port> open_port(transport::PortOptions options) = 0;
  /// Ends an actor as the death of its process would; on return it is dead.
  virtual void end(const caf::actor& actor) = 0;
};

struct ClusterOptions {
  std::string model;
  uint32_t num_routers = 1;              ///< router-0, router-1, ...
  uint32_t num_shards = 3;               ///< shard-0, shard-1, ...
  std::vector<std::string> absent = {};  ///< expected by the head, but not started
  size_t num_threads = 1;                ///< that compute, per node
  scheduler::SchedulerOptions scheduler{.max_queued = 64, .max_running = 16, .max_context = 512};
  scheduler::BatcherOptions batcher{.max_step_tokens = 64, .max_running = 16};
  uint32_t micro_batches = 0;  ///< as in RouterOptions
  experts::CombineOptions combine;
  ExpertBalanceOptions balance;
  uint32_t kv_blocks = 512;
  uint32_t kv_host_blocks = 0;
  uint32_t kv_block_tokens = 16;
  uint32_t kv_max_copies = kvcache::HolderOptions().max_copies;
  DType kv_dtype = DType::kF32;
  std::function<kernels::Backend()> make_backend = {};         ///< of each node; none: CPUs
  std::function<kernels::Backend()> make_router_backend = {};  ///< of each router, if another
};

class ClusterNodes {
 public:
  struct Node {
    std::string name;
    ClusterHost::Process process;
    WorkerServices services;
    std::unique_ptr<kernels::ThreadPool> pool;
    kernels::Backend backend;
    std::unique_ptr<Executor> executor, background;
    std::unique_ptr<transport::Port> port;
    caf::actor worker, node, kv_holder;  ///< null when killed; only a router has a kv_holder
    std::optional<Error> ended;          ///< what its node actor said when it gave up
  };

  ClusterNodes(ClusterHost& host, const ClusterOptions& options);
  ~ClusterNodes();  ///< ends all actors
  ClusterNodes(const ClusterNodes&) = delete;
  ClusterNodes& operator=(const ClusterNodes&) = delete;

  /// Starts a node of the configuration (again): "router-N" or "shard-N".
  Node& add(const std::string& name);
  /// Ends a node as the death of its process would.
  void kill(const std::string& name);
  /// The node of this name that was not killed, or nullptr.
  Node* find(const std::string& name);
  /// REQUIRES: there is one.
  Node& at(const std::string& name);

  [[nodiscard]] const caf::actor& scheduler() const { return scheduler_; }
  /// REQUIRES: it was not ended.
  ClusterClient& client() { return *client_; }
  void end_client() { client_.reset(); }
  void start_client();

 private:
  caf::actor spawn_router(Node& node);
  void join(Node& node, cluster::Role role);
  void stop(Node& node);

  ClusterHost& host_;
  ClusterOptions options_;
  const model::Checkpoint& checkpoint_;
  caf::actor scheduler_;
  std::unique_ptr<ClusterClient> client_;
  std::vector<std::unique_ptr<Node>> nodes_;  ///< dead ones, too
};

/// A checkpoint, opened once per process.
const model::Checkpoint& opened_model(const std::string& directory);
/// Its vocabulary for grammars, loaded once per process, or why there is none.
const Result<std::shared_ptr<const model::Vocabulary>>& loaded_vocabulary(
    const std::string& directory);

}  // namespace troupe::actors
