#include "cluster/machine_findings.hpp"

#include <algorithm>
#include <cstdio>
#include <set>
#include <utility>

#include "base/rounded_size.hpp"

namespace troupe::cluster {
namespace {

/// Files beside connections: libraries, links, a checkpoint's shards while they are mapped.
constexpr uint64_t kOtherFiles = 256;
/// What UCX was measured to take of /dev/shm at each end of a link, rounded up: 4.3 MB.
constexpr uint64_t kSharedBytesPerLinkEnd = 8ULL << 20;
constexpr const char* kUnusedByNet = "not used: transport.wires is net";

Finding ok(std::string check, std::string found) {
  return {std::move(check), std::move(found), Verdict::kOk, ""};
}
Finding note(std::string check, std::string found, std::string advice) {
  return {std::move(check), std::move(found), Verdict::kNote, std::move(advice)};
}
Finding problem(std::string check, std::string found, std::string advice) {
  return {std::move(check), std::move(found), Verdict::kProblem, std::move(advice)};
}
Finding unread(std::string check, const Error& error) {
  return note(std::move(check), "not known: " + error.message,
              "Look for the cause if the machine behaves oddly; nothing was checked here.");
}

std::string size(uint64_t bytes) { return bytes == kUnlimited ? "unlimited" : rounded_size(bytes); }

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : ", ") + part;
  return text;
}

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

Wires wires(const MachineFacts& facts) {
  return facts.cluster ? facts.cluster->config.wires : Wires::kAuto;
}

bool is_serving(const MachineFacts& facts) {
  return facts.cluster.has_value() && facts.cluster->is_serving;
}

/// Of a machine that is the head, or may become it.
bool is_head(const MachineFacts& facts) {
  return !facts.cluster || !facts.cluster->control_port.ok() ||
         *facts.cluster->control_port != PortState::kNotOurAddress;
}

uint64_t num_here(const ClusterFacts& cluster, Role role) {
  return static_cast<uint64_t>(std::ranges::count(cluster.nodes, role, &NodeConfig::role));
}

/// CPUs' worth of time that this process can have.
double cpu_time(const MachineFacts& facts) {
  const CpuFacts& cpus = facts.cpus;
  const double allowed = cpus.num_allowed.ok() ? *cpus.num_allowed : cpus.num_cpus;
  const double quota = facts.groups.ok() ? facts.groups->cpus : 0;
  return quota > 0 ? std::min(quota, allowed) : allowed;
}

Finding instructions(const CpuFacts& cpus) {
  if (cpus.target != "scalar") return ok("instructions", cpus.target);
  return note(
      "instructions", "scalar: none that the kernels use",
      "Computing works, with the same tokens, but slowly: use a CPU with AVX2 and FMA, or a "
      "64-bit ARM; in a virtual machine, pass the host's CPU through.");
}

Finding cpus(const MachineFacts& facts) {
  if (!facts.cpus.num_allowed.ok()) return unread("CPUs", facts.cpus.num_allowed.error());
  std::string found = std::to_string(*facts.cpus.num_allowed) + " of " +
                      std::to_string(facts.cpus.num_cpus) + " may be used";
  if (!facts.groups.ok())
    return ok("CPUs", found + "; quota not known: " + facts.groups.error().message);
  if (facts.groups->cpus == 0) return ok("CPUs", found);
  found += ", with the time of " + short_number(facts.groups->cpus) + " (cpu.max)";
  if (facts.groups->cpus >= *facts.cpus.num_allowed) return ok("CPUs", found);
  return note("CPUs", found,
              "Threads beyond the quota stop for a part of each period: keep the `threads` of all "
              "nodes here at or below it, or raise it (docker --cpus, a pod's limits).");
}

Finding threads(const MachineFacts& facts) {
  const ClusterFacts& cluster = *facts.cluster;
  if (cluster.nodes.empty()) {
    return note("threads", "not known which nodes run here",
                "Name them with --node to have their threads, memory and GPUs checked.");
  }
  uint64_t threads = 0;
  for (const NodeConfig& node : cluster.nodes) threads += node.threads;
  const std::string found = std::to_string(threads) + " compute threads of " +
                            std::to_string(cluster.nodes.size()) + " nodes on " +
                            short_number(cpu_time(facts)) + " CPUs";
  if (static_cast<double>(threads) <= cpu_time(facts)) return ok("threads", found);
  return note("threads", found,
              "They take turns, which costs speed but no token: lower `threads`, run fewer nodes "
              "here, or use more CPUs.");
}

Finding memory(const MachineFacts& facts) {
  if (!facts.memory.ok()) return unread("memory", facts.memory.error());
  std::string found =
      size(facts.memory->available_bytes) + " of " + size(facts.memory->total_bytes) + " available";
  if (!facts.groups.ok())
    return ok("memory", found + "; limit not known: " + facts.groups.error().message);
  if (facts.groups->memory_bytes < facts.memory->total_bytes) {
    found += ", limited to " + size(facts.groups->memory_bytes) + " (memory.max)";
  }
  return ok("memory", found);
}

/// Bytes that nodes may take of the host's memory.
uint64_t room_of_nodes(const MachineFacts& facts) {
  // What a running cluster has taken is not available any more.
  const bool all = is_serving(facts);
  const uint64_t room = all ? facts.memory->total_bytes : facts.memory->available_bytes;
  if (!facts.groups.ok()) return room;
  return std::min(room, all ? facts.groups->memory_bytes : facts.groups->memory_left);
}

/// Nodes of a cluster compute all on GPUs or all on CPUs.
bool computes_on_gpus(const ClusterConfig& config) {
  return !config.nodes.empty() && config.nodes[0].device.has_gpus();
}

/// What nodes take has to fit; what they map may be read again from the disk.
Finding memory_of_nodes(const MachineFacts& facts) {
  const std::string check = "memory of nodes";
  const ClusterFacts& cluster = *facts.cluster;
  if (!cluster.needs.ok()) {
    return problem(check, cluster.needs.error().message, "The head does not start: correct it.");
  }
  const MemoryNeeds& needs = *cluster.needs;
  const uint64_t room = room_of_nodes(facts);
  const std::string found = size(needs.total()) + " of KV and copies of weights and " +
                            size(needs.mapped) + " of mapped weights, room for " + size(room);
  if (needs.total() > room) {
    return problem(check, found,
                   "The nodes do not start, or the kernel ends one when KV blocks fill up: " +
                       how_to_need_less(cluster.config, needs) + ".");
  }
  if (needs.total() + needs.mapped > room) {
    return note(check, found,
                "Weights are read from the disk again and again: spread the experts over more "
                "machines, or serve fewer bits (`troupe quantize`).");
  }
  return ok(check, found);
}

Finding overcommit(const MemoryFacts& memory) {
  if (memory.overcommit != 2) return ok("overcommit", std::to_string(memory.overcommit));
  return note("overcommit", "2: the kernel promises no more memory than it has",
              "All KV blocks count from the start: a router may not start for want of memory. Set "
              "vm.overcommit_memory to 0 or 1 (sysctl).");
}

Finding huge_pages(const MemoryFacts& memory) {
  if (memory.huge_pages == "always" || memory.huge_pages == "madvise") {
    return ok("huge pages", memory.huge_pages);
  }
  return note(
      "huge pages", memory.huge_pages.empty() ? "none in this kernel" : memory.huge_pages,
      "KV blocks lie in pages of 4 KiB, which long contexts read more slowly: as root, write "
      "madvise to /sys/kernel/mm/transparent_hugepage/enabled, or boot with "
      "transparent_hugepage=madvise.");
}

Finding open_files(const MachineFacts& facts) {
  if (!facts.limits.ok()) return unread("open files", facts.limits.error());
  const uint64_t limit = facts.limits->open_files;
  const uint32_t connections =
      facts.cluster ? facts.cluster->config.max_connections : ClusterConfig{}.max_connections;
  const uint64_t needed = kOtherFiles + (is_head(facts) ? connections : 0);
  const std::string found = limit == kUnlimited ? "unlimited" : "limit " + std::to_string(limit);
  if (limit >= needed) return ok("open files", found);
  return (limit < kOtherFiles ? problem : note)(
      "open files", found,
      "Raise it to " + std::to_string(needed) +
          (is_head(facts) ? ", enough for limits.max_connections" : "") +
          ": `ulimit -n` before the start, LimitNOFILE= in a unit of systemd, docker --ulimit "
          "nofile=.");
}

bool has_active_rdma(const UcxFacts& ucx) {
  return std::ranges::any_of(ucx.rdma_ports, &transport::RdmaPort::is_active);
}

Finding locked_memory(const MachineFacts& facts) {
  if (!facts.limits.ok()) return unread("locked memory", facts.limits.error());
  const std::string found = "limit " + size(facts.limits->locked_bytes);
  if (!has_active_rdma(facts.ucx)) return ok("locked memory", found + "; only RDMA locks memory");
  if (facts.limits->locked_bytes == kUnlimited) return ok("locked memory", found);
  if (facts.limits->has_ipc_lock) {
    return ok("locked memory", found + ", which does not bind: CAP_IPC_LOCK");
  }
  return note("locked memory", found,
              "RDMA registers memory, which must be locked, and fails beyond the limit. Raise it: "
              "`ulimit -l unlimited`, LimitMEMLOCK=infinity in a unit of "
              "systemd, docker --ulimit memlock=-1; or grant CAP_IPC_LOCK.");
}

/// Between the nodes here: each router speaks with each shard and each other router.
uint64_t shared_bytes_needed(const MachineFacts& facts) {
  uint64_t links = 1;
  if (facts.cluster && !facts.cluster->nodes.empty()) {
    const uint64_t routers = num_here(*facts.cluster, Role::kRouter);
    links = routers * num_here(*facts.cluster, Role::kExperts) + routers * (routers - 1) / 2;
  }
  return 2 * links * kSharedBytesPerLinkEnd;
}

Finding shared_memory(const MachineFacts& facts) {
  const std::string check = "/dev/shm";
  if (wires(facts) == Wires::kNet) return ok(check, kUnusedByNet);
  if (!facts.shared_memory.ok()) return unread(check, facts.shared_memory.error());
  const SharedMemoryFacts& shm = *facts.shared_memory;
  const std::string found = size(shm.free_bytes) + " of " + size(shm.total_bytes) + " free" +
                            (shm.is_writable ? "" : ", not writable");
  if (!shm.is_writable) {
    return problem(check, found,
                   "Processes of one machine exchange rows through it: give this user the right to "
                   "write there (mode 1777).");
  }
  const uint64_t needed = shared_bytes_needed(facts);
  if (shm.free_bytes >= needed || is_serving(facts)) return ok(check, found);
  return problem(check, found,
                 "The links of the nodes here take up to " + size(needed) +
                     ": mount a larger one (docker --shm-size, an emptyDir of medium Memory), or "
                     "remove what fills it.");
}

Finding clock_source(const ClockFacts& clock) {
  if (!clock.source.ok()) return unread("clock source", clock.source.error());
  static const std::set<std::string> kFast = {"tsc", "arch_sys_counter", "kvm-clock",
                                              "hyperv_clocksource_tsc_page"};
  if (kFast.contains(*clock.source)) return ok("clock source", *clock.source);
  return note(
      "clock source", *clock.source,
      "Reading the time is a slow system call with it: see why the kernel refuses the CPU's "
      "counter (dmesg, /sys/devices/system/clocksource) and choose tsc if it is stable.");
}

Finding clock_synchronised(const ClockFacts& clock) {
  if (clock.is_synchronised) return ok("clock", "synchronised");
  return note("clock", "not synchronised",
              "Logs of several machines cannot be put in order; nothing else depends on it. Run "
              "chrony or systemd-timesyncd (in a container: on its host).");
}

/// A cluster does without a GPU, so that there is none to use is never a problem.
Finding no_gpu(std::string found, const std::string& advice) {
  return note("CUDA", std::move(found),
              "Nodes compute on the CPUs, unless their `device` is cuda:N, and so do `troupe "
              "generate` and `troupe logits` (--device cuda:N). " +
                  advice);
}

/// Since 2.9.
std::string nccl_version(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}

std::string cuda_version(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Finding gpu(const MachineFacts& facts, size_t i) {
  const kernels::CudaDevice& device = facts.gpus.cuda->devices[i];
  const std::string check = "GPU " + std::to_string(i);
  const std::string why = kernels::why_refused(device);
  std::string found = device.name;
  if (device.error.empty()) {
    found += ", sm_" + std::to_string(device.sm) + ", " + size(device.memory_bytes);
  }
  if (!why.empty()) {
    return note(
        check, found,
        "The CUDA backend refuses it, for " + why + ": compute on the CPUs or on another one.");
  }
  if (!device.free_bytes) return ok(check, found);
  if (!device.free_bytes->ok()) {
    return note(
        check,
        found + ", of which it is not known what is free: " + device.free_bytes->error().message,
        "Another process may have all of its memory, or the GPU for itself (exclusive "
        "mode): see what nvidia-smi says.");
  }
  const size_t free = device.free_bytes->value();
  found += ", " + size(free) + " free";
  const size_t used = device.memory_bytes - std::min(device.memory_bytes, free);
  // Some is always used: by the driver, and by the context of who asks.
  if (used <= device.memory_bytes / 10 || is_serving(facts)) return ok(check, found);
  return note(check, found,
              "Others use " + size(used) +
                  ", and a node takes what it needs of the rest or does not start: end their "
                  "processes (nvidia-smi lists them), let the node compute on another GPU, or "
                  "have it need less (limits.kv_blocks, limits.max_step_tokens).");
}

void add_cuda(const MachineFacts& facts, std::vector<Finding>& findings) {
  const GpuFacts& gpus = facts.gpus;
  const kernels::CudaSystem& cuda = *gpus.cuda;
  const std::string runtime = "runtime " + cuda_version(cuda.runtime_version);
  if (cuda.driver_version == 0 && gpus.driver.empty()) {
    findings.push_back(no_gpu(runtime + ", no driver",
                              "If this machine has one, install NVIDIA's driver; in a container, "
                              "pass the GPUs in (docker --gpus all)."));
    return;
  }
  const std::string found = runtime + ", driver for " + cuda_version(cuda.driver_version);
  if (cuda.devices.empty()) {
    const std::string why = cuda.error.empty() ? "no device" : cuda.error;
    findings.push_back(no_gpu(
        found + ": " + why,
        cuda.driver_version / 1000 < cuda.runtime_version / 1000
            ? "The driver is older than this build: install one for CUDA " +
                  cuda_version(cuda.runtime_version) + ", or build with an older toolkit."
            : "There is a driver, but no GPU can be used: see what nvidia-smi says, look at "
              "CUDA_VISIBLE_DEVICES, and in a container pass the GPUs in (docker --gpus all)."));
    return;
  }
  findings.push_back(ok("CUDA", found));
  for (size_t i = 0; i < cuda.devices.size(); ++i) findings.push_back(gpu(facts, i));
  if (cuda.devices.size() < 2) return;
  findings.push_back(ok("NCCL", cuda.nccl_version > 0
                                    ? nccl_version(cuda.nccl_version)
                                    : "built without, so a router computes on one GPU"));
  std::vector<std::string> pairs;
  for (const auto& [a, b] : cuda.no_peer_access) {
    pairs.push_back(std::to_string(a) + " to " + std::to_string(b));
  }
  findings.push_back(
      pairs.empty()
          ? ok("peer access", "between all GPUs")
          : note("peer access", "none from GPU " + joined(pairs),
                 "Copies between them go through the host's memory: see `nvidia-smi topo -m`; "
                 "an IOMMU or PCIe access control that is on often prevents it."));
}

/// Why a node cannot compute on these GPUs; "" if it can.
std::string why_not(const GpuFacts& gpus, const Device& device) {
  if (!gpus.cuda) return "this troupe was built without CUDA";
  for (const uint32_t gpu : device.gpus) {
    if (gpu >= gpus.cuda->devices.size()) {
      return "CUDA counts " + std::to_string(gpus.cuda->devices.size()) + " GPUs, from 0";
    }
    const std::string refused = kernels::why_refused(gpus.cuda->devices[gpu]);
    if (!refused.empty()) {
      return (device.gpus.size() > 1 ? "GPU " + std::to_string(gpu) + ": " : "") + refused;
    }
  }
  if (device.gpus.size() > 1 && gpus.cuda->nccl_version == 0) {
    return "several GPUs need NCCL, and this troupe was built without: install libnccl-dev and "
           "build it again, or name one GPU";
  }
  return kernels::why_not_together(gpus.cuda->devices, device.gpus);
}

Finding gpus_of_nodes(const MachineFacts& facts) {
  const ClusterFacts& cluster = *facts.cluster;
  std::string found, refused;
  for (const NodeConfig& node : cluster.nodes) {
    const std::string on = node.name + " on " + to_string(node.device);
    found += (found.empty() ? "" : ", ") + on;
    const std::string why = why_not(facts.gpus, node.device);
    if (!why.empty()) refused += (refused.empty() ? "" : "; ") + on + ": " + why;
  }
  if (refused.empty()) return ok("GPUs of nodes", found);
  return problem(
      "GPUs of nodes", refused,
      "These nodes do not start: correct `device`, build with ./run build where nvcc is, or "
      "let all nodes compute on the CPUs (cpu).");
}

void add_gpus(const MachineFacts& facts, std::vector<Finding>& findings) {
  const GpuFacts& gpus = facts.gpus;
  if (gpus.cuda) return add_cuda(facts, findings);
  findings.push_back(no_gpu(gpus.driver.empty() ? "built without, and no driver is loaded"
                                                : "built without; " + gpus.driver,
                            "docs/gpu.md says how to build with CUDA."));
}

Finding transports(const UcxFacts& ucx) {
  const std::string check = "UCX " + ucx.version;
  if (!ucx.transports.ok()) {
    return problem(check, ucx.transports.error().message,
                   "Nodes cannot exchange rows: install UCX anew (Debian: libucx0).");
  }
  std::vector<std::string> names;
  for (const transport::UcxTransport& transport : *ucx.transports) {
    const std::string name = transport.device.starts_with("memory")
                                 ? transport.name
                                 : transport.name + " " + transport.device;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return ok(check, joined(names));
}

/// As a node's port takes it: only with wires: auto and only if UCX has no such transport does it
/// go on without.
Finding shm_wires(const MachineFacts& facts) {
  const std::string check = "UCX shared memory";
  if (wires(facts) == Wires::kNet) return ok(check, kUnusedByNet);
  if (facts.ucx.shm.ok()) return ok(check, "can be opened");
  const Error& error = facts.ucx.shm.error();
  if (wires(facts) == Wires::kAuto && error.code == Code::kUnsupported) {
    return note(check, error.message,
                "Nodes of one machine exchange rows over the network's interface, slower: look at "
                "UCX_TLS and /dev/shm.");
  }
  return problem(
      check, error.message,
      "No node starts: look at UCX_TLS and /dev/shm, or set transport.wires: net, which is slower "
      "on one machine.");
}

Finding net_wires(const UcxFacts& ucx) {
  const std::string with = ucx.settings.empty() ? "" : " with " + joined(ucx.settings);
  if (ucx.net.ok()) return ok("UCX network", "can be opened" + with);
  return problem("UCX network", ucx.net.error().message + with,
                 "Nodes need it, also on one machine: look at UCX_TLS and UCX_NET_DEVICES in the "
                 "environment, and whether the interface is up (`ip address`).");
}

/// One process reading another's memory, for large frames on one machine.
Finding cma(const MachineFacts& facts) {
  if (wires(facts) == Wires::kNet) return ok("CMA", kUnusedByNet);
  const UcxFacts& ucx = facts.ucx;
  const std::string scope =
      ucx.ptrace_scope ? "ptrace_scope " + std::to_string(*ucx.ptrace_scope) : "no ptrace_scope";
  const bool found = ucx.transports.ok() &&
                     std::ranges::find(*ucx.transports, "cma", &transport::UcxTransport::name) !=
                         ucx.transports->end();
  if (found && ucx.ptrace_scope.value_or(0) < 2) return ok("CMA", "available, " + scope);
  return note("CMA", (found ? "refused to others, " : "not available, ") + scope,
              "Large frames between processes of one machine are copied twice: allow "
              "process_vm_readv (kernel.yama.ptrace_scope 0 or 1, in a container --cap-add "
              "SYS_PTRACE).");
}

Finding rdma(const UcxFacts& ucx) {
  if (ucx.rdma_ports.empty()) return ok("RDMA", "no device; rows between machines go over TCP");
  std::vector<std::string> ports;
  for (const transport::RdmaPort& port : ucx.rdma_ports) {
    ports.push_back(port.name + " " + port.state + " " + port.rate);
  }
  const std::string found = joined(ports);
  if (!has_active_rdma(ucx)) {
    return note("RDMA", found,
                "No port is active, so rows go over TCP: look at cable, switch and subnet manager "
                "(ibstat).");
  }
  if (ucx.transports.ok() &&
      std::ranges::any_of(*ucx.transports, &transport::UcxTransport::is_rdma)) {
    return ok("RDMA", found);
  }
  return note("RDMA", found,
              "A port is active, but UCX opens no transport over it, so rows go over TCP: install "
              "ibverbs-providers, and in a container pass /dev/infiniband in.");
}

Finding addresses(const Result<std::vector<std::string>>& addresses) {
  if (!addresses.ok()) return unread("addresses", addresses.error());
  if (!addresses->empty()) return ok("addresses", joined(*addresses));
  return note("addresses", "the loopback interface alone",
              "A cluster on this machine works; to join others, bring a network interface up.");
}

Finding model(const ClusterFacts& cluster) {
  if (cluster.weight_bytes.ok()) {
    return ok("model", cluster.config.model + ", " + size(*cluster.weight_bytes));
  }
  return problem("model", cluster.weight_bytes.error().message,
                 "Every machine of the cluster needs the whole checkpoint directory, readable for "
                 "the user that runs troupe, at the path that `model` gives.");
}

Finding port(const ClusterFacts& cluster, const std::string& key, const std::string& host,
             uint16_t number, const Result<PortState>& state) {
  const std::string address = host + ":" + std::to_string(number);
  if (!state.ok()) {
    return problem(key, address + ": " + state.error().message,
                   "Choose an address and a port that this user may listen on.");
  }
  if (*state == PortState::kFree) return ok(key, address + " is free");
  if (*state == PortState::kNotOurAddress) {
    return problem(key, address + " is no address of this machine",
                   "The head listens there: set http.host to an address of it, or to 0.0.0.0.");
  }
  if (cluster.is_serving) {
    return note(key, address + " is taken, and a gateway of Troupe answers",
                "If that is this cluster, all is well; two cannot share a port.");
  }
  return problem(
      key, address + " is taken",
      "End the process that listens there (`ss -ltnp` shows it) or choose another port.");
}

Finding way_to_head(const ClusterFacts& cluster) {
  if (cluster.interface.ok()) {
    return ok("way to the head", *cluster.interface + " leads to " + cluster.config.control_host);
  }
  return problem("way to the head", cluster.interface.error().message,
                 "control.host must name the head for every machine: correct it, DNS or routes.");
}

void add_cluster(const MachineFacts& facts, std::vector<Finding>& findings) {
  const ClusterFacts& cluster = *facts.cluster;
  const ClusterConfig& config = cluster.config;
  findings.push_back(model(cluster));
  findings.push_back(threads(facts));
  if (!cluster.nodes.empty() && cluster.weight_bytes.ok() && facts.memory.ok()) {
    findings.push_back(memory_of_nodes(facts));
  }
  if (!cluster.nodes.empty() && computes_on_gpus(config)) {
    findings.push_back(gpus_of_nodes(facts));
  }
  findings.push_back(way_to_head(cluster));
  if (!is_head(facts)) {
    findings.push_back(ok("head", "runs elsewhere, at " + config.control_host));
    return;
  }
  findings.push_back(port(cluster, "control port", config.control_host, config.control_port,
                          cluster.control_port));
  findings.push_back(
      port(cluster, "HTTP port", config.http_host, config.http_port, cluster.http_port));
}

}  // namespace

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::kOk: return "ok";
    case Verdict::kNote: return "note";
    case Verdict::kProblem: return "problem";
  }
  return "unknown";
}

std::vector<Finding> examine(const MachineFacts& facts) {
  std::vector<Finding> findings = {instructions(facts.cpus), cpus(facts), memory(facts)};
  if (facts.memory.ok()) {
    findings.push_back(overcommit(*facts.memory));
    findings.push_back(huge_pages(*facts.memory));
  }
  findings.insert(findings.end(), {open_files(facts), locked_memory(facts), shared_memory(facts)});
  if (facts.clock.ok()) {
    findings.push_back(clock_source(*facts.clock));
    findings.push_back(clock_synchronised(*facts.clock));
  } else {
    findings.push_back(unread("clock", facts.clock.error()));
  }
  add_gpus(facts, findings);
  findings.insert(findings.end(),
                  {transports(facts.ucx), shm_wires(facts), cma(facts), net_wires(facts.ucx),
                   rdma(facts.ucx), addresses(facts.addresses)});
  if (facts.cluster) add_cluster(facts, findings);
  return findings;
}

}  // namespace troupe::cluster
