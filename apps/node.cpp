// troupe node: one router or expert shard of a cluster, in a process of its own.

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <chrono>
#include <csignal>
#include <mutex>
#include <optional>

#include "actors/device_room.hpp"
#include "actors/executor.hpp"
#include "actors/expert_shard_actor.hpp"
#include "actors/kv_holder_actor.hpp"
#include "actors/memory_of_nodes.hpp"
#include "actors/node_actor.hpp"
#include "actors/router_actor.hpp"
#include "actors/services.hpp"
#include "actors/system.hpp"
#include "apps/command.hpp"
#include "apps/gpu_backend.hpp"
#include "apps/signals.hpp"
#include "apps/version.hpp"
#include "base/log.hpp"
#include "base/memory_room.hpp"
#include "base/rounded_size.hpp"
#include "cluster/config.hpp"
#include "kernels/backend.hpp"
#include "kernels/cpu_claims.hpp"
#include "model/guide.hpp"
#include "transport/net_devices.hpp"
#include "transport/ports.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

constexpr Duration kConnectRetry = milliseconds(200);
constexpr Duration kProbeTimeout = seconds(1);

Result<cluster::NodeConfig> node_named(const cluster::ClusterConfig& config,
                                       const std::string& name) {
  std::string names;
  for (const cluster::NodeConfig& node : config.nodes) {
    if (node.name == name) return node;
    names += (names.empty() ? "" : ", ") + node.name;
  }
  return Error{Code::kInvalidArgument,
               "the configuration has no node '" + name + "'; it has " + names};
}

/// Connects to the head, which may still be starting. Probes first: CAF's own connect can block the
/// process for minutes.
Result<caf::actor> connect_to_head(caf::actor_system& system,
                                   const cluster::ClusterConfig& config) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::nanoseconds(config.assemble_timeout.ns);
  Error last;
  do {
    const auto probed = actors::probe_tcp(config.control_host, config.control_port, kProbeTimeout);
    if (probed.ok()) {
      auto head = system.middleman().remote_actor(config.control_host, config.control_port);
      if (head) return *head;
      last = {Code::kUnavailable, "the head at " + config.control_host + ":" +
                                      std::to_string(config.control_port) +
                                      " refused the connection: " + system.render(head.error())};
    } else {
      last = probed.error();
    }
    const int signal = wait_for_signal(kConnectRetry);
    if (signal == SIGINT || signal == SIGTERM) return Error{Code::kCancelled, "interrupted"};
  } while (std::chrono::steady_clock::now() < deadline);
  return std::move(last).with_context("joining the cluster");
}

transport::UcxWires wires_of(cluster::Wires wires) {
  switch (wires) {
    case cluster::Wires::kAuto: return transport::UcxWires::kAuto;
    case cluster::Wires::kShm: return transport::UcxWires::kShm;
    case cluster::Wires::kNet: return transport::UcxWires::kNet;
  }
  return transport::UcxWires::kAuto;
}

std::string host_name() {
  char name[256] = "unknown";
  gethostname(name, sizeof name - 1);
  return name;
}

/// CPUs for the compute threads. @returns nullptr, and the log says why, if they are not pinned
std::unique_ptr<kernels::CpuClaims> claim_cpus(const cluster::ClusterConfig& config,
                                               const cluster::NodeConfig& node) {
  if (config.pin_threads == cluster::PinThreads::kOff) return nullptr;
  // Which nodes share a machine is known only if they all do.
  const size_t num_threads_together =
      cluster::is_on_one_machine(config) ? cluster::num_busy_threads(config) : 0;
  auto claims =
      kernels::CpuClaims::claim(node.threads, {.num_threads_together = num_threads_together});
  if (claims.ok()) return std::move(*claims);
  log::info("threads_not_pinned", {{"reason", claims.error().message}});
  return nullptr;
}

/// Why a node's actor ended, handed from its thread to the main one.
class EndReason {
 public:
  void set(Error reason) {
    const std::lock_guard lock(mutex_);
    reason_ = std::move(reason);
    kill(getpid(), SIGCHLD);  // wakes wait_for_signal()
  }
  std::optional<Error> get() {
    const std::lock_guard lock(mutex_);
    return reason_;
  }

 private:
  std::mutex mutex_;
  std::optional<Error> reason_;
};

/// Everything of the process that outlives its actors, in order of construction.
struct Process {
  const cluster::ClusterConfig& config;
  const cluster::NodeConfig& node;
  std::unique_ptr<kernels::CpuClaims> cpus;  ///< nullptr: threads are not pinned
  model::Checkpoint checkpoint;
  kernels::ThreadPool pool;
  kernels::Backend backend;
  std::shared_ptr<actors::RouterEngine> router;  ///< until its actor has it; of a router
  actors::WorkerServices services;
  EndReason end;
};

/// What computes: its GPUs, or this machine's CPUs.
Result<kernels::Backend> open_backend(const Device& device, bool cuda_graphs,
                                      kernels::ThreadPool& pool) {
  return device.has_gpus() ? open_gpus(device, cuda_graphs) : kernels::make_cpu_backend(&pool);
}

actors::LargestStep largest_step(const cluster::ClusterConfig& config) {
  return {.num_rows = config.max_step_tokens,
          .num_logits = config.max_running,
          .micro_batches = config.micro_batches};
}

/// What a router takes of memory for itself; an expert shard checks when it knows its experts.
Result<void> check_memory(const Process& process, const actors::KvShape& kv) {
  const cluster::ClusterConfig& config = process.config;
  const auto weights = TRY(process.checkpoint.bytes_of_router());
  if (!process.backend.memory->is_host()) {
    TRY(actors::check_room_of_router(process.backend, process.checkpoint.config(), weights, kv,
                                     largest_step(config)));
  }
  const cluster::NodeMemory here = actors::memory_of_router(process.node, kv, weights);
  return check_memory_room("copies of weights (" + rounded_size(here.copies) + ") and KV blocks (" +
                               rounded_size(here.kv_blocks + here.kv_host_blocks) + ") need",
                           here.total(), available_memory(),
                           "lower limits.kv_blocks or limits.kv_host_blocks, or set "
                           "limits.kv_dtype: bf16");
}

/// Maps the weights and has them where the backend computes.
Result<std::shared_ptr<actors::RouterEngine>> load_router(Process& process) {
  const cluster::ClusterConfig& config = process.config;
  const model::ModelConfig& model = process.checkpoint.config();
  const actors::KvShape kv = actors::kv_shape(config, model);
  TRY(check_memory(process, kv));
  const auto weights =
      TRY(process.checkpoint.load_router(/*with_kv_b=*/false, process.node.threads));
  auto engine =
      TRY(actors::RouterEngine::make(model, weights, process.backend, process.pool, kv,
                                     actors::AttentionForm::kAbsorbed, largest_step(config)));
  log::info("weights_loaded", {{"model", config.model}});
  log::info("kv_cache", {{"blocks", config.kv_blocks},
                         {"dtype", to_string(config.kv_dtype)},
                         {"bytes", engine->kv_bytes()}});
  return engine;
}

caf::actor spawn_worker(caf::actor_system& system, Process& process, const caf::actor& head) {
  const cluster::ClusterConfig& config = process.config;
  if (process.node.role == cluster::Role::kExperts) {
    const auto routers = static_cast<uint32_t>(
        std::ranges::count(config.nodes, cluster::Role::kRouter, &cluster::NodeConfig::role));
    experts::ShardOptions options;
    options.max_queued_rows = routers * actors::kDispatchesPerShard * config.max_step_tokens;
    options.max_batch_rows = std::max(options.max_batch_rows, config.max_step_tokens);
    return system.spawn(actors::expert_shard_actor, &process.services, head, options);
  }
  const auto holder = system.spawn(actors::kv_holder_actor,
                                   kvcache::HolderOptions{.num_blocks = config.kv_blocks,
                                                          .num_host_slots = config.kv_host_blocks,
                                                          .block_tokens = config.kv_block_tokens,
                                                          .copies_target = config.step_target},
                                   bool{TROUPE_CHECKED});
  return system.spawn(
      actors::router_actor, &process.services, std::move(process.router), holder, head,
      actors::RouterOptions{.batcher = {.max_step_tokens = config.max_step_tokens,
                                        .max_running = config.max_running,
                                        .step = {.target = config.step_target}},
                            .micro_batches = config.micro_batches,
                            .block_tokens = config.kv_block_tokens,
                            .transfers = {.read_target = config.step_target},
                            .links = {.heartbeat_interval = config.heartbeat_interval,
                                      .heartbeat_timeout = config.heartbeat_timeout}});
}

Result<int> run(const std::string& config_path, const std::string& name) {
  const cluster::ClusterConfig config = TRY(cluster::load_cluster_config(config_path));
  const cluster::NodeConfig node = TRY(node_named(config, name));
  log::configure(log::Level::kInfo, name);
  auto claims = claim_cpus(config, node);
  const auto cpus = claims ? claims->cpus() : std::vector<uint32_t>();
  Process process{.config = config,
                  .node = node,
                  .cpus = std::move(claims),
                  .checkpoint = TRY(model::Checkpoint::open(config.model)),
                  .pool = kernels::ThreadPool(node.threads, cpus)};
  TRY(actors::check_devices(process.checkpoint.config(),
                            std::max<size_t>(1, node.device.gpus.size())));
  process.backend = TRY(open_backend(node.device, config.cuda_graphs, process.pool));
  auto& vocabulary = process.services.vocabulary;
  if (node.role == cluster::Role::kRouter) {
    process.router = TRY(load_router(process));
    // Without a tokenizer it serves on; requests with a grammar get this error.
    vocabulary = model::load_vocabulary(config.model, process.checkpoint.config());
    if (!vocabulary.ok()) {
      log::warning("no_structured_output", {{"reason", vocabulary.error().message}});
    }
  }
  const NodeId self = actors::fresh_node_id();
  actors::SystemConfig system_config({.network = true,
                                      .heartbeat_interval = config.heartbeat_interval,
                                      .heartbeat_timeout = config.heartbeat_timeout,
                                      .cluster = config.name});
  caf::actor_system system(system_config);
  const caf::actor head = TRY(connect_to_head(system, config));
  actors::bound_delivery(config.control_port, config.heartbeat_timeout);
  const std::string interface = TRY(transport::interface_towards(config.control_host));
  actors::RunHere run_here(system);
  const auto executor = actors::make_thread_executor();  // its jobs end before the system does
  const auto background = actors::make_thread_executor();
  executor->submit([&process] { process.pool.pin_caller(); });
  process.services = {.self = self,
                      .cluster = actors::cluster_hash(config.name),
                      .checkpoint = &process.checkpoint,
                      .backend = &process.backend,
                      .executor = executor.get(),
                      .background = background.get(),
                      .run_here = &run_here,
                      .num_threads = node.threads,
                      .vocabulary = vocabulary};
  const caf::actor worker = spawn_worker(system, process, head);
  const auto stop_worker = [&] {
    caf::anon_send_exit(worker, caf::exit_reason::kill);
    system.await_all_actors_done();  // then a running job may still send at most, which fails once
                                     // the port is shut
  };
  const std::string devices = transport::ucx_devices(interface);
  auto port = transport::open_ucx_port(
      actors::port_options_for(self, process.services.cluster, worker, &run_here),
      {.wires = wires_of(config.wires), .net_devices = devices});
  if (!port.ok()) {
    stop_worker();
    return std::move(port).error();
  }
  process.services.port = port->get();
  executor->drive_when_idle(port->get());
  const auto node_actor = system.spawn(
      actors::node_actor, head, worker,
      actors::NodeActorOptions{.info = {.id = self,
                                        .name = name,
                                        .role = node.role,
                                        .version = kVersion,
                                        .checkpoint_digest = process.checkpoint.digest(),
                                        .arithmetic_class = actors::arithmetic_class(
                                            *process.backend.ops, config.kv_dtype),
                                        .link_address = (*port)->address(),
                                        .host = host_name(),
                                        .pid = static_cast<uint64_t>(getpid()),
                                        .device = to_string(node.device),
                                        .cpus = kernels::cpu_list(cpus)},
                               .on_end = [&process](const Error& e) { process.end.set(e); },
                               .on_accepted = [] {}});
  log::info("node_started", {{"role", node.role == cluster::Role::kRouter ? "router" : "experts"},
                             {"device", to_string(node.device)},
                             {"kernels", process.backend.ops->target()},
                             {"threads", node.threads},
                             {"cpus", cpus.empty() ? "any" : kernels::cpu_list(cpus)},
                             {"devices", devices}});
  int signal = 0;
  while (signal != SIGINT && signal != SIGTERM && !process.end.get()) {
    signal = wait_for_signal(seconds(3600));
  }
  caf::anon_send_exit(node_actor, caf::exit_reason::user_shutdown);
  stop_worker();
  executor->drive_when_idle(nullptr);  // the port ends before it
  if (const auto reason = process.end.get()) return *reason;
  return kSuccess;
}

}  // namespace

int run_node(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe node --config FILE --name NAME",
      .text =
          "Runs one node that the configuration names, until it is stopped or loses the "
          "head.\n'troupe up' starts all nodes of a configuration on this machine; on "
          "other machines\nstart this command there, with the same file."};
  line.options.add_options()("config", po::value<std::string>()->required(),
                             "cluster configuration")("name", po::value<std::string>()->required(),
                                                      "which of its nodes this is");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  block_signals();
  const auto done = run(values["config"].as<std::string>(), values["name"].as<std::string>());
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
