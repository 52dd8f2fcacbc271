#include "transport/net_devices.hpp"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/kernel_file.hpp"

namespace troupe::transport {
namespace {

bool same_address(const sockaddr* a, const sockaddr* b) {
  if (a == nullptr || b == nullptr || a->sa_family != b->sa_family) return false;
  if (a->sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(a)->sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in*>(b)->sin_addr.s_addr;
  }
  return a->sa_family == AF_INET6 &&
         std::memcmp(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr,
                     &reinterpret_cast<const sockaddr_in6*>(b)->sin6_addr, sizeof(in6_addr)) == 0;
}

/// Our address towards another; nothing is sent. False if no route leads there.
bool local_address(const addrinfo& to, sockaddr_storage& local) {
  const int fd = socket(to.ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  socklen_t size = sizeof local;
  const bool found = connect(fd, to.ai_addr, to.ai_addrlen) == 0 &&
                     getsockname(fd, reinterpret_cast<sockaddr*>(&local), &size) == 0;
  close(fd);
  return found;
}

}  // namespace

Result<std::string> interface_towards(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* raw = nullptr;
  if (const int rc = getaddrinfo(host.c_str(), "9", &hints, &raw); rc != 0) {
    return Error{Code::kUnavailable, "cannot resolve " + host + ": " + gai_strerror(rc)};
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(raw, &freeaddrinfo);
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) {
    return Error{Code::kInternal, std::string("getifaddrs failed: ") + std::strerror(errno)};
  }
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> interfaces(first, &freeifaddrs);
  for (const addrinfo* to = addresses.get(); to != nullptr; to = to->ai_next) {
    sockaddr_storage local{};
    if (!local_address(*to, local)) continue;
    for (const ifaddrs* at = interfaces.get(); at != nullptr; at = at->ifa_next) {
      if (!same_address(at->ifa_addr, reinterpret_cast<const sockaddr*>(&local))) continue;
      const std::string name = at->ifa_name;
      return name.substr(0, name.find(':'));  // "eth0:1" labels a second address of eth0
    }
  }
  return Error{Code::kUnavailable, "no network interface of this machine leads to " + host};
}

std::vector<RdmaPort> rdma_ports(const std::filesystem::path& rdma) {
  namespace fs = std::filesystem;
  const auto told_in = [](const fs::path& file) {
    const auto line = first_line(file);
    return line.ok() ? *line : "";
  };
  std::vector<RdmaPort> ports;
  std::error_code error;
  for (const auto& device : fs::directory_iterator(rdma, error)) {
    for (const auto& port : fs::directory_iterator(device.path() / "ports", error)) {
      ports.push_back(
          {.name = device.path().filename().string() + ":" + port.path().filename().string(),
           .state = told_in(port.path() / "state"),
           .rate = told_in(port.path() / "rate")});
    }
  }
  std::ranges::sort(ports, {}, &RdmaPort::name);
  return ports;
}

std::string ucx_devices(const std::string& interface, const std::filesystem::path& rdma) {
  std::string list = interface;
  for (const RdmaPort& port : rdma_ports(rdma)) {
    if (port.is_active()) list += "," + port.name;
  }
  return list;
}

}  // namespace troupe::transport
