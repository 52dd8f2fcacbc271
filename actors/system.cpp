#include "actors/system.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <caf/all.hpp>
#include <caf/io/all.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>

#include "actors/messages.hpp"

namespace troupe::actors {
namespace {

/// CAF derives its node id from the machine and the pid, which two containers may share; then they
/// cannot connect. This module replaces the id before the middleman starts. It takes the slot of
/// CAF's unused network manager.
class RandomNodeId : public caf::actor_system::module {
 public:
  explicit RandomNodeId(caf::actor_system& system) : system_(system) {}
  static caf::actor_system::module* make(caf::actor_system& system, caf::detail::type_list<>) {
    return new RandomNodeId(system);
  }

  void start() override {}
  void stop() override {}
  void init(caf::actor_system_config&) override {
    std::random_device random;
    caf::node_id::default_data::host_id_type host;
    for (auto& byte : host) byte = static_cast<uint8_t>(random());
    const_cast<caf::node_id&>(system_.node()) =
        caf::make_node_id(static_cast<uint32_t>(getpid()), host);
  }
  id_t id() const override { return network_manager; }
  void* subtype_ptr() override { return this; }

 private:
  caf::actor_system& system_;
};

caf::timespan span(Duration d) { return caf::timespan(d.ns); }

}  // namespace

SystemConfig::SystemConfig(const SystemOptions& options) {
  add_message_type<JoinCluster>("troupe::JoinCluster");
  add_message_type<NodeReadyReport>("troupe::NodeReadyReport");
  add_message_type<NodeFailedReport>("troupe::NodeFailedReport");
  add_message_type<ExpertLoadReport>("troupe::ExpertLoadReport");
  add_message_type<Emission>("troupe::Emission");
  add_message_type<StepTokens>("troupe::StepTokens");
  add_message_type<RequestFailed>("troupe::RequestFailed");
  add_message_type<SubmitRequest>("troupe::SubmitRequest");
  add_message_type<CancelRequest>("troupe::CancelRequest");
  add_message_type<JoinAccepted>("troupe::JoinAccepted");
  add_message_type<JoinRejected>("troupe::JoinRejected");
  add_message_type<Peer>("troupe::Peer");
  add_message_type<FormEpochRequest>("troupe::FormEpochRequest");
  add_message_type<EpochEnded>("troupe::EpochEnded");
  add_message_type<PrepareEpochRequest>("troupe::PrepareEpochRequest");
  add_message_type<SwitchEpochRequest>("troupe::SwitchEpochRequest");
  add_message_type<KeepEpochRequest>("troupe::KeepEpochRequest");
  add_message_type<StartRequest>("troupe::StartRequest");
  add_message_type<CancelAttempt>("troupe::CancelAttempt");
  add_message_type<WorkerStatusQuery>("troupe::WorkerStatusQuery");
  add_message_type<WorkerStatus>("troupe::WorkerStatus");
  // The default policy burns a sixth of a core when idle; sharing sleeps.
  set("scheduler.policy", caf::atom("sharing"));
  set("scheduler.max-threads", options.num_threads);
  if (!options.network) return;
  load<caf::io::middleman>();
  load<RandomNodeId>();
  set("middleman.heartbeat-interval", span(options.heartbeat_interval));
  set("middleman.connection-timeout", span(options.heartbeat_timeout));
  set("middleman.workers", size_t{1});
  set("middleman.app-identifiers", std::vector<std::string>{"troupe/" + options.cluster});
}

NodeId fresh_node_id() {
  std::random_device random;
  for (;;) {
    const uint64_t value = (uint64_t{random()} << 32) | random();
    if (value != 0) return NodeId{value};
  }
}

void bound_delivery(uint16_t port, Duration timeout) {
  const auto port_of = [](const sockaddr_storage& address) -> uint16_t {
    switch (address.ss_family) {
      case AF_INET: return ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port);
      case AF_INET6: return ntohs(reinterpret_cast<const sockaddr_in6&>(address).sin6_port);
      default: return 0;
    }
  };
  // CAF does not tell its sockets.
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    const int fd = std::atoi(entry.path().filename().c_str());
    sockaddr_storage own{}, peer{};
    socklen_t own_size = sizeof own, peer_size = sizeof peer;
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &own_size) != 0) continue;
    getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size);  // fails where it listens
    if (port_of(own) != port && port_of(peer) != port) continue;
    const auto milliseconds = static_cast<unsigned>(timeout.ns / 1'000'000);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof milliseconds);
  }
}

Result<void> probe_tcp(const std::string& host, uint16_t port, Duration timeout) {
  const std::string where = host + ":" + std::to_string(port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (const int rc = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
      rc != 0) {
    return Error{Code::kUnavailable, "cannot resolve " + where + ": " + gai_strerror(rc)};
  }
  Result<void> result = Error{Code::kUnavailable, "no address for " + where};
  for (const addrinfo* at = found; at != nullptr && !result.ok(); at = at->ai_next) {
    const int fd = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    int failure = 0;
    if (connect(fd, at->ai_addr, at->ai_addrlen) != 0) {
      failure = errno;
      if (failure == EINPROGRESS) {
        pollfd wait{.fd = fd, .events = POLLOUT, .revents = 0};
        failure = poll(&wait, 1, static_cast<int>(timeout.ns / 1'000'000)) == 1 ? 0 : ETIMEDOUT;
        socklen_t size = sizeof failure;
        if (failure == 0) getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size);
      }
    }
    close(fd);
    if (failure == 0) {
      result = {};
    } else {
      result = Error{Code::kUnavailable, "cannot connect to " + where + ": " + strerror(failure)};
    }
  }
  freeaddrinfo(found);
  return result;
}

}  // namespace troupe::actors
