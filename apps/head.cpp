// troupe head: gateway and scheduler of a cluster, in one process.

#include <algorithm>
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <csignal>

#include "actors/gateway_actor.hpp"
#include "actors/messages.hpp"
#include "actors/scheduler_actor.hpp"
#include "actors/system.hpp"
#include "apps/command.hpp"
#include "apps/signals.hpp"
#include "apps/version.hpp"
#include "base/log.hpp"
#include "cluster/config.hpp"
#include "gateway/server.hpp"
#include "model/chat_format.hpp"
#include "model/generation_config.hpp"
#include "model/tokenizer.hpp"
#include "model/weights.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

scheduler::PrefixIndexOptions prefix_index(const cluster::ClusterConfig& config) {
  const auto num_routers =
      std::ranges::count(config.nodes, cluster::Role::kRouter, &cluster::NodeConfig::role);
  const uint64_t blocks = uint64_t{config.kv_blocks} + config.kv_host_blocks;
  return scheduler::PrefixIndexOptions::for_tokens(static_cast<uint64_t>(num_routers) * blocks *
                                                   config.kv_block_tokens);
}

actors::SchedulerActorOptions scheduler_options(const cluster::ClusterConfig& config,
                                                const model::Checkpoint& checkpoint,
                                                uint32_t max_context) {
  actors::SchedulerActorOptions options{
      .cluster = config.name,
      .scheduler = {.max_queued = config.max_queued,
                    .max_queued_per_tenant = config.max_queued_per_tenant,
                    .max_running = config.max_running,
                    .kv_tokens = uint64_t{config.kv_blocks} * config.kv_block_tokens,
                    .prefix_index = prefix_index(config),
                    .max_context = max_context},
      .pins = config.pins,
      .balance = actors::balance_options(config),
      .model = checkpoint.config()};
  for (const cluster::TenantConfig& tenant : config.tenants) {
    options.scheduler.fairness.weights[tenant.key] = tenant.weight;
  }
  options.membership.version = kVersion;
  options.membership.checkpoint_digest = checkpoint.digest();
  options.membership.assemble_timeout = config.assemble_timeout;
  for (const cluster::NodeConfig& node : config.nodes) {
    options.membership.expected.emplace_back(node.name, node.role);
  }
  return options;
}

Result<int> serve(const std::string& config_path) {
  const cluster::ClusterConfig config = TRY(cluster::load_cluster_config(config_path));
  log::configure(log::Level::kInfo, "head");
  const model::Checkpoint checkpoint = TRY(model::Checkpoint::open(config.model));
  const model::GenerationConfig generation =
      TRY(model::load_generation_config(config.model, checkpoint.config()));
  const model::Tokenizer tokenizer = TRY(model::Tokenizer::load(config.model));
  const auto chat_format = model::ChatFormat::detect(tokenizer);
  if (!chat_format.ok()) {
    log::warning("no_chat_format", {{"reason", chat_format.error().message}});
  }
  const uint32_t max_context = std::min(config.max_context == 0 ? UINT32_MAX : config.max_context,
                                        std::min(checkpoint.config().max_position_embeddings,
                                                 config.kv_blocks * config.kv_block_tokens));

  const actors::SchedulerActorOptions options = scheduler_options(config, checkpoint, max_context);
  // Pins that cannot be met are the operator's mistake: said before anything starts.
  TRY(actors::place_as_configured(config, checkpoint.config()));

  actors::SystemConfig system_config({.network = true,
                                      .heartbeat_interval = config.heartbeat_interval,
                                      .heartbeat_timeout = config.heartbeat_timeout,
                                      .cluster = config.name});
  caf::actor_system system(system_config);
  const auto scheduler = system.spawn(actors::scheduler_actor, options);
  const auto stop_scheduler = [&] {
    caf::anon_send_exit(scheduler, caf::exit_reason::user_shutdown);
  };
  const auto published =
      system.middleman().publish(scheduler, config.control_port, config.control_host.c_str(), true);
  if (!published) {
    stop_scheduler();
    return Error{Code::kUnavailable, "cannot listen for nodes on " + config.control_host + ":" +
                                         std::to_string(config.control_port) + ": " +
                                         system.render(published.error()) +
                                         "; is another cluster running? See control.port"};
  }
  actors::bound_delivery(*published, config.heartbeat_timeout);
  const auto client = actors::make_cluster_client(system, scheduler);
  gateway::GatewayModel model{.id = config.served_name,
                              .tokenizer = tokenizer,
                              .chat_format = chat_format.ok() ? &*chat_format : nullptr,
                              .max_context = max_context,
                              .eos_token_ids = generation.eos_token_ids,
                              .defaults = generation.sampling};
  auto server = gateway::start({.host = cluster::http_address(config),
                                .port = config.http_port,
                                .version = kVersion,
                                .max_connections = config.max_connections,
                                .max_body_bytes = config.max_body_bytes,
                                .request_timeout = config.request_timeout},
                               *client, model);
  if (!server.ok()) {
    stop_scheduler();
    return std::move(server).error();
  }
  log::info("head_listening", {{"http", config.http_host + ":" + std::to_string(config.http_port)},
                               {"control", std::to_string(*published)}});
  int signal = 0;
  while (signal != SIGINT && signal != SIGTERM) signal = wait_for_signal(seconds(3600));
  log::info("head_stopping", {});
  caf::anon_send(scheduler, actors::StopCluster{});
  (*server)->stop();
  stop_scheduler();
  return kSuccess;
}

}  // namespace

int run_head(const Arguments& arguments) {
  CommandLine line{.usage = "troupe head --config FILE",
                   .text =
                       "Runs the head: takes HTTP requests, schedules them, and takes in the nodes "
                       "that the\nconfiguration names. 'troupe up' starts it together with local "
                       "nodes.",
                   .positional = {"config"}};
  line.options.add_options()("config", po::value<std::string>()->required(),
                             "cluster configuration");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  block_signals();
  const auto done = serve(values["config"].as<std::string>());
  return done.ok() ? *done : fail(done.error());
}

}  // namespace troupe::apps
