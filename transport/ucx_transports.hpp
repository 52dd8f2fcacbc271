#pragma once

// What UCX can do on this machine; asked of the library itself, for people.

#include <string>
#include <vector>

#include "base/result.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {

/// A way to move bytes that UCX finds here, such as "tcp" over "eth0" or "rc_mlx5" over "mlx5_0:1".
struct UcxTransport {
  std::string name;
  std::string device;
  /// Queue pairs of an RDMA device: reliable, dynamically or not connected.
  [[nodiscard]] bool is_rdma() const {
    return name.starts_with("rc") || name.starts_with("dc") || name.starts_with("ud");
  }
};

/// Of the library that is loaded: "1.13.1".
std::string ucx_version();

/// All there are, whatever the environment allows Troupe's ports to use.
/// @errors kInternal naming the UCX call that failed and its status.
Result<std::vector<UcxTransport>> ucx_transports();

/// Opens what a port uses for these wires, shared memory or the network, and closes it again.
/// @param wires not kAuto
/// @param net_devices as in UcxOptions
/// @errors as open_ucx_port(); kUnsupported if UCX has no such transport here
Result<void> try_ucx_wires(UcxWires wires, const std::string& net_devices = {});

}  // namespace troupe::transport
