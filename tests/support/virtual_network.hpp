#pragma once

// Links under virtual time: a frame that was sent waits on its wire until somebody says that it
// arrives. Frames of one wire arrive in order, as over a real link, unless reordering is asked for;
// those of different wires in any order. Copies of frames travel on a wire of their own, the echo.
// The wires lie over loopback ports, which encode, decode and refuse frames as real ones do. One
// thread only.

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "base/time.hpp"
#include "transport/ports.hpp"

namespace troupe::actors {

class VirtualNetwork {
 public:
  /// One direction between two nodes, or the echo of one.
  struct Wire {
    struct Sent {
      transport::EncodedFrame frame;
      std::shared_ptr<transport::Link> link;  ///< open until all that it sent has arrived
      Instant arrives;
    };
    NodeId from, to;
    bool echo = false;
    std::deque<Sent> sent;
  };

  /// @param arrival_time called for each frame and echo; the time before which it can not arrive.
  explicit VirtualNetwork(std::function<Instant(bool echo)> arrival_time)
      : arrival_time_(std::move(arrival_time)) {}

  std::unique_ptr<transport::Port> open(transport::PortOptions options);

  /// In order of first use.
  [[nodiscard]] const std::vector<Wire>& wires() const { return wires_; }
  /// Lets a frame arrive, and an echo of it later. REQUIRES: it is on that wire.
  void deliver(size_t wire, size_t frame, bool with_echo);

  /// From now on no frame from or to this node arrives, and nobody is told.
  void cut(NodeId node) { cut_.insert(node); }
  void mend_all() { cut_.clear(); }
  /// Remembers every frame from now on, for send_again().
  void keep_copies() { keeps_copies_ = true; }
  /// Sends an echo of every remembered frame.
  void send_again();
  [[nodiscard]] size_t num_copies() const { return copies_.size(); }

 private:
  class HoldingLink;
  class HoldingPort;

  void put(size_t wire, Wire::Sent sent);
  void send(NodeId from, NodeId to, const std::shared_ptr<transport::Link>& link,
            transport::EncodedFrame frame);
  [[nodiscard]] size_t wire_between(NodeId from, NodeId to, bool echo);

  std::function<Instant(bool echo)> arrival_time_;
  transport::LoopbackNetwork loopback_;
  std::vector<Wire> wires_;
  std::set<NodeId> cut_;
  bool keeps_copies_ = false;
  std::vector<std::pair<size_t, Wire::Sent>> copies_;  ///< with the index of their echo
};

}  // namespace troupe::actors
