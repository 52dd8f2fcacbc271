#include "tests/support/control_plane.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"

namespace troupe::actors {
namespace {

constexpr uint16_t kPort = 7000;

}  // namespace

ControlPlane::ControlPlane(bool networked, Instant now) : networked_(networked) {
  processes_.push_back({"", std::make_unique<VirtualProcess>(networked, now)});
}

size_t ControlPlane::home_of(const caf::actor& actor) const {
  const auto home = std::ranges::find_if(processes_, [&](const Process& process) {
    return &process.process->system() == &actor->home_system();
  });
  CHECK(home != processes_.end());
  return static_cast<size_t>(home - processes_.begin());
}

ClusterHost::Process ControlPlane::start(const std::string& node, const caf::actor& scheduler,
                                         Instant now, std::function<void()> settle) {
  if (!networked_) return {&head().system(), scheduler};
  if (connections_.empty()) {
    head().network().provide_acceptor(kPort, caf::io::accept_handle::from_int(kPort));
    head().coordinator().inline_next_enqueue();
    CHECK(head().system().middleman().publish(scheduler, kPort));
  }
  processes_.push_back({node, std::make_unique<VirtualProcess>(true, now)});
  VirtualProcess& client = *processes_.back().process;
  connections_.emplace_back(head(), client, kPort, static_cast<int64_t>(processes_.size()));
  client.coordinator().after_next_enqueue(std::move(settle));
  auto remote = client.system().middleman().remote_actor(VirtualConnection::kHost, kPort);
  CHECK(remote);
  return {&client.system(), *remote};
}

void ControlPlane::kill(const std::string& node) {
  for (Process& process : processes_) {
    if (process.node != node || !process.alive) continue;
    process.alive = false;
    for (VirtualConnection& connection : connections_) {
      if (connection.ends[1].process == process.process.get()) connection.client_died = true;
    }
  }
}

void ControlPlane::cut(const std::string& node) {
  for (const Process& process : processes_) {
    for (VirtualConnection& connection : connections_) {
      if (process.node == node && connection.ends[1].process == process.process.get()) {
        connection.cut = true;
      }
    }
  }
}

bool ControlPlane::alive(const VirtualConnection& connection, size_t end) const {
  return std::ranges::any_of(processes_, [&](const Process& process) {
    return process.alive && process.process.get() == connection.ends[end].process;
  });
}

void ControlPlane::advance_to(Instant now) {
  for (const Process& process : processes_) {
    if (process.alive) process.process->advance_to(now);
  }
}

void ControlPlane::run_networks() {
  for (const Process& process : processes_) {
    if (process.alive) process.process->run_network();
  }
}

}  // namespace troupe::actors
