#include "tests/support/virtual_network.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace troupe::actors {

class VirtualNetwork::HoldingLink final : public transport::Link {
 public:
  HoldingLink(VirtualNetwork& network, std::shared_ptr<transport::Link> inner, NodeId from,
              NodeId to)
      : network_(network), inner_(std::move(inner)), from_(from), to_(to) {}

  Result<void> send(transport::Frame frame) override {
    return send_encoded(TRY(encode(std::move(frame))));
  }
  Result<transport::EncodedFrame> encode(transport::Frame frame) const override {
    if (!inner_) return closed();
    return inner_->encode(std::move(frame));
  }
  Result<void> send_encoded(transport::EncodedFrame frame) override {
    if (!inner_) return closed();
    network_.send(from_, to_, inner_, std::move(frame));
    return {};
  }
  /// What is on the wire has left this process and may still arrive.
  void close() override { inner_.reset(); }
  [[nodiscard]] transport::LinkStats stats() const override {
    return inner_ ? inner_->stats() : transport::LinkStats{.peer = to_};
  }

 private:
  [[nodiscard]] Error closed() const {
    return {Code::kUnavailable, "the link to node " + std::to_string(to_.value) + " is closed"};
  }

  VirtualNetwork& network_;
  std::shared_ptr<transport::Link> inner_;  ///< null when closed
  const NodeId from_, to_;
};

class VirtualNetwork::HoldingPort final : public transport::Port {
 public:
  HoldingPort(VirtualNetwork& network, std::unique_ptr<transport::Port> inner, NodeId self)
      : network_(network), inner_(std::move(inner)), self_(self) {}

  [[nodiscard]] std::string address() const override { return inner_->address(); }
  Result<std::shared_ptr<transport::Link>> connect(NodeId peer,
                                                   const std::string& address) override {
    auto link = TRY(inner_->connect(peer, address));
    return std::shared_ptr<transport::Link>(
        std::make_shared<HoldingLink>(network_, std::move(link), self_, peer));
  }
  [[nodiscard]] transport::PortStats stats() const override { return inner_->stats(); }

 private:
  VirtualNetwork& network_;
  const std::unique_ptr<transport::Port> inner_;
  const NodeId self_;
};

std::unique_ptr<transport::Port> VirtualNetwork::open(transport::PortOptions options) {
  const NodeId self = options.self;
  return std::make_unique<HoldingPort>(*this, loopback_.open(std::move(options)), self);
}

void VirtualNetwork::send(NodeId from, NodeId to, const std::shared_ptr<transport::Link>& link,
                          transport::EncodedFrame frame) {
  if (cut_.contains(from) || cut_.contains(to)) return;
  const Wire::Sent sent{std::move(frame), link, {}};
  put(wire_between(from, to, false), sent);
  if (keeps_copies_) copies_.emplace_back(wire_between(from, to, true), sent);
}

void VirtualNetwork::deliver(size_t wire, size_t frame, bool with_echo) {
  const NodeId from = wires_.at(wire).from, to = wires_.at(wire).to;
  std::deque<Wire::Sent>& sent = wires_[wire].sent;
  CHECK_LT(frame, sent.size());
  Wire::Sent next = std::move(sent[frame]);
  sent.erase(sent.begin() + static_cast<std::ptrdiff_t>(frame));
  if (with_echo) put(wire_between(from, to, true), next);
  if (cut_.contains(from) || cut_.contains(to)) return;
  // A dead end's frames get lost: the link knows.
  (void)next.link->send_encoded(std::move(next.frame));
}

void VirtualNetwork::send_again() {
  for (const auto& [echo, copy] : copies_) put(echo, copy);
}

void VirtualNetwork::put(size_t wire, Wire::Sent sent) {
  Wire& onto = wires_[wire];
  sent.arrives = arrival_time_(onto.echo);
  if (!onto.sent.empty()) sent.arrives = std::max(sent.arrives, onto.sent.back().arrives);
  onto.sent.push_back(std::move(sent));
}

size_t VirtualNetwork::wire_between(NodeId from, NodeId to, bool echo) {
  const auto known = std::ranges::find_if(wires_, [&](const Wire& wire) {
    return wire.from == from && wire.to == to && wire.echo == echo;
  });
  if (known != wires_.end()) return static_cast<size_t>(known - wires_.begin());
  wires_.push_back({from, to, echo, {}});
  return wires_.size() - 1;
}

}  // namespace troupe::actors
