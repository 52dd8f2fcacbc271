#include "transport/ucx_driver.hpp"

#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.hpp"
#include "base/log.hpp"

namespace troupe::transport {
namespace {

// Ids of active messages. The header of each begins with the sender's node id, 8 bytes.
constexpr unsigned kFrameMessage = 1;   // then the frame's header unless sent ahead; data: payload
constexpr unsigned kHeaderMessage = 2;  // data: the frame's header of the next kFrameMessage
constexpr unsigned kHelloMessage = 3;   // then the cluster; data: a PortAddress as text
// UCX 1.13 takes 8100 bytes of message header; this has room for about 970 assignments.
constexpr size_t kMaxInlineHeader = 7936;
// Bounds on what strangers can make us keep.
constexpr size_t kMaxLoneHeaders = 1024;
constexpr size_t kMaxWires = 1024;
constexpr size_t kMaxHellos = 1024;
// UCX work done in a row on one worker before others and commands get their turn.
constexpr int kProgressBurst = 64;
// For what UCX still has to do when an endpoint or a port ends: plenty, yet bounded.
constexpr int kLastRounds = 1000;
// When UCX has sends that wait for a stopped peer it can neither progress nor be armed; then the
// driver looks again after this long instead of spinning.
constexpr int kStuckPollMs = 2;
constexpr int kFruitlessRounds = 16;
// A sender does so much for the others; then it wakes the driver.
constexpr int kSendersRounds = 4;

Error lost_peer(ucs_status_t status) {
  return Error{Code::kUnavailable, std::string("UCX lost the peer: ") + ucs_status_string(status)};
}

Error system_error(const char* call) {
  return Error{Code::kInternal, std::string(call) + " failed: " + std::strerror(errno)};
}

int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

bool CommandQueue::push(UcxCommand command) {
  std::unique_lock<std::mutex> turn;
  {
    const std::lock_guard lock(mutex_);
    if (shut_) return false;
    const bool sends = command.kind == UcxCommand::Kind::kSend;
    commands_.push_back(std::move(command));
    // Whoever has the turn looks for commands before giving it up.
    if (!std::exchange(asleep_, false)) return true;
    if (sends) turn = std::unique_lock(turn_, std::try_to_lock);
    // If it is taken, the driver is awake, or about to sleep and then wakes by this.
    if (!turn.owns_lock()) watch_.wake();
  }
  if (turn.owns_lock()) take_turn_();
  return true;
}

void CommandQueue::shut() {
  const std::lock_guard lock(mutex_);
  shut_ = true;
  if (std::exchange(asleep_, false)) watch_.wake();
}

bool CommandQueue::take(std::vector<UcxCommand>& out) {
  const std::lock_guard lock(mutex_);
  out.swap(commands_);
  return !shut_;
}

bool CommandQueue::announce_sleep() {
  const std::lock_guard lock(mutex_);
  asleep_ = commands_.empty() && !shut_;
  return asleep_;
}

void CommandQueue::woke() {
  const std::lock_guard lock(mutex_);
  asleep_ = false;
  watch_.woke();
}

UcxDriver::~UcxDriver() {
  if (epoll_fd_ >= 0) ::close(epoll_fd_);
}

Result<void> UcxDriver::open() {
  if (ucx_.wires != UcxWires::kNet) {
    auto shm = UcxContext::open(UcxContext::Wires::kShm);
    if (shm.ok()) {
      shm_context_ = std::move(shm).value();
    } else if (ucx_.wires == UcxWires::kShm || shm.error().code != Code::kUnsupported) {
      return std::move(shm).error();
    } else {
      log::info("shared_memory_unavailable", {{"reason", shm.error().message}});
    }
  }
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) return system_error("epoll_create1");
  epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, commands_.watch().event_fd(), &event) != 0) {
    return system_error("epoll_ctl");
  }
  TRY(seat(net_, TRY(UcxContext::open(UcxContext::Wires::kNet, ucx_.net_devices))));
  return net_.worker->on_message(kHelloMessage, &UcxDriver::on_hello, &net_);
}

PortAddress UcxDriver::address() const {
  return {.by_net = ucx_.wires != UcxWires::kShm,
          .by_shm = shm_context_ != nullptr,
          .host = this_host(),
          .net_worker = net_.worker->address()};
}

Result<void> UcxDriver::seat(Seat& seat, const std::shared_ptr<UcxContext>& context) {
  seat.driver = this;
  seat.worker = TRY(UcxWorker::open(context));
  TRY(seat.worker->on_message(kFrameMessage, &on_message<kFrameMessage>, &seat));
  TRY(seat.worker->on_message(kHeaderMessage, &on_message<kHeaderMessage>, &seat));
  epoll_event event{.events = EPOLLIN, .data = {.ptr = &seat}};
  if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, seat.worker->event_fd(), &event) != 0) {
    return system_error("epoll_ctl");
  }
  seats_.push_back(&seat);
  return {};
}

void UcxDriver::unseat(Seat& seat) {
  if (seat.worker == nullptr) return;
  epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, seat.worker->event_fd(), nullptr);
  std::erase(seats_, &seat);
  seat.worker.reset();
}

void UcxDriver::run() {
  std::unique_lock turn(commands_.turn());
  while (!stopping_) {
    if (round()) continue;
    if (commands_.watch().is_wanted()) {
      leave_watch(turn);
      commands_.watch().resume();
      turn.lock();
      commands_.woke();
    } else if (!is_to_spin()) {
      sleep(turn);
    }
  }
  shut_down();
}

void UcxDriver::run_as_guest(const std::function<bool()>& done) {
  if (!commands_.watch().take(done)) return;
  std::unique_lock turn(commands_.turn());
  commands_.woke();
  for (;;) {
    const bool worked = round();
    if (stopping_ || done()) break;
    if (!worked && !is_to_spin()) sleep(turn);
  }
  leave_watch(turn);
}

void UcxDriver::leave_watch(std::unique_lock<std::mutex>& turn) {
  // First this, so that whoever announce_sleep() lets wake the driver wakes its thread.
  commands_.watch().leave();
  if (!commands_.announce_sleep() || is_unfinished()) commands_.watch().wake();
  turn.unlock();
}

bool UcxDriver::is_unfinished() const { return stopping_ || !sends_.empty() || !arrivals_.empty(); }

/// In a sender's thread, with the turn.
void UcxDriver::take_turn() {
  for (int rounds = 0; rounds < kSendersRounds; ++rounds) {
    if (round()) continue;
    if (is_to_spin()) break;  // that is for the driver
    // Where nobody sleeps, nothing needs to be armed; the next one to have the turn looks first.
    const bool can_end = commands_.watch().is_kept() ? arm() : !is_unfinished();
    if (can_end && commands_.announce_sleep()) return;
  }
  commands_.watch().wake();
}

bool UcxDriver::round() {
  bool worked = take_commands();
  worked |= progress();
  worked |= settle();
  if (worked) {
    fruitless_rounds_ = 0;
    if (ucx_.spin_ns > 0) last_work_ns_ = monotonic_ns();
  }
  return worked;
}

bool UcxDriver::is_to_spin() const {
  return ucx_.spin_ns > 0 && monotonic_ns() - last_work_ns_ < ucx_.spin_ns;
}

bool UcxDriver::take_commands() {
  batch_.clear();
  stopping_ = !commands_.take(batch_);
  for (UcxCommand& command : batch_) {
    switch (command.kind) {
      case UcxCommand::Kind::kOpen: open_channel(command.channel, command.address); break;
      case UcxCommand::Kind::kSend: send(command.channel, std::move(command.frame)); break;
      case UcxCommand::Kind::kClose: close_channel(*command.channel); break;
    }
  }
  return !batch_.empty();
}

bool UcxDriver::progress() {
  bool worked = false;
  for (Seat* seat : seats_) {
    if (seat->armed && ucx_.spin_ns == 0) continue;
    seat->armed = false;
    worked |= seat->worker->progress(kProgressBurst);
  }
  return worked;
}

bool UcxDriver::settle() {
  if (losses_.empty() && hellos_.empty()) return false;
  while (!losses_.empty()) {
    Loss loss = losses_.front();
    lose(*loss.wire, std::move(loss.reason));
  }
  for (const Hello& hello : std::exchange(hellos_, {})) answer(hello);
  return true;
}

bool UcxDriver::arm() {
  bool armed = true;
  for (Seat* seat : seats_) {
    if (!seat->armed) seat->armed = ucp_worker_arm(seat->worker->handle()) == UCS_OK;
    armed &= seat->armed;
  }
  return armed;
}

void UcxDriver::sleep(std::unique_lock<std::mutex>& turn) {
  const bool can_sleep = arm();
  if (!can_sleep && ++fruitless_rounds_ < kFruitlessRounds) return;
  if (!commands_.announce_sleep()) return;
  turn.unlock();
  std::array<epoll_event, 16> events;
  const int num_events = epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()),
                                    can_sleep ? -1 : kStuckPollMs);
  turn.lock();
  commands_.woke();
  for (int i = 0; i < num_events; ++i) {
    // Another one that had the turn may have removed the seat.
    const auto seat = std::ranges::find(seats_, events[i].data.ptr);
    if (seat != seats_.end()) (*seat)->armed = false;
  }
}

UcxDriver::Wire* UcxDriver::find_wire(NodeId peer) {
  const auto found = wires_.find(peer);
  return found == wires_.end() ? nullptr : found->second.get();
}

void UcxDriver::open_channel(const std::shared_ptr<Channel>& channel, const PortAddress& address) {
  Wire* wire = find_wire(channel->peer);
  if (wire != nullptr && (wire->channel != nullptr || wire->by_shm != channel->by_shm)) {
    drop(*wire);  // of a link that was closed a moment ago
    wire = nullptr;
  }
  if (wire == nullptr) wire = &add_wire(channel->peer, channel->by_shm, address);
  wire->channel = channel;
}

void UcxDriver::close_channel(const Channel& channel) {
  Wire* wire = find_wire(channel.peer);
  if (wire != nullptr && wire->channel.get() == &channel) drop(*wire);
}

UcxDriver::Wire& UcxDriver::add_wire(NodeId peer, bool by_shm, const PortAddress& address) {
  Wire& wire = *(wires_[peer] = std::make_unique<Wire>());
  wire.driver = this;
  wire.peer = peer;
  wire.by_shm = by_shm;
  net_.armed = false;
  auto endpoint = net_.worker->connect(address.net_worker, &UcxDriver::on_endpoint_error, &wire);
  if (endpoint.ok()) wire.net_endpoint = endpoint.value();
  Result<void> opened;
  if (!endpoint.ok()) {
    opened = std::move(endpoint).error();
  } else if (by_shm) {
    opened = seat(wire.shm, shm_context_);
    if (opened.ok()) opened = say_hello(wire);
  }
  if (!opened.ok()) {
    losses_.push_back({&wire, Error{Code::kUnavailable, std::move(opened).error().message}});
  }
  return wire;
}

Result<void> UcxDriver::say_hello(Wire& wire) {
  PortAddress address = this->address();
  address.shm_worker = wire.shm.worker->address();
  // Both live until UCX has read them: a request is freed by UCX, its buffers by the callback.
  struct Outgoing {
    std::array<uint64_t, 2> header;
    std::string text;
  };
  auto outgoing = std::make_unique<Outgoing>(
      Outgoing{{options_.self.value, options_.cluster}, to_text(address)});
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = [](void* request, ucs_status_t, void* argument) {
    ucp_request_free(request);
    delete static_cast<Outgoing*>(argument);
  };
  params.user_data = outgoing.get();
  ucs_status_ptr_t request = ucp_am_send_nbx(wire.net_endpoint, kHelloMessage,
                                             outgoing->header.data(), sizeof(outgoing->header),
                                             outgoing->text.data(), outgoing->text.size(), &params);
  if (UCS_PTR_IS_ERR(request)) return ucx_error("ucp_am_send_nbx", UCS_PTR_STATUS(request));
  if (request != nullptr) (void)outgoing.release();  // the callback deletes it
  return {};
}

void UcxDriver::answer(const Hello& hello) {
  const auto address = parse_port_address(hello.address);
  if (!address.ok()) return reject(address.error());
  if (shm_context_ == nullptr || address.value().host != this_host() ||
      address.value().shm_worker.empty()) {
    return reject(Error{Code::kCorrupt, "a hello from a port that shares no memory with this one"});
  }
  Wire* wire = find_wire(hello.source);
  if (wire != nullptr && (!wire->by_shm || wire->shm_endpoint != nullptr)) {
    lose(*wire, Error{Code::kUnavailable, "the peer has opened its link anew"});
    wire = nullptr;
  }
  if (wire == nullptr) {
    if (wires_.size() >= kMaxWires) {
      return reject(Error{Code::kResourceExhausted, "a hello when too many wires are open"});
    }
    wire = &add_wire(hello.source, /*by_shm=*/true, address.value());
    if (wire->shm.worker == nullptr) return;  // its loss is noted
  }
  wire->shm.armed = false;
  auto endpoint =
      wire->shm.worker->connect(address.value().shm_worker, &UcxDriver::on_endpoint_error, wire);
  if (!endpoint.ok()) {
    losses_.push_back({wire, Error{Code::kUnavailable, endpoint.error().message}});
    return;
  }
  wire->shm_endpoint = endpoint.value();
  for (EncodedFrame& frame : std::exchange(wire->waiting, {})) send_on(*wire, std::move(frame));
}

void UcxDriver::on_endpoint_error(void* argument, ucp_ep_h, ucs_status_t status) {
  auto* wire = static_cast<Wire*>(argument);
  wire->driver->losses_.push_back({wire, lost_peer(status)});
}

void UcxDriver::lose(Wire& wire, Error reason) {
  // What the peer had sent before it went may still lie in our memory.
  if (wire.shm.worker != nullptr) wire.shm.worker->progress(kLastRounds);
  const std::shared_ptr<Channel> channel = wire.channel;
  drop(wire);
  LinkState open = LinkState::kOpen;
  if (channel == nullptr || !channel->state.compare_exchange_strong(open, LinkState::kLost)) return;
  log::info("link_lost", {{"peer", channel->peer}, {"reason", reason.message}});
  if (options_.on_link_down) options_.on_link_down(channel->peer, std::move(reason));
}

void UcxDriver::drop(Wire& wire) {
  if (wire.shm_endpoint != nullptr) {
    close_by_force(wire.shm_endpoint);
    wire.shm.worker->progress(kLastRounds);
  }
  if (wire.net_endpoint != nullptr) close_by_force(wire.net_endpoint);
  net_.armed = false;
  unseat(wire.shm);
  for (auto op = sends_.begin(); op != sends_.end();) {
    const auto next = std::next(op);
    if (op->wire == &wire) {
      op->wire = nullptr;
      if (wire.by_shm) finish_send(op);  // its worker is gone, nobody else will
    }
    op = next;
  }
  if (wire.channel != nullptr) {
    for (const EncodedFrame& frame : wire.waiting) {
      wire.channel->queued_bytes -= frame.size_bytes();
    }
  }
  if (wire.by_shm) arrivals_.erase(wire.peer.value);
  lone_headers_.erase(wire.peer.value);
  std::erase_if(losses_, [&](const Loss& loss) { return loss.wire == &wire; });
  wires_.erase(NodeId{wire.peer});
}

void UcxDriver::send(const std::shared_ptr<Channel>& channel, EncodedFrame frame) {
  Wire* wire = find_wire(channel->peer);
  if (wire == nullptr || wire->channel != channel || wire->net_endpoint == nullptr) {
    channel->queued_bytes -= frame.size_bytes();  // closed or lost after the frame was queued
  } else if (wire->by_shm && wire->shm_endpoint == nullptr) {
    wire->waiting.push_back(std::move(frame));
  } else {
    send_on(*wire, std::move(frame));
  }
}

void UcxDriver::send_on(Wire& wire, EncodedFrame frame) {
  sends_.push_front(
      SendOp{.wire = &wire, .channel = wire.channel, .frame = std::move(frame), .driver = this});
  const auto op = sends_.begin();
  op->self = op;

  const EncodedFrame& sending = op->frame;
  std::vector<std::byte>& message_header = op->message_header;
  message_header.resize(sizeof(uint64_t));
  std::memcpy(message_header.data(), &options_.self.value, sizeof(uint64_t));
  if (sending.header.size() > kMaxInlineHeader) {
    post(op, kHeaderMessage, sizeof(uint64_t), sending.header);
  } else {
    message_header.insert(message_header.end(), sending.header.begin(), sending.header.end());
  }
  const Bytes payload =
      sending.payload ? Bytes(sending.payload->data(), sending.payload->size()) : Bytes();
  post(op, kFrameMessage, message_header.size(), payload);
  if (op->num_pending == 0) finish_send(op);
}

void UcxDriver::post(std::list<SendOp>::iterator op, unsigned id, size_t header_bytes, Bytes data) {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &UcxDriver::on_sent;
  params.user_data = &*op;
  Wire& wire = *op->wire;
  (wire.by_shm ? wire.shm : net_).armed = false;
  ucs_status_ptr_t request =
      ucp_am_send_nbx(wire.by_shm ? wire.shm_endpoint : wire.net_endpoint, id,
                      op->message_header.data(), header_bytes, data.data(), data.size(), &params);
  if (UCS_PTR_IS_ERR(request)) {
    op->status = UCS_PTR_STATUS(request);
  } else if (request != nullptr) {
    ++op->num_pending;
  }
}

void UcxDriver::on_sent(void* request, ucs_status_t status, void* argument) {
  auto* op = static_cast<SendOp*>(argument);
  ucp_request_free(request);
  if (status != UCS_OK) op->status = status;
  if (--op->num_pending == 0) op->driver->finish_send(op->self);
}

void UcxDriver::finish_send(std::list<SendOp>::iterator op) {
  Channel& channel = *op->channel;
  const size_t size = op->frame.size_bytes();
  channel.queued_bytes -= size;
  if (op->status != UCS_OK && op->wire != nullptr) {
    losses_.push_back({op->wire, lost_peer(op->status)});
  } else if (op->num_pending == 0 && op->status == UCS_OK) {
    ++channel.frames_sent;
    channel.bytes_sent += size;
  }
  sends_.erase(op);
}

template <unsigned id>
ucs_status_t UcxDriver::on_message(void* argument, const void* header, size_t header_length,
                                   void* data, size_t length, const ucp_am_recv_param_t* param) {
  const Seat& seat = *static_cast<Seat*>(argument);
  UcxDriver* driver = seat.driver;
  uint64_t source = 0;
  if (header_length < sizeof(source) || header_length > kMaxFrameBytes ||
      length > kMaxFrameBytes - header_length) {
    driver->reject(Error{Code::kCorrupt, "a message of " + std::to_string(header_length) + " + " +
                                             std::to_string(length) +
                                             " bytes is too short or too large for a frame"});
    return UCS_OK;  // for a rendezvous: UCX tells the sender that it is done with
  }
  std::memcpy(&source, header, sizeof(source));
  const Bytes front(static_cast<const std::byte*>(header) + sizeof(source),
                    header_length - sizeof(source));
  Arrival arrival{.driver = driver,
                  .source = source,
                  .id = id,
                  .header_bytes = front.size(),
                  .message = Buffer::allocate(front.size() + length)};
  if (!front.empty()) std::memcpy(arrival.message->data(), front.data(), front.size());
  std::byte* const rest = arrival.message->data() + front.size();
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    driver->receive_rendezvous(seat.worker->handle(), std::move(arrival), data, rest, length);
    return UCS_INPROGRESS;
  }
  // Copied: eager messages are small, UCX's buffers are few, and frames outlive ports.
  if (length > 0) std::memcpy(rest, data, length);
  arrival.complete = true;
  const auto before = driver->arrivals_.find(source);
  if (before == driver->arrivals_.end()) {
    driver->hand_on(std::move(arrival));
  } else {
    before->second.push_back(std::move(arrival));
  }
  return UCS_OK;
}

void UcxDriver::receive_rendezvous(ucp_worker_h worker, Arrival arrival, void* descriptor,
                                   std::byte* into, size_t length) {
  Arrival& waiting = arrivals_[arrival.source].emplace_back(std::move(arrival));
  ucp_request_param_t params{};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  params.cb.recv_am = &UcxDriver::on_received;
  params.user_data = &waiting;
  ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker, descriptor, into, length, &params);
  if (!UCS_PTR_IS_PTR(request)) {  // with NO_IMM_CMPL that is an error
    on_received(nullptr, UCS_PTR_STATUS(request), 0, &waiting);
  }
}

void UcxDriver::on_received(void* request, ucs_status_t status, size_t, void* argument) {
  auto* arrival = static_cast<Arrival*>(argument);
  UcxDriver* driver = arrival->driver;
  if (request != nullptr) ucp_request_free(request);
  arrival->complete = true;
  if (status != UCS_OK) arrival->message = nullptr;  // its sender is gone
  const auto found = driver->arrivals_.find(arrival->source);
  std::list<Arrival>& arrivals = found->second;
  while (!arrivals.empty() && arrivals.front().complete) {
    Arrival first = std::move(arrivals.front());
    arrivals.pop_front();
    driver->hand_on(std::move(first));
  }
  if (arrivals.empty()) driver->arrivals_.erase(found);
}

void UcxDriver::hand_on(Arrival arrival) {
  if (arrival.message == nullptr) return;
  const size_t size = arrival.message->size();
  if (arrival.id == kHeaderMessage) {
    if (lone_headers_.size() >= kMaxLoneHeaders) lone_headers_.clear();
    lone_headers_[arrival.source] = std::move(arrival.message);
  } else if (arrival.header_bytes > 0) {
    accept(decode_frame(std::move(arrival.message)), size);
  } else if (const auto lone = lone_headers_.extract(arrival.source); !lone.empty()) {
    const Buffer& header = *lone.mapped();
    if (size == 0) arrival.message = nullptr;
    accept(decode_frame({header.data(), header.size()}, std::move(arrival.message)),
           header.size() + size);
  } else {
    reject(Error{Code::kCorrupt, "a payload without a header"});
  }
}

void UcxDriver::accept(Result<Frame> frame, size_t size_bytes) {
  if (!frame.ok()) return reject(frame.error());
  const FrameHeader& header = frame.value().header;
  const Wire* wire = find_wire(header.source);
  Channel* channel = wire == nullptr ? nullptr : wire->channel.get();
  if (header.cluster != options_.cluster) {
    if (channel != nullptr) ++channel->frames_rejected;
    return reject(Error{Code::kInvalidArgument, "the frame is of another cluster"});
  }
  ++counters_.frames_received;
  counters_.bytes_received += size_bytes;
  if (channel != nullptr) {
    ++channel->frames_received;
    channel->bytes_received += size_bytes;
  }
  options_.on_frame(std::move(frame).value());
}

void UcxDriver::reject(const Error& error) {
  // A peer may send these as fast as it likes: the first few are told, the rest counted.
  constexpr uint64_t kTold = 10;
  if (++counters_.frames_rejected <= kTold) {
    log::warning("frame_rejected", {{"reason", error.message}});
  }
}

ucs_status_t UcxDriver::on_hello(void* argument, const void* header, size_t header_length,
                                 void* data, size_t length, const ucp_am_recv_param_t* param) {
  UcxDriver* driver = static_cast<Seat*>(argument)->driver;
  std::array<uint64_t, 2> words{};
  if (header_length != sizeof(words) || driver->hellos_.size() >= kMaxHellos ||
      (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {  // its text is short
    driver->reject(Error{Code::kCorrupt, "a hello of the wrong length"});
    return UCS_OK;
  }
  std::memcpy(words.data(), header, sizeof(words));
  if (words[1] != driver->options_.cluster) {
    driver->reject(Error{Code::kInvalidArgument, "a hello from another cluster"});
    return UCS_OK;
  }
  driver->hellos_.push_back({NodeId{words[0]}, std::string(static_cast<char*>(data), length)});
  return UCS_OK;
}

void UcxDriver::shut_down() {
  while (!wires_.empty()) {
    Wire& wire = *wires_.begin()->second;
    if (wire.channel != nullptr) wire.channel->state = LinkState::kClosed;
    drop(wire);
  }
  // Forced closes end the pending sends at once; a bounded number of rounds lets UCX say so. What
  // it has not said by then ends with the worker.
  net_.worker->progress(kLastRounds);
  unseat(net_);
  sends_.clear();
  arrivals_.clear();
}

}  // namespace troupe::transport
