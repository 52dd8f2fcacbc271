#pragma once

// Which network devices UCX may use. Left alone, UCX takes any interface that is up for a way to
// every peer: on machines with an interface of the same private address each (a bridge of
// containers), or with one that leads elsewhere, it then connects to nowhere.

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.hpp"

namespace troupe::transport {

/// The interface that has the address by which this machine speaks to `host`: "eth0". On the host
/// itself it is the one that others would reach.
/// @errors kUnavailable if the host cannot be resolved or no route leads there.
Result<std::string> interface_towards(const std::string& host);

/// One port of an RDMA device, in the kernel's words.
struct RdmaPort {
  std::string name;   ///< "mlx5_0:1", as UCX names it
  std::string state;  ///< "4: ACTIVE"
  std::string rate;   ///< "200 Gb/sec (4X HDR)"
  [[nodiscard]] bool is_active() const { return state.find("ACTIVE") != std::string::npos; }
};

/// All RDMA ports of this machine, by name; empty where there are none.
std::vector<RdmaPort> rdma_ports(const std::filesystem::path& rdma = "/sys/class/infiniband");

/// A list of devices as UCX knows them: the interface, and every RDMA port that is up, since an
/// interface's name says nothing about those: "eth0,mlx5_0:1".
std::string ucx_devices(const std::string& interface,
                        const std::filesystem::path& rdma = "/sys/class/infiniband");

}  // namespace troupe::transport
