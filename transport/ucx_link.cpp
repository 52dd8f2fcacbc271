// Links between processes over UCX; ucx_driver.hpp has the whole idea.

#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "transport/ports.hpp"
#include "transport/ucx_driver.hpp"

namespace troupe::transport {
namespace {

class UcxLink final : public Link {
 public:
  UcxLink(std::shared_ptr<Channel> channel, std::shared_ptr<CommandQueue> commands, NodeId self,
          uint64_t cluster)
      : channel_(std::move(channel)),
        commands_(std::move(commands)),
        self_(self),
        cluster_(cluster) {}
  ~UcxLink() override { close_channel(); }

  Result<void> send(Frame frame) override { return send_encoded(TRY(encode(std::move(frame)))); }

  Result<EncodedFrame> encode(Frame frame) const override {
    frame.header.cluster = cluster_;
    frame.header.source = self_;
    auto header = TRY(encode_header(frame));
    return EncodedFrame{.header = std::move(header), .payload = std::move(frame.payload)};
  }

  Result<void> send_encoded(EncodedFrame frame) override {
    const size_t size = frame.size_bytes();
    const size_t queued = channel_->queued_bytes.fetch_add(size);
    if (channel_->state != LinkState::kOpen) {
      channel_->queued_bytes -= size;
      return gone();
    }
    if (queued + size > channel_->max_queued) {
      channel_->queued_bytes -= size;
      return Error{Code::kResourceExhausted,
                   std::to_string(queued) + " bytes are already queued to node " +
                       std::to_string(channel_->peer.value) + "; send when it has answered"};
    }
    if (!commands_->push({UcxCommand::Kind::kSend, channel_, std::move(frame)})) {
      channel_->queued_bytes -= size;
      return gone();
    }
    return {};
  }

  void close() override { close_channel(); }

  [[nodiscard]] bool open() const { return channel_->state == LinkState::kOpen; }

  [[nodiscard]] LinkStats stats() const override {
    return {.peer = channel_->peer,
            .transport = channel_->by_shm ? "ucx:shm" : "ucx:net",
            .frames_sent = channel_->frames_sent,
            .frames_received = channel_->frames_received,
            .bytes_sent = channel_->bytes_sent,
            .bytes_received = channel_->bytes_received,
            .frames_rejected = channel_->frames_rejected};
  }

 private:
  [[nodiscard]] Error gone() const {
    return Error{Code::kUnavailable, "the link to node " + std::to_string(channel_->peer.value) +
                                         " is closed; connect again if the node is alive"};
  }

  void close_channel() {
    LinkState open = LinkState::kOpen;
    if (channel_->state.compare_exchange_strong(open, LinkState::kClosed)) {
      commands_->push({UcxCommand::Kind::kClose, channel_});
    }
  }

  const std::shared_ptr<Channel> channel_;
  const std::shared_ptr<CommandQueue> commands_;
  const NodeId self_;
  const uint64_t cluster_;
};

class UcxPort final : public Port {
 public:
  UcxPort(PortOptions options, UcxOptions ucx)
      : options_(std::move(options)),
        ucx_(std::move(ucx)),
        commands_(std::make_shared<CommandQueue>()),
        driver_(options_, ucx_, *commands_, counters_) {}

  ~UcxPort() override {
    commands_->shut();
    if (thread_.joinable()) thread_.join();
  }

  Result<void> open() {
    TRY(driver_.open());
    address_ = driver_.address();
    text_ = to_text(address_);
    thread_ = std::thread([this] { driver_.run(); });
    return {};
  }

  [[nodiscard]] std::string address() const override { return text_; }

  Result<std::shared_ptr<Link>> connect(NodeId peer, const std::string& text) override {
    PortAddress address = TRY(parse_port_address(text));
    // Both sides decide alike: from what both offer and whether they share a host.
    const bool by_shm = address_.by_shm && address.by_shm && address.host == address_.host;
    if (!by_shm && !(address_.by_net && address.by_net)) {
      return Error{Code::kUnsupported,
                   "no wire leads to node " + std::to_string(peer.value) +
                       ": shared memory needs one host and both ends willing, the network both "
                       "ends willing; see the option for UCX wires of both nodes"};
    }
    const std::lock_guard lock(mutex_);
    if (auto link = links_[peer].lock(); link && link->open()) return std::shared_ptr<Link>(link);
    auto channel = std::make_shared<Channel>(peer, options_.max_queued_bytes, by_shm);
    auto link = std::make_shared<UcxLink>(channel, commands_, options_.self, options_.cluster);
    commands_->push({.kind = UcxCommand::Kind::kOpen,
                     .channel = std::move(channel),
                     .address = std::move(address)});
    links_[peer] = link;
    std::erase_if(links_, [](const auto& entry) { return entry.second.expired(); });
    return std::shared_ptr<Link>(std::move(link));
  }

  bool drive(const std::function<bool()>& done) override {
    driver_.run_as_guest(done);
    return true;
  }
  void call_driver() override { commands_->watch().call_guest(); }

  [[nodiscard]] PortStats stats() const override {
    return {.frames_received = counters_.frames_received,
            .bytes_received = counters_.bytes_received,
            .frames_rejected = counters_.frames_rejected};
  }

 private:
  const PortOptions options_;
  const UcxOptions ucx_;
  PortCounters counters_;
  const std::shared_ptr<CommandQueue> commands_;
  UcxDriver driver_;
  PortAddress address_;
  std::string text_;
  std::mutex mutex_;
  std::map<NodeId, std::weak_ptr<UcxLink>> links_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Port>> open_ucx_port(PortOptions options, UcxOptions ucx) {
  auto port = std::make_unique<UcxPort>(std::move(options), std::move(ucx));
  auto opened = port->open();
  if (!opened.ok()) return std::move(opened).error().with_context("opening a UCX port");
  return std::unique_ptr<Port>(std::move(port));
}

}  // namespace troupe::transport
