#pragma once

// Whether a machine is fit to compute in a cluster: what was read of it comes in, findings with a
// verdict and advice go out. Pure; `troupe doctor` reads the machine (apps/machine_facts.hpp).

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/control_groups.hpp"
#include "base/result.hpp"
#include "cluster/config.hpp"
#include "cluster/memory_needs.hpp"
#include "kernels/cuda/devices.hpp"
#include "transport/net_devices.hpp"
#include "transport/ucx_transports.hpp"

namespace troupe::cluster {

/// Of bytes or another resource: no limit is set.
inline constexpr uint64_t kUnlimited = UINT64_MAX;

struct CpuFacts {
  std::string target;  ///< instruction set that the kernels chose; "scalar": none that is fast
  uint32_t num_cpus = 0;
  Result<uint32_t> num_allowed = 0U;  ///< CPUs that this process may use
};

struct MemoryFacts {
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;  ///< without swapping; what the page cache can give back counts
  uint32_t overcommit = 0;       ///< vm.overcommit_memory
  /// transparent_hugepage/enabled: "always", "madvise" or "never"; "": the kernel has none
  std::string huge_pages = "madvise";
};

struct SharedMemoryFacts {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
  bool is_writable = false;
};

/// Soft limits of this process, and what lifts them.
struct ProcessLimits {
  uint64_t open_files = 0;
  uint64_t locked_bytes = 0;
  bool has_ipc_lock = false;  ///< CAP_IPC_LOCK: that of locked_bytes does not bind
};

struct ClockFacts {
  Result<std::string> source = std::string();  ///< of the kernel's time: "tsc"
  bool is_synchronised = false;                ///< as adjtimex() says
};

struct GpuFacts {
  std::string driver;                       ///< the kernel's line about NVIDIA's; "" if it has none
  std::optional<kernels::CudaSystem> cuda;  ///< none: built without CUDA
};

struct UcxFacts {
  std::string version;
  Result<std::vector<transport::UcxTransport>> transports = std::vector<transport::UcxTransport>();
  std::vector<std::string> settings;     ///< of the environment that choose wires: "UCX_TLS=tcp"
  Result<void> shm, net;                 ///< opening what a node opens
  std::optional<uint32_t> ptrace_scope;  ///< of Yama, where the kernel has it
  std::vector<transport::RdmaPort> rdma_ports;
};

/// What listening at an address of the configuration came to.
enum class PortState : uint8_t { kFree, kTaken, kNotOurAddress };

/// A configuration on this machine.
struct ClusterFacts {
  ClusterConfig config;
  std::vector<NodeConfig> nodes;                ///< that run here; empty: it is not known which
  Result<uint64_t> weight_bytes = uint64_t{0};  ///< of the model
  Result<MemoryNeeds> needs = MemoryNeeds{};    ///< of `nodes`
  Result<PortState> control_port = PortState::kFree, http_port = PortState::kFree;
  bool is_serving = false;                            ///< a gateway of Troupe answers at http.port
  Result<std::string> interface = std::string("lo");  ///< that leads to the head
};

struct MachineFacts {
  CpuFacts cpus;
  Result<GroupLimits> groups = GroupLimits{};
  Result<MemoryFacts> memory = MemoryFacts{};
  Result<ProcessLimits> limits = ProcessLimits{};
  Result<SharedMemoryFacts> shared_memory = SharedMemoryFacts{};
  Result<ClockFacts> clock = ClockFacts{};
  GpuFacts gpus;
  UcxFacts ucx;
  Result<std::vector<std::string>> addresses = std::vector<std::string>();  ///< "eth0 10.0.0.2"
  std::optional<ClusterFacts> cluster;  ///< with a configuration only
};

enum class Verdict : uint8_t {
  kOk,
  kNote,     ///< works, but slower or with less than the machine could
  kProblem,  ///< a cluster does not start, or fails under load
};
/// "ok", "note", "problem"
std::string_view to_string(Verdict verdict);

struct Finding {
  std::string check;  ///< what was looked at: "open files"
  std::string found;  ///< what there is
  Verdict verdict = Verdict::kOk;
  std::string advice;  ///< what to do; "" only if ok
};

/// All checks in a fixed order. What could not be read is told; a check that has nothing else is a
/// note.
std::vector<Finding> examine(const MachineFacts& facts);

}  // namespace troupe::cluster
