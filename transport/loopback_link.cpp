// Ports within one process that find each other by address. Frames are encoded and decoded as on a
// real wire, so that what is refused there is refused here.

#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/parse.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

constexpr std::string_view kAddressPrefix = "loopback:";

struct Counters {
  std::atomic<uint64_t> frames{0};
  std::atomic<uint64_t> bytes{0};
  void count(size_t size_bytes) {
    frames.fetch_add(1, std::memory_order_relaxed);
    bytes.fetch_add(size_bytes, std::memory_order_relaxed);
  }
};

// What of a port can be reached by others. Handlers run under the shared lock, the port's
// destructor takes the exclusive one: after it, none runs.
struct Endpoint {
  explicit Endpoint(PortOptions options_in) : options(std::move(options_in)) {}

  void receive(const EncodedFrame& encoded) {
    const std::shared_lock lock(alive);
    if (closed) return;
    auto frame = decode_frame(encoded.header, encoded.payload);
    if (!frame.ok() || frame.value().header.cluster != options.cluster) {
      rejected.fetch_add(1, std::memory_order_relaxed);
      return;
    }
    received.count(encoded.size_bytes());
    {
      const std::lock_guard peers_lock(peers_mutex);
      from[frame.value().header.source].count(encoded.size_bytes());
    }
    options.on_frame(std::move(frame).value());
  }

  const PortOptions options;
  std::shared_mutex alive;
  bool closed = false;  // guarded by `alive`
  Counters received;
  std::atomic<uint64_t> rejected{0};
  std::mutex peers_mutex;
  std::map<NodeId, Counters> from;  // guarded by peers_mutex
};

Error gone(NodeId peer) {
  return Error{Code::kUnavailable, "the link to node " + std::to_string(peer.value) +
                                       " is closed; connect again if the node is alive"};
}

}  // namespace

struct LoopbackNetwork::State : std::enable_shared_from_this<LoopbackNetwork::State> {
  class LoopbackLink;
  class LoopbackPort;
  struct Pending {
    std::shared_ptr<LoopbackLink> link;
    EncodedFrame frame;
  };

  explicit State(bool manual_in) : manual(manual_in) {}

  const bool manual;
  std::mutex mutex;  // guards everything below; never held while a handler runs
  uint64_t next_address = 1;
  std::map<uint64_t, std::shared_ptr<Endpoint>> endpoints;
  std::vector<std::weak_ptr<LoopbackLink>> links;
  std::deque<Pending> queue;  // with `manual` only
  bool ended = false;         // the network object is gone
};

class LoopbackNetwork::State::LoopbackLink final
    : public Link,
      public std::enable_shared_from_this<LoopbackLink> {
 public:
  LoopbackLink(std::shared_ptr<State> network, std::shared_ptr<Endpoint> from,
               std::shared_ptr<Endpoint> to, NodeId peer)
      : network_(std::move(network)), from_(std::move(from)), to_(std::move(to)), peer_(peer) {}

  Result<void> send(Frame frame) override { return send_encoded(TRY(encode(std::move(frame)))); }

  Result<EncodedFrame> encode(Frame frame) const override {
    frame.header.cluster = from_->options.cluster;
    frame.header.source = from_->options.self;
    auto header = TRY(encode_header(frame));
    return EncodedFrame{.header = std::move(header), .payload = std::move(frame.payload)};
  }

  Result<void> send_encoded(EncodedFrame frame) override {
    if (closed_) return gone(peer_);
    if (!network_->manual) {
      deliver(frame);
      return {};
    }
    const std::lock_guard lock(network_->mutex);
    if (network_->ended) return gone(peer_);
    const size_t size = frame.size_bytes();
    if (queued_bytes_ + size > from_->options.max_queued_bytes) {
      return Error{Code::kResourceExhausted, std::to_string(queued_bytes_) +
                                                 " bytes are already queued to node " +
                                                 std::to_string(peer_.value)};
    }
    queued_bytes_ += size;
    network_->queue.push_back({shared_from_this(), std::move(frame)});
    return {};
  }

  void close() override { closed_ = true; }

  [[nodiscard]] LinkStats stats() const override {
    LinkStats stats{.peer = peer_, .transport = "loopback"};
    stats.frames_sent = sent_.frames;
    stats.bytes_sent = sent_.bytes;
    const std::lock_guard lock(from_->peers_mutex);
    const Counters& received = from_->from[peer_];
    stats.frames_received = received.frames;
    stats.bytes_received = received.bytes;
    return stats;
  }

  [[nodiscard]] bool leads_from(const Endpoint* endpoint) const { return from_.get() == endpoint; }
  [[nodiscard]] bool leads_to(const Endpoint* endpoint) const { return to_.get() == endpoint; }
  [[nodiscard]] NodeId peer() const { return peer_; }
  [[nodiscard]] bool closed() const { return closed_; }

  /// REQUIRES: the network's mutex is held.
  void forget_queued(size_t size_bytes) { queued_bytes_ -= size_bytes; }

  void deliver(const EncodedFrame& frame) {
    if (closed_) return;
    sent_.count(frame.size_bytes());
    to_->receive(frame);
  }

  void peer_closed() {
    if (closed_.exchange(true)) return;
    const std::shared_lock lock(from_->alive);
    if (!from_->closed && from_->options.on_link_down) {
      from_->options.on_link_down(peer_, Error{Code::kUnavailable, "the peer's port was closed"});
    }
  }

 private:
  const std::shared_ptr<State> network_;
  const std::shared_ptr<Endpoint> from_;
  const std::shared_ptr<Endpoint> to_;
  const NodeId peer_;
  std::atomic<bool> closed_{false};
  Counters sent_;
  size_t queued_bytes_ = 0;  // guarded by the network's mutex
};

class LoopbackNetwork::State::LoopbackPort final : public Port {
 public:
  LoopbackPort(std::shared_ptr<State> network, std::shared_ptr<Endpoint> endpoint, uint64_t address)
      : network_(std::move(network)), endpoint_(std::move(endpoint)), address_(address) {}

  ~LoopbackPort() override {
    {
      const std::unique_lock lock(endpoint_->alive);
      endpoint_->closed = true;
    }
    std::vector<std::shared_ptr<LoopbackLink>> leading_here;
    {
      const std::lock_guard lock(network_->mutex);
      network_->endpoints.erase(address_);
      for (const auto& weak : network_->links) {
        auto link = weak.lock();
        if (!link) continue;
        if (link->leads_from(endpoint_.get())) link->close();
        if (link->leads_to(endpoint_.get())) leading_here.push_back(std::move(link));
      }
    }
    for (const auto& link : leading_here) link->peer_closed();
  }

  [[nodiscard]] std::string address() const override {
    return std::string(kAddressPrefix) + std::to_string(address_);
  }

  Result<std::shared_ptr<Link>> connect(NodeId peer, const std::string& address) override {
    const auto number =
        address.starts_with(kAddressPrefix)
            ? parse_number<uint64_t>(std::string_view(address).substr(kAddressPrefix.size()))
            : std::nullopt;
    if (!number) {
      return Error{Code::kInvalidArgument,
                   "'" + address + "' is not the address of a loopback port"};
    }
    const std::lock_guard lock(network_->mutex);
    std::erase_if(network_->links, [](const auto& weak) { return weak.expired(); });
    for (const auto& weak : network_->links) {
      auto link = weak.lock();
      if (link && link->leads_from(endpoint_.get()) && link->peer() == peer && !link->closed()) {
        return std::shared_ptr<Link>(std::move(link));
      }
    }
    const auto found = network_->endpoints.find(*number);
    if (found == network_->endpoints.end()) {
      return Error{Code::kUnavailable, "no loopback port has the address " + address};
    }
    auto link = std::make_shared<LoopbackLink>(network_, endpoint_, found->second, peer);
    network_->links.push_back(link);
    return std::shared_ptr<Link>(std::move(link));
  }

  [[nodiscard]] PortStats stats() const override {
    return {.frames_received = endpoint_->received.frames,
            .bytes_received = endpoint_->received.bytes,
            .frames_rejected = endpoint_->rejected};
  }

 private:
  const std::shared_ptr<State> network_;
  const std::shared_ptr<Endpoint> endpoint_;
  const uint64_t address_;
};

LoopbackNetwork::LoopbackNetwork(bool manual) : state_(std::make_shared<State>(manual)) {}

LoopbackNetwork::~LoopbackNetwork() {
  // What is queued holds the links and these the queue; nobody can pump any more.
  std::deque<State::Pending> undelivered;
  const std::lock_guard lock(state_->mutex);
  state_->ended = true;
  undelivered.swap(state_->queue);
}

std::unique_ptr<Port> LoopbackNetwork::open(PortOptions options) {
  auto endpoint = std::make_shared<Endpoint>(std::move(options));
  const std::lock_guard lock(state_->mutex);
  const uint64_t address = state_->next_address++;
  state_->endpoints.emplace(address, endpoint);
  return std::make_unique<State::LoopbackPort>(state_, std::move(endpoint), address);
}

size_t LoopbackNetwork::pump() {
  std::deque<State::Pending> batch;
  {
    const std::lock_guard lock(state_->mutex);
    batch.swap(state_->queue);
    for (const auto& pending : batch) pending.link->forget_queued(pending.frame.size_bytes());
  }
  for (const auto& pending : batch) pending.link->deliver(pending.frame);
  return batch.size();
}

}  // namespace troupe::transport
