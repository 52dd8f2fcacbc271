#pragma once

// The text by which UCX ports find each other. UCX trusts the worker addresses it is given, so a
// checksum keeps damaged ones away from it; a text that was made to harm is not recognised, and
// addresses must come over the authenticated control plane only.

#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/result.hpp"

namespace troupe::transport {

/// What Port::address() of a UCX port says.
struct PortAddress {
  bool by_net = false;  ///< frames may come by the network
  bool by_shm = false;  ///< frames may come through shared memory
  uint64_t host = 0;    ///< this_host() of the process
  std::vector<std::byte> net_worker;
  std::vector<std::byte> shm_worker;  ///< meant for one peer; empty in Port::address()
  friend bool operator==(const PortAddress&, const PortAddress&) = default;
};

/// Printable: "ucx1:" and hexadecimal digits.
std::string to_text(const PortAddress& address);

/// @errors kInvalidArgument if it is not such a text or was damaged; kUnsupported for another
///         protocol version.
Result<PortAddress> parse_port_address(const std::string& text);

/// Equal in two processes that can map each other's shared memory: a hash of the kernel's boot id,
/// the pid and ipc namespaces and the device of /dev/shm.
uint64_t this_host();

}  // namespace troupe::transport
