#pragma once

// The YAML configuration of a cluster, typed and checked. Unknown keys and wrong values are errors
// that name the line; `troupe config show` prints every value with its origin.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/device.hpp"
#include "base/result.hpp"
#include "base/tensor_view.hpp"
#include "base/time.hpp"
#include "cluster/membership.hpp"

namespace troupe::cluster {

/// node: experts of layers in [first_layer, last_layer] and numbers in [first_expert, last_expert].
struct PinConfig {
  std::string node;
  uint32_t first_layer = 0, last_layer = UINT32_MAX;
  uint32_t first_expert = 0, last_expert = UINT32_MAX;
};

/// A tenant is who sends this API key; those that are not listed have weight 1.
struct TenantConfig {
  std::string key;
  uint32_t weight = 1;  ///< tokens and places that it may have for each one of another's
};

struct NodeConfig {
  std::string name;
  Role role = Role::kExperts;
  uint32_t threads = 1;  ///< compute threads
  Device device;         ///< computes; on a GPU the threads are left with choosing tokens
};

enum class Wires : uint8_t { kAuto, kShm, kNet };

enum class PinThreads : uint8_t { kAuto, kOff };

struct ClusterConfig {
  std::string name = "troupe";
  std::string model;        ///< checkpoint directory; relative to the configuration file
  std::string served_name;  ///< in /v1/models; default: last component of `model`
  // head
  std::string control_host = "127.0.0.1";
  uint16_t control_port = 7600;
  std::string http_host = "127.0.0.1";  ///< an IP address or "localhost"; see http_address()
  uint16_t http_port = 8000;
  std::vector<NodeConfig> nodes;  ///< >= 1 router and >= 1 experts; the head is not listed
  std::vector<PinConfig> pins;
  std::vector<TenantConfig> tenants;
  // limits
  uint32_t max_queued = 64;
  uint32_t max_queued_per_tenant = 64;  ///< of one API key
  uint32_t max_running = 16;
  uint32_t max_step_tokens = 512;
  Duration step_target =
      milliseconds(5);         ///< prefill may fill a step to this (scheduler/batcher.hpp)
  uint32_t micro_batches = 0;  ///< of a router's step, 1 or 2; 0: what is faster, learned
  uint32_t max_context = 0;    ///< 0: the model's max_position_embeddings
  uint32_t kv_blocks = 1024;
  /// Host memory for evicted blocks of the prefix cache. On CPUs more kv_blocks do the same without
  /// copies.
  uint32_t kv_host_blocks = 0;
  uint32_t kv_block_tokens = 16;
  DType kv_dtype = DType::kF32;  ///< of the latent KV, or kBF16
  Duration request_timeout = seconds(300);
  uint32_t max_body_bytes = 8u << 20;
  uint32_t max_connections = 1024;
  // failure detection on the control plane
  Duration heartbeat_interval = milliseconds(200);
  Duration heartbeat_timeout = milliseconds(1500);
  Duration assemble_timeout = seconds(30);
  uint32_t restart_budget = 3;  ///< quick restarts of one process within a minute by `troupe up`
  Wires wires = Wires::kAuto;
  PinThreads pin_threads = PinThreads::kOff;  ///< auto: to a CPU each, if enough are free
  bool cuda_graphs = true;  ///< of nodes on one GPU each (kernels/cuda/cuda_ops.hpp)
  // experts
  uint32_t redundant_experts = 0;             ///< replicas in each layer beyond one of each expert
  Duration rebalance_interval = seconds(60);  ///< at least so long between changes; 0: on request
  /// Percent by which the busiest shards' loads, summed over layers, must fall.
  uint32_t rebalance_min_gain = 10;
  Duration load_half_life = seconds(60);  ///< of a row's weight in the loads
};

/// @param origin the file's name, for messages ("cluster.yaml:12: unknown key 'prot'; did you mean
///        'port'?").
/// @errors kInvalidArgument
Result<ClusterConfig> parse_cluster_config(std::string_view yaml, const std::string& origin);
/// Reads a file. Relative `model` is resolved against the file's directory.
/// @errors kNotFound, kInvalidArgument
Result<ClusterConfig> load_cluster_config(const std::string& path);

/// The IP address at which the gateway listens: http.host, of which "localhost" is 127.0.0.1.
std::string http_address(const ClusterConfig& config);

/// The head is on the loopback interface, so that all nodes are on its machine.
bool is_on_one_machine(const ClusterConfig& config);

/// Threads of all nodes that want a CPU at once: those that compute, one more of each node, for its
/// actors and its transport, and one for each GPU of a router but the first.
uint32_t num_busy_threads(const ClusterConfig& config);

/// Every key with its value and "default" or "file:line", as YAML with comments.
std::string describe(const ClusterConfig& config, std::string_view yaml, const std::string& origin);

}  // namespace troupe::cluster
