#include "tests/support/virtual_process.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace troupe::actors {
namespace {

caf::actor_system_config& under_test(SystemConfig& config, bool networked) {
  config.set("scheduler.policy", caf::atom("testing"));
  config.set("logger.inline-output", true);
  if (networked) {
    config.set("middleman.network-backend", caf::atom("testing"));
    config.set("middleman.workers", size_t{0});
  }
  return config;
}

}  // namespace

VirtualProcess::VirtualProcess(bool networked, Instant now)
    : config_({.network = networked, .cluster = "test"}),
      system_(under_test(config_, networked)),
      coordinator_(dynamic_cast<caf::scheduler::test_coordinator&>(system_.scheduler())) {
  if (networked) {
    network_ = dynamic_cast<caf::io::network::test_multiplexer*>(&system_.middleman().backend());
    CHECK(network_ != nullptr);
  }
  advance_to(now);
  while (coordinator_.try_run_once()) {  // CAF's own actors come to rest
  }
}

VirtualProcess::~VirtualProcess() {
  // Timers hold their actors, and the system waits for all of them.
  do {
    coordinator_.clock().cancel_all();
    if (network_ != nullptr) network_->flush_runnables();
  } while (coordinator_.try_run_once());
}

caf::io::network::test_multiplexer& VirtualProcess::network() {
  CHECK(network_ != nullptr);
  return *network_;
}

Instant VirtualProcess::now() const {
  return {std::chrono::duration_cast<std::chrono::nanoseconds>(
              coordinator_.clock().now().time_since_epoch())
              .count()};
}

std::optional<Instant> VirtualProcess::next_timer() const {
  const auto& timers = coordinator_.clock().schedule();
  if (timers.empty()) return std::nullopt;
  return Instant{
      std::chrono::duration_cast<std::chrono::nanoseconds>(timers.begin()->first.time_since_epoch())
          .count()};
}

void VirtualProcess::advance_to(Instant then) {
  CHECK_LE(now().ns, then.ns);
  coordinator_.clock().advance_time(std::chrono::nanoseconds((then - now()).ns));
  run_network();
}

void VirtualProcess::run_network() {
  if (network_ == nullptr) return;
  while (network_->try_exec_runnable() || network_->try_accept_connection()) {
  }
}

VirtualConnection::VirtualConnection(VirtualProcess& server, VirtualProcess& client, uint16_t port,
                                     int64_t number)
    : ends{{{&server, caf::io::connection_handle::from_int(2 * number)},
            {&client, caf::io::connection_handle::from_int(2 * number + 1)}}} {
  server.network().prepare_connection(caf::io::accept_handle::from_int(port), ends[0].handle,
                                      client.network(), kHost, port, ends[1].handle);
}

VirtualConnection::State VirtualConnection::state(size_t end) {
  const auto& servant = ends[end].process->network().impl_ptr(ends[end].handle);
  if (servant == nullptr) return State::kNew;
  return servant->parent() == nullptr ? State::kClosed : State::kOpen;
}

bool VirtualConnection::readable(size_t end) {
  if (cut || state(end) != State::kOpen) return false;
  caf::io::network::test_multiplexer& network = ends[end].process->network();
  const auto& [policy, wanted] = network.read_config(ends[end].handle);
  const size_t enough = policy == caf::io::receive_policy_flag::at_most ? 1 : wanted;
  const size_t arrived = network.virtual_network_buffer(ends[end].handle).size();
  return arrived >= std::max<size_t>(enough, 1);
}

void VirtualConnection::read(size_t end) {
  ends[end].process->network().try_read_data(ends[end].handle);
}

bool VirtualConnection::broken(size_t end) {
  if (cut || state(end) != State::kOpen) return false;
  return (client_died && end == 0) || state(1 - end) == State::kClosed;
}

void VirtualConnection::reset(size_t end) {
  caf::io::network::test_multiplexer& network = ends[end].process->network();
  network.impl_ptr(ends[end].handle)->io_failure(&network, caf::io::network::operation::read);
}

}  // namespace troupe::actors
