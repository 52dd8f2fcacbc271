#include "tests/support/cluster_nodes.hpp"

#include <map>
#include <utility>

#include "actors/expert_shard_actor.hpp"
#include "actors/gateway_actor.hpp"
#include "actors/kv_holder_actor.hpp"
#include "actors/node_actor.hpp"
#include "actors/router_actor.hpp"
#include "actors/scheduler_actor.hpp"
#include "base/check.hpp"
#include "model/guide.hpp"

namespace troupe::actors {
namespace {

constexpr std::string_view kRouterPrefix = "router-";

SchedulerActorOptions head_options(const ClusterOptions& options,
                                   const model::Checkpoint& checkpoint) {
  SchedulerActorOptions head{.cluster = "test",
                             .scheduler = options.scheduler,
                             .balance = options.balance,
                             .model = checkpoint.config()};
  head.membership.version = "test";
  head.membership.checkpoint_digest = checkpoint.digest();
  for (uint32_t r = 0; r < options.num_routers; ++r) {
    head.membership.expected.emplace_back("router-" + std::to_string(r), cluster::Role::kRouter);
  }
  for (uint32_t s = 0; s < options.num_shards; ++s) {
    head.membership.expected.emplace_back("shard-" + std::to_string(s), cluster::Role::kExperts);
  }
  return head;
}

}  // namespace

const model::Checkpoint& opened_model(const std::string& directory) {
  static std::map<std::string, model::Checkpoint> opened;
  const auto known = opened.find(directory);
  if (known != opened.end()) return known->second;
  auto checkpoint = model::Checkpoint::open(directory);
  CHECK(checkpoint.ok());
  return opened.emplace(directory, std::move(*checkpoint)).first->second;
}

const Result<std::shared_ptr<const model::Vocabulary>>& loaded_vocabulary(
    const std::string& directory) {
  static std::map<std::string, Result<std::shared_ptr<const model::Vocabulary>>> loaded;
  const auto known = loaded.find(directory);
  if (known != loaded.end()) return known->second;
  return loaded
      .emplace(directory, model::load_vocabulary(directory, opened_model(directory).config()))
      .first->second;
}

ClusterNodes::ClusterNodes(ClusterHost& host, const ClusterOptions& options)
    : host_(host), options_(options), checkpoint_(opened_model(options.model)) {
  const SchedulerActorOptions head = head_options(options_, checkpoint_);
  scheduler_ = host_.head().spawn(scheduler_actor, head);
  start_client();
  for (const auto& [name, role] : head.membership.expected) {
    if (std::ranges::count(options_.absent, name) == 0) add(name);
  }
}

ClusterNodes::~ClusterNodes() {
  client_.reset();
  for (auto& node : nodes_) stop(*node);
  host_.end(scheduler_);
}

ClusterNodes::Node& ClusterNodes::add(const std::string& name) {
  const cluster::Role role =
      name.starts_with(kRouterPrefix) ? cluster::Role::kRouter : cluster::Role::kExperts;
  nodes_.push_back(std::make_unique<Node>());
  Node& node = *nodes_.back();
  node.name = name;
  node.process = host_.start_process(name, scheduler_);
  node.pool = std::make_unique<kernels::ThreadPool>(options_.num_threads);
  const auto& make_backend = role == cluster::Role::kRouter && options_.make_router_backend
                                 ? options_.make_router_backend
                                 : options_.make_backend;
  node.backend = make_backend ? make_backend() : kernels::make_cpu_backend(node.pool.get());
  node.executor = host_.make_executor();
  node.background = host_.make_executor();
  node.services = {.self = host_.fresh_id(),
                   .cluster = cluster_hash("test"),
                   .checkpoint = &checkpoint_,
                   .backend = &node.backend,
                   .executor = node.executor.get(),
                   .background = node.background.get(),
                   .run_here = host_.run_here(),
                   .vocabulary = loaded_vocabulary(options_.model)};
  node.worker = role == cluster::Role::kRouter
                    ? spawn_router(node)
                    : node.process.system->spawn(expert_shard_actor, &node.services,
                                                 node.process.scheduler, experts::ShardOptions{});
  join(node, role);
  return node;
}

caf::actor ClusterNodes::spawn_router(Node& node) {
  const model::ModelConfig& config = checkpoint_.config();
  auto weights = checkpoint_.load_router();
  CHECK(weights.ok());
  node.kv_holder =
      node.process.system->spawn(kv_holder_actor,
                                 kvcache::HolderOptions{.num_blocks = options_.kv_blocks,
                                                        .num_host_slots = options_.kv_host_blocks,
                                                        .block_tokens = options_.kv_block_tokens,
                                                        .max_copies = options_.kv_max_copies},
                                 true);
  auto engine = RouterEngine::make(config, *weights, node.backend, *node.pool,
                                   KvShape{.num_layers = config.num_layers,
                                           .num_blocks = options_.kv_blocks,
                                           .block_tokens = options_.kv_block_tokens,
                                           .kv_dim = config.kv_dim(),
                                           .num_host_slots = options_.kv_host_blocks,
                                           .dtype = options_.kv_dtype},
                                   AttentionForm::kAbsorbed);
  CHECK(engine.ok());
  return node.process.system->spawn(router_actor, &node.services, *engine, node.kv_holder,
                                    node.process.scheduler,
                                    RouterOptions{.batcher = options_.batcher,
                                                  .micro_batches = options_.micro_batches,
                                                  .block_tokens = options_.kv_block_tokens,
                                                  .combine = options_.combine});
}

void ClusterNodes::join(Node& node, cluster::Role role) {
  node.port = host_.open_port(port_options_for(node.services.self, node.services.cluster,
                                               node.worker, node.services.run_here));
  node.services.port = node.port.get();
  NodeActorOptions options{
      .info = {.id = node.services.self,
               .name = node.name,
               .role = role,
               .version = "test",
               .checkpoint_digest = checkpoint_.digest(),
               .arithmetic_class = arithmetic_class(*node.backend.ops, options_.kv_dtype),
               .link_address = node.port->address()},
      .on_end = [&node](const Error& reason) { node.ended = reason; },
      .on_accepted = [] {}};
  node.node = node.process.system->spawn(node_actor, node.process.scheduler, node.worker, options);
}

void ClusterNodes::kill(const std::string& name) { stop(at(name)); }

ClusterNodes::Node* ClusterNodes::find(const std::string& name) {
  const auto found = std::ranges::find_if(
      nodes_, [&](const auto& node) { return node->name == name && node->worker; });
  return found == nodes_.end() ? nullptr : found->get();
}

ClusterNodes::Node& ClusterNodes::at(const std::string& name) {
  Node* node = find(name);
  CHECK(node != nullptr);
  return *node;
}

void ClusterNodes::start_client() { client_ = make_cluster_client(host_.head(), scheduler_); }

void ClusterNodes::stop(Node& node) {
  if (!node.worker) return;
  host_.process_dies(node.name);
  for (caf::actor* actor : {&node.node, &node.worker, &node.kv_holder}) {
    if (*actor) host_.end(*actor);
    *actor = nullptr;
  }
  node.port.reset();  // its peers see the link go down
  node.executor.reset();
  node.background.reset();
}

}  // namespace troupe::actors
