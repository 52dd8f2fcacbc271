#pragma once

// The ports there are, by name.

#include <memory>
#include <string>

#include "base/time.hpp"
#include "transport/link.hpp"

namespace troupe::transport {

/// Which wires UCX may use to a peer. Frames go through shared memory only on one host and if both
/// ends allow it. A network connection stands beside each link in either case and tells the loss of
/// a killed peer within milliseconds; a stopped peer or a silent cut is told by nobody in here, so
/// the cluster's failure detector decides, and then close() ends the link whatever the peer does.
enum class UcxWires : uint8_t {
  kAuto,  ///< shared memory to peers on this host, network to others
  kShm,
  kNet,
};

struct UcxOptions {
  UcxWires wires = UcxWires::kAuto;
  /// For the network, as UCX names them (net_devices.hpp); "": all there are. The variable
  /// UCX_NET_DEVICES wins.
  std::string net_devices = {};
  /// Spin this long before sleeping; 0 (event-driven) where cores are shared.
  int64_t spin_ns = 0;
};

/// A UCX port with its own driver thread. Frames of one peer are handed on in the order of sending.
/// @errors kInternal naming the UCX call that failed and its status.
Result<std::unique_ptr<Port>> open_ucx_port(PortOptions options, UcxOptions ucx);

/// UCX reads part of its settings when its library loads, before main(). Sets what Troupe needs
/// (no signal handlers, tcp address reuse, no warnings) where the user has not, and tells whether
/// anything changed: the program must then execute itself again.
bool prepare_ucx_environment();

/// In-process switchboard for tests and for single-process clusters: ports that find each other by
/// address. Deterministic: each port's handler runs in the sender's thread or, with `manual`, only
/// when pump() is called.
class LoopbackNetwork {
 public:
  explicit LoopbackNetwork(bool manual = false);
  ~LoopbackNetwork();
  std::unique_ptr<Port> open(PortOptions options);
  /// Delivers what is queued, in order; returns the number of frames.
  size_t pump();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// What a fault port does to each frame it sends; probabilities in [0, 1], drawn from the seed.
struct FaultOptions {
  uint64_t seed = 0;
  double drop = 0;
  double duplicate = 0;
  double reorder = 0;  ///< held back and sent after the next frame
  double corrupt = 0;  ///< one bit of the encoded frame flips
  bool cut = false;    ///< nothing passes, silently
};

/// Wraps a port; frames it sends suffer `faults`. The control object changes them while running.
class FaultControl {
 public:
  explicit FaultControl(FaultOptions options);
  void set(FaultOptions options);
  [[nodiscard]] FaultOptions get() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
  friend std::unique_ptr<Port> make_fault_port(std::unique_ptr<Port>, const FaultControl&);
};
std::unique_ptr<Port> make_fault_port(std::unique_ptr<Port> inner, const FaultControl& control);

/// Wraps a port; frames it sends arrive later by `delay`, in order.
std::unique_ptr<Port> make_delay_port(std::unique_ptr<Port> inner, Duration delay);

}  // namespace troupe::transport
