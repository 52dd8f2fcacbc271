#include "apps/machine_facts.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "actors/memory_of_nodes.hpp"
#include "apps/gpu_backend.hpp"
#include "base/control_groups.hpp"
#include "base/kernel_file.hpp"
#include "gateway/http_client.hpp"
#include "kernels/backend.hpp"
#include "model/weights.hpp"

namespace troupe::apps {
namespace {

Error system_error(const std::string& what) {
  return {Code::kUnavailable, what + ": " + std::strerror(errno)};
}

/// The word in brackets of "always [madvise] never". @returns "" without that file
std::string huge_pages() {
  const auto line = first_line("/sys/kernel/mm/transparent_hugepage/enabled");
  if (!line.ok()) return "";
  const size_t first = line->find('[') + 1;
  return line->substr(first, line->find(']', first) - first);
}

Result<cluster::MemoryFacts> memory() {
  cluster::MemoryFacts facts{.total_bytes = TRY(bytes_of("/proc/meminfo", "MemTotal")),
                             .available_bytes = TRY(bytes_of("/proc/meminfo", "MemAvailable"))};
  const std::string overcommit = TRY(first_line("/proc/sys/vm/overcommit_memory"));
  std::from_chars(overcommit.data(), overcommit.data() + overcommit.size(), facts.overcommit);
  facts.huge_pages = huge_pages();
  return facts;
}

Result<uint64_t> soft_limit(__rlimit_resource resource) {
  rlimit limit{};
  if (getrlimit(resource, &limit) != 0) return system_error("getrlimit");
  return limit.rlim_cur == RLIM_INFINITY ? cluster::kUnlimited : uint64_t{limit.rlim_cur};
}

/// One that a namespace of users grants, as to root in a container of somebody else, counts for
/// nothing: drivers of RDMA ask for it in the first one.
bool has_ipc_lock() {
  constexpr ino_t kFirstUserNamespace = 0xEFFFFFFD;
  struct stat users {};
  const bool is_in_first =
      stat("/proc/self/ns/user", &users) != 0 || users.st_ino == kFirstUserNamespace;
  const auto effective = line_of("/proc/self/status", "CapEff");
  uint64_t capabilities = 0;
  if (effective.ok()) {
    std::from_chars(effective->data(), effective->data() + effective->size(), capabilities, 16);
  }
  return is_in_first && (capabilities >> CAP_IPC_LOCK & 1) != 0;
}

Result<cluster::ProcessLimits> process_limits() {
  return cluster::ProcessLimits{.open_files = TRY(soft_limit(RLIMIT_NOFILE)),
                                .locked_bytes = TRY(soft_limit(RLIMIT_MEMLOCK)),
                                .has_ipc_lock = has_ipc_lock()};
}

Result<cluster::SharedMemoryFacts> shared_memory() {
  struct statvfs room {};
  if (statvfs("/dev/shm", &room) != 0) return system_error("/dev/shm");
  return cluster::SharedMemoryFacts{.total_bytes = uint64_t{room.f_blocks} * room.f_frsize,
                                    .free_bytes = uint64_t{room.f_bavail} * room.f_frsize,
                                    .is_writable = access("/dev/shm", W_OK | X_OK) == 0};
}

Result<cluster::ClockFacts> clock() {
  timex state{};
  if (adjtimex(&state) < 0) return system_error("adjtimex");
  return cluster::ClockFacts{
      .source = first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
      .is_synchronised = (state.status & STA_UNSYNC) == 0};
}

cluster::GpuFacts gpus() {
  cluster::GpuFacts facts;
  if (auto line = first_line("/proc/driver/nvidia/version"); line.ok()) facts.driver = *line;
  facts.cuda = cuda_here(/*with_free_memory=*/true);
  return facts;
}

cluster::UcxFacts ucx(const std::string& net_devices) {
  cluster::UcxFacts facts{.version = transport::ucx_version(),
                          .transports = transport::ucx_transports(),
                          .shm = transport::try_ucx_wires(transport::UcxWires::kShm),
                          .net = transport::try_ucx_wires(transport::UcxWires::kNet, net_devices),
                          .rdma_ports = transport::rdma_ports()};
  for (const char* name : {"UCX_TLS", "UCX_NET_DEVICES"}) {
    const char* value = std::getenv(name);
    if (value != nullptr) facts.settings.push_back(std::string(name) + "=" + value);
  }
  if (const auto line = first_line("/proc/sys/kernel/yama/ptrace_scope"); line.ok()) {
    uint32_t scope = 0;
    std::from_chars(line->data(), line->data() + line->size(), scope);
    facts.ptrace_scope = scope;
  }
  return facts;
}

/// Of all interfaces that are up but the loopback one; those of a single link are left out.
Result<std::vector<std::string>> addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return system_error("getifaddrs");
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> interfaces(first, &freeifaddrs);
  std::vector<std::string> found;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_UP) == 0) continue;
    if ((at->ifa_flags & IFF_LOOPBACK) != 0) continue;
    char text[INET6_ADDRSTRLEN] = "";
    if (at->ifa_addr->sa_family == AF_INET) {
      inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr, text,
                sizeof text);
    } else if (at->ifa_addr->sa_family == AF_INET6) {
      const in6_addr& address = reinterpret_cast<const sockaddr_in6*>(at->ifa_addr)->sin6_addr;
      if (IN6_IS_ADDR_LINKLOCAL(&address)) continue;
      inet_ntop(AF_INET6, &address, text, sizeof text);
    } else {
      continue;
    }
    found.push_back(std::string(at->ifa_name) + " " + text);
  }
  return found;
}

/// Listens as the servers do and stops again.
Result<cluster::PortState> try_to_listen(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return system_error("socket");
  const int on = 1;  // connections that just ended are in nobody's way
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  const bool listens = bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, 1) == 0;
  const int cause = errno;
  close(fd);
  if (listens) return cluster::PortState::kFree;
  if (cause == EADDRINUSE) return cluster::PortState::kTaken;
  if (cause == EADDRNOTAVAIL) return cluster::PortState::kNotOurAddress;
  return Error{Code::kUnavailable, std::strerror(cause)};
}

/// At the first address of the host where that can be done, as CAF's acceptor does.
Result<cluster::PortState> try_to_listen(const std::string& host, uint16_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* raw = nullptr;
  if (const int rc = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &raw);
      rc != 0) {
    return Error{Code::kUnavailable, "cannot resolve " + host + ": " + gai_strerror(rc)};
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(raw, &freeaddrinfo);
  Result<cluster::PortState> state = cluster::PortState::kNotOurAddress;
  for (const addrinfo* at = raw; at != nullptr; at = at->ai_next) {
    state = try_to_listen(*at);
    if (state.ok() && *state == cluster::PortState::kFree) break;
  }
  return state;
}

/// Something with Troupe's own status page answers at the port of the configuration's gateway.
bool is_serving(const cluster::ClusterConfig& config) {
  const bool any = config.http_host == "0.0.0.0" || config.http_host == "::";
  const auto client = gateway::HttpClient::create(
      "http://" + gateway::authority(any ? "127.0.0.1" : config.http_host,
                                     std::to_string(config.http_port)),
      {.connect_timeout = seconds(1), .silence_timeout = seconds(2)});
  if (!client.ok()) return false;
  const auto response = client->get("/v1/troupe/status");
  return response.ok() && response->status == 200;
}

/// Where there is a checkpoint; else both are its error.
void read_model(const Result<model::Checkpoint>& checkpoint, cluster::ClusterFacts& cluster) {
  if (!checkpoint.ok()) {
    cluster.weight_bytes = checkpoint.error();
    cluster.needs = checkpoint.error();
    return;
  }
  uint64_t weight_bytes = 0;
  for (const auto& [dtype, bytes] : checkpoint->summary().bytes_by_dtype) {
    weight_bytes += bytes;
  }
  cluster.weight_bytes = weight_bytes;
  cluster.needs = actors::memory_of_nodes(cluster.config, cluster.nodes, *checkpoint);
}

Result<std::vector<cluster::NodeConfig>> nodes_here(const cluster::ClusterConfig& config,
                                                    const std::vector<std::string>& names) {
  if (names.empty() && cluster::is_on_one_machine(config)) return config.nodes;
  std::vector<cluster::NodeConfig> here;
  for (const std::string& name : names) {
    const auto node = std::ranges::find(config.nodes, name, &cluster::NodeConfig::name);
    if (node == config.nodes.end()) {
      return Error{Code::kInvalidArgument, "--node: the configuration has no node '" + name + "'"};
    }
    here.push_back(*node);
  }
  return here;
}

}  // namespace

cluster::MachineFacts read_machine(const std::string& net_devices) {
  return {.cpus = {.target = kernels::make_cpu_ops(nullptr)->target(),
                   .num_cpus = static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_ONLN)),
                   .num_allowed = num_allowed_cpus()},
          .groups = control_group_limits(),
          .memory = memory(),
          .limits = process_limits(),
          .shared_memory = shared_memory(),
          .clock = clock(),
          .gpus = gpus(),
          .ucx = ucx(net_devices),
          .addresses = addresses()};
}

Result<cluster::ClusterFacts> read_cluster(const cluster::ClusterConfig& config,
                                           const std::vector<std::string>& names) {
  cluster::ClusterFacts cluster{
      .config = config,
      .nodes = TRY(nodes_here(config, names)),
      .control_port = try_to_listen(config.control_host, config.control_port),
      .http_port = try_to_listen(cluster::http_address(config), config.http_port),
      .is_serving = is_serving(config),
      .interface = transport::interface_towards(config.control_host)};
  read_model(model::Checkpoint::open(config.model), cluster);
  return cluster;
}

}  // namespace troupe::apps
