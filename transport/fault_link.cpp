// A decorator: what passes through it is dropped, doubled, reordered, damaged or cut, by draws that
// depend on nothing but the seed, the peer and the number of the frame. The same seed therefore
// meets the same frames with the same faults, in tests, in the simulator and on live wires.

#include <cstring>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {

struct FaultControl::State {
  std::mutex mutex;
  FaultOptions options;
};

namespace {

enum class Draw : uint64_t { kDrop, kDuplicate, kReorder, kCorrupt, kBit, kCount };

// Flips one bit of the message; the payload is copied first, its owner may still read it.
EncodedFrame with_flipped_bit(EncodedFrame frame, uint64_t random) {
  const uint64_t bit = random % (frame.size_bytes() * 8);
  const std::byte mask{static_cast<uint8_t>(1U << (bit % 8))};
  const size_t at = bit / 8;
  if (at < frame.header.size()) {
    frame.header[at] ^= mask;
    return frame;
  }
  auto copy = Buffer::allocate(frame.payload->size());
  std::memcpy(copy->data(), frame.payload->data(), copy->size());
  copy->data()[at - frame.header.size()] ^= mask;
  frame.payload = std::move(copy);
  return frame;
}

class FaultLink final : public Link {
 public:
  FaultLink(std::shared_ptr<Link> inner, FaultControl control, NodeId peer)
      : inner_(std::move(inner)), control_(std::move(control)), peer_(peer) {}

  Result<void> send(Frame frame) override { return send_encoded(TRY(encode(std::move(frame)))); }

  Result<EncodedFrame> encode(Frame frame) const override {
    return inner_->encode(std::move(frame));
  }

  Result<void> send_encoded(EncodedFrame frame) override {
    // A loopback link delivers within send_encoded, and the receiver may answer through this very
    // link: nothing is sent under the lock.
    for (EncodedFrame& outgoing : after_faults(std::move(frame))) {
      TRY(inner_->send_encoded(std::move(outgoing)));
    }
    return {};
  }

  void close() override {
    inner_->close();
    const std::lock_guard lock(mutex_);
    held_.reset();
  }

  [[nodiscard]] LinkStats stats() const override { return inner_->stats(); }

 private:
  /// What is to be sent now in place of `frame`, in order.
  std::vector<EncodedFrame> after_faults(EncodedFrame frame) {
    const FaultOptions faults = control_.get();
    const std::lock_guard lock(mutex_);
    const uint64_t number = num_frames_++;
    const auto draw = [&](Draw what) {
      const auto position =
          number * static_cast<uint64_t>(Draw::kCount) + static_cast<uint64_t>(what);
      return random_bits(faults.seed, position, peer_.value);
    };
    const auto happens = [&](Draw what, double probability) {
      return static_cast<double>(draw(what) >> 11) * 0x1.0p-53 < probability;
    };
    std::vector<EncodedFrame> outgoing;
    if (faults.cut || happens(Draw::kDrop, faults.drop)) return outgoing;
    if (happens(Draw::kCorrupt, faults.corrupt)) {
      frame = with_flipped_bit(std::move(frame), draw(Draw::kBit));
    }
    if (!held_ && happens(Draw::kReorder, faults.reorder)) {
      held_ = std::move(frame);
      return outgoing;
    }
    if (happens(Draw::kDuplicate, faults.duplicate)) outgoing.push_back(frame);
    outgoing.push_back(std::move(frame));
    if (held_) outgoing.push_back(*std::exchange(held_, std::nullopt));
    return outgoing;
  }

  const std::shared_ptr<Link> inner_;
  const FaultControl control_;
  const NodeId peer_;
  std::mutex mutex_;
  uint64_t num_frames_ = 0;
  std::optional<EncodedFrame> held_;  // waits for the frame that overtakes it
};

class FaultPort final : public Port {
 public:
  FaultPort(std::unique_ptr<Port> inner, FaultControl control)
      : inner_(std::move(inner)), control_(std::move(control)) {}

  [[nodiscard]] std::string address() const override { return inner_->address(); }

  Result<std::shared_ptr<Link>> connect(NodeId peer, const std::string& address) override {
    auto link = TRY(inner_->connect(peer, address));
    return std::shared_ptr<Link>(std::make_shared<FaultLink>(std::move(link), control_, peer));
  }

  bool drive(const std::function<bool()>& done) override { return inner_->drive(done); }
  void call_driver() override { inner_->call_driver(); }
  [[nodiscard]] PortStats stats() const override { return inner_->stats(); }

 private:
  const std::unique_ptr<Port> inner_;
  const FaultControl control_;
};

}  // namespace

FaultControl::FaultControl(FaultOptions options) : state_(std::make_shared<State>()) {
  state_->options = options;
}

void FaultControl::set(FaultOptions options) {
  const std::lock_guard lock(state_->mutex);
  state_->options = options;
}

FaultOptions FaultControl::get() const {
  const std::lock_guard lock(state_->mutex);
  return state_->options;
}

std::unique_ptr<Port> make_fault_port(std::unique_ptr<Port> inner, const FaultControl& control) {
  return std::make_unique<FaultPort>(std::move(inner), control);
}

}  // namespace troupe::transport
