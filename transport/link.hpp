#pragma once

// The seam between policy and wires. A Port is one process's presence on a transport; a Link leads
// to one peer. Implementations: ucx_link (between processes), loopback_link (within one),
// fault_link (a decorator that drops, delays, duplicates, reorders, corrupts and cuts).

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "transport/frame.hpp"

namespace troupe::transport {

/// What is known of a link, for `troupe status` and metrics. Byte counts are of whole frames.
struct LinkStats {
  NodeId peer;
  std::string transport;  ///< "ucx:shm", "ucx:net", "loopback"
  uint64_t frames_sent = 0;
  uint64_t frames_received = 0;
  uint64_t bytes_sent = 0;
  uint64_t bytes_received = 0;
  uint64_t frames_rejected = 0;  ///< received and dropped as corrupt or foreign
};

/// What a port has received from all peers together.
struct PortStats {
  uint64_t frames_received = 0;
  uint64_t bytes_received = 0;
  uint64_t frames_rejected = 0;  ///< corrupt, of another cluster or version, or too large
};

/// Runs for each accepted frame, on the driver's thread or inside a send() of any thread (see
/// there): must only hand it on, never block or compute. A UCX port runs one handler at a time.
using FrameHandler = std::function<void(Frame frame)>;
/// Runs there, too, once, when the transport itself sees that a peer is gone.
using LinkDownHandler = std::function<void(NodeId peer, Error reason)>;

/// A way to one peer. Thread-safe.
class Link {
 public:
  virtual ~Link() = default;

  /// Hands a frame over, in the order of the calls, and never waits for a peer; completion means
  /// "left this process", not "delivered". The link holds the payload until then and makes no copy
  /// of its own; UCX does over the network (transport/ucx_worker.cpp).
  ///
  /// Over UCX the frame is queued for the driver, or, while that sleeps or is away and no other
  /// sender is at it, sent before this returns: the calling thread then does, for a few
  /// rounds, all that is due for any link of the port. So inside this call the port's own on_frame
  /// and on_link_down may run, any number of times and for any peer, this frame's loss and an
  /// answer to it included. Over loopback, unless it is pumped, the receiving port's on_frame runs
  /// inside this call. Hold no lock that a handler takes. A handler may send: over UCX that is only
  /// queued, and no handler runs inside another.
  /// @errors Then nothing was sent: kUnavailable after close or peer loss; kResourceExhausted when
  ///         more than the port's bound of bytes is queued to this peer (the credit scheme above
  ///         keeps below it). A loss that comes later is told by on_link_down alone.
  virtual Result<void> send(Frame frame) = 0;

  /// The first half of send(): the frame stamped with this port's node and cluster, checked and
  /// encoded. @errors kInvalidArgument for a frame no receiver would accept.
  virtual Result<EncodedFrame> encode(Frame frame) const = 0;

  /// The second half of send(), with all it says: sends bytes as they are, even those a receiver
  /// will refuse.
  virtual Result<void> send_encoded(EncodedFrame frame) = 0;

  /// Drops what is queued and forgets the peer; later sends fail. Never blocks, and runs no
  /// handler.
  virtual void close() = 0;

  [[nodiscard]] virtual LinkStats stats() const = 0;
};

/// One process's end of a transport. Thread-safe. Destroying it closes all links and ends within a
/// bounded time even if peers are dead or stopped.
class Port {
 public:
  virtual ~Port() = default;

  /// What a peer needs to connect(): opaque printable text, exchanged over the control plane.
  [[nodiscard]] virtual std::string address() const = 0;

  /// Opens a link to a peer at its address(). Does not wait for the peer. While a link to `peer`
  /// is open, connecting again gives the same one; dropping the last pointer to a link closes it.
  /// @errors kInvalidArgument for an address that is not of this transport or was damaged;
  ///         kUnsupported for one of another protocol version or with no wire in common.
  virtual Result<std::shared_ptr<Link>> connect(NodeId peer, const std::string& address) = 0;

  /// Has the calling thread, which waits for frames anyway, look after the port in place of the
  /// port's own thread, so that none needs to be woken: the port's handlers run in it. Returns once
  /// `done` is true, which is asked after handlers and after call_driver(), under a lock of the
  /// port's at times. When the thread is away for some milliseconds, or leaves sends unfinished,
  /// the port's own thread looks after it until the next call. One thread at a time; none when the
  /// port is destroyed.
  /// @returns false at once, and calls nothing, if this port has no thread to stand in for
  virtual bool drive(const std::function<bool()>& /*done*/) { return false; }
  /// Has the thread in drive() ask `done` again.
  virtual void call_driver() {}

  [[nodiscard]] virtual PortStats stats() const = 0;
};

struct PortOptions {
  NodeId self;
  uint64_t cluster = 0;                          ///< frames of another cluster are rejected
  size_t max_queued_bytes = kMaxFrameBytes * 2;  ///< per link
  FrameHandler on_frame;
  LinkDownHandler on_link_down;
};

}  // namespace troupe::transport
