// Links between processes over UCX active messages. Each port has one driver thread that alone
// touches UCX; everybody else hands it commands and wakes it by an eventfd. It sleeps in epoll on
// that and on UCX's own descriptors, so an idle port costs nothing.
//
// There is no UCX listener (64 bytes of garbage abort it): worker addresses travel over the control
// plane, and endpoints are made from them in error mode PEER, the only one in which an endpoint to
// a dead or stopped peer can be closed.
//
// An active message's header is the sender's node id and, where it fits, the frame's header, so
// that the payload is one contiguous piece that UCX can move without a copy; else both are in its
// data.

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "base/log.hpp"
#include "transport/port_address.hpp"
#include "transport/ports.hpp"
#include "transport/ucx_worker.hpp"

namespace troupe::transport {
namespace {

// Ids of active messages.
constexpr unsigned kFrameMessage = 1;   ///< source, frame's header unless sent ahead; payload
constexpr unsigned kHeaderMessage = 2;  ///< source; frame's header of the next kFrameMessage
constexpr unsigned kGoodbyeMessage = 3;
// UCX 1.13 takes 8100 bytes of message header; this has room for about 970 assignments.
constexpr size_t kMaxInlineHeader = 7936;
// Headers whose frame has not come; more of them than peers is somebody's mischief.
constexpr size_t kMaxLoneHeaders = 1024;
// UCX work done in a row before commands get their turn.
constexpr int kProgressBurst = 64;
// When UCX has sends that wait for a stopped peer it can neither progress nor be armed; then the
// driver looks again after this long instead of spinning.
constexpr int kStuckPollMs = 2;
constexpr int kFruitlessRounds = 16;

/// Says which link of the receiver is closed; shared memory would not tell.
struct Goodbye {
  uint64_t cluster;
  uint64_t source;
};

enum class LinkState : uint8_t { kOpen, kClosed, kLost };

class Driver;

/// One side of a link: what senders, the driver and UCX's callbacks share.
struct Channel {
  Channel(NodeId peer_in, size_t max_queued_in) : peer(peer_in), max_queued(max_queued_in) {}

  const NodeId peer;
  const size_t max_queued;
  std::atomic<LinkState> state{LinkState::kOpen};
  std::atomic<size_t> queued_bytes{0};
  std::atomic<uint64_t> frames_sent{0}, bytes_sent{0};
  std::atomic<uint64_t> frames_received{0}, bytes_received{0}, frames_rejected{0};

  // The driver's own from here on.
  Driver* driver = nullptr;
  UcxWorker* worker = nullptr;
  ucp_ep_h endpoint = nullptr;
};

struct Command {
  enum class Kind : uint8_t { kOpen, kSend, kClose } kind;
  std::shared_ptr<Channel> channel;
  EncodedFrame frame = {};              // kSend
  std::vector<std::byte> address = {};  // kOpen
};

/// The way from any thread to the driver. Outlives the port: links keep it.
class CommandQueue {
 public:
  CommandQueue() : event_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { CHECK_GE(event_fd_, 0); }
  ~CommandQueue() { ::close(event_fd_); }

  [[nodiscard]] int event_fd() const { return event_fd_; }

  /// False after shut().
  bool push(Command command) {
    const std::lock_guard lock(mutex_);
    if (shut_) return false;
    commands_.push_back(std::move(command));
    wake();
    return true;
  }

  void shut() {
    const std::lock_guard lock(mutex_);
    shut_ = true;
    wake();
  }

  /// Moves what is queued to `out`; false once shut.
  bool take(std::vector<Command>& out) {
    const std::lock_guard lock(mutex_);
    out.swap(commands_);
    return !shut_;
  }

  /// True if the driver may sleep: a later push will wake it.
  bool announce_sleep() {
    const std::lock_guard lock(mutex_);
    asleep_ = commands_.empty() && !shut_;
    return asleep_;
  }

  void woke() {
    const std::lock_guard lock(mutex_);
    asleep_ = false;
    uint64_t count = 0;
    [[maybe_unused]] const auto n = ::read(event_fd_, &count, sizeof(count));
  }

 private:
  void wake() {
    if (!std::exchange(asleep_, false)) return;
    const uint64_t one = 1;
    [[maybe_unused]] const auto n = ::write(event_fd_, &one, sizeof(one));
  }

  const int event_fd_;
  std::mutex mutex_;
  std::vector<Command> commands_;
  bool asleep_ = false;
  bool shut_ = false;
};

struct PortCounters {
  std::atomic<uint64_t> frames_received{0}, bytes_received{0}, frames_rejected{0};
};

/// The thread that owns the workers.
class Driver {
 public:
  Driver(const PortOptions& options, const UcxOptions& ucx, CommandQueue& commands,
         PortCounters& counters)
      : options_(options),
        ucx_(ucx),
        commands_(commands),
        counters_(counters),
        goodbye_{.cluster = options.cluster, .source = options.self.value} {}
  ~Driver() {
    if (epoll_fd_ >= 0) ::close(epoll_fd_);
  }

  Result<void> open();
  void run();

  [[nodiscard]] UcxWorker* worker(UcxWorker::Wires wires) const {
    for (const auto& worker : workers_) {
      if (worker->wires() == wires) return worker.get();
    }
    return nullptr;
  }

 private:
  struct SendOp {
    std::shared_ptr<Channel> channel;
    EncodedFrame frame;
    std::vector<std::byte> message_header;
    int num_pending = 0;  ///< active messages of it that UCX still reads from
    ucs_status_t status = UCS_OK;
    Driver* driver = nullptr;
    std::list<SendOp>::iterator self;
  };
  // A message that is not handed on yet: its data is on the way, or that of one before it is. UCX
  // starts messages in order but completes large ones later than small ones behind them.
  struct Arrival {
    Driver* driver = nullptr;
    uint64_t source = 0;
    unsigned id = kFrameMessage;
    size_t header_bytes = 0;          ///< how much of `message` came in the message's header
    std::shared_ptr<Buffer> message;  ///< nullptr: it failed on the way
    bool complete = false;
  };

  template <unsigned id>
  static ucs_status_t on_message(void* argument, const void* header, size_t header_length,
                                 void* data, size_t length, const ucp_am_recv_param_t* param);
  static ucs_status_t on_goodbye(void* argument, const void* header, size_t header_length,
                                 void* data, size_t length, const ucp_am_recv_param_t* param);
  static void on_received(void* request, ucs_status_t status, size_t length, void* argument);
  static void on_sent(void* request, ucs_status_t status, void* argument);
  static void on_endpoint_error(void* argument, ucp_ep_h endpoint, ucs_status_t status);

  bool take_commands();
  bool progress();
  bool settle_losses();
  void sleep();
  void shut_down();

  void open_channel(const std::shared_ptr<Channel>& channel, const std::vector<std::byte>& address);
  void send(const std::shared_ptr<Channel>& channel, EncodedFrame frame);
  void post(std::list<SendOp>::iterator op, unsigned id, size_t header_bytes, Bytes data);
  void finish_send(std::list<SendOp>::iterator op);
  void say_goodbye(const Channel& channel);
  void forget(const std::shared_ptr<Channel>& channel);
  void lose(Channel* lost, Error reason);

  void receive_rendezvous(ucp_worker_h worker, Arrival arrival, void* descriptor, std::byte* into,
                          size_t length);
  void hand_on(Arrival arrival);
  void accept(Result<Frame> frame, size_t size_bytes);
  void reject(const Error& error);

  const PortOptions& options_;
  const UcxOptions& ucx_;
  CommandQueue& commands_;
  PortCounters& counters_;
  const Goodbye goodbye_;  // a member: UCX may read it after say_goodbye() returned
  std::vector<std::unique_ptr<UcxWorker>> workers_;
  struct Receiver {  // what UCX's callbacks get as their argument
    Driver* driver;
    ucp_worker_h worker;
  };
  std::list<Receiver> receivers_;
  int epoll_fd_ = -1;
  bool stopping_ = false;
  int fruitless_rounds_ = 0;
  int64_t last_work_ns_ = 0;

  std::vector<Command> batch_;
  std::map<Channel*, std::shared_ptr<Channel>> channels_;  // those not closed or lost
  std::map<NodeId, Channel*> by_peer_;                     // the latest of each peer
  struct Loss {
    Channel* channel;
    Error reason;
  };
  std::vector<Loss> losses_;
  std::list<SendOp> sends_;
  std::map<uint64_t, std::list<Arrival>> arrivals_;           // by source; only non-empty lists
  std::map<uint64_t, std::shared_ptr<Buffer>> lone_headers_;  // by source
};

Error lost_peer(ucs_status_t status) {
  return Error{Code::kUnavailable, std::string("UCX lost the peer: ") + ucs_status_string(status)};
}

int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Result<void> Driver::open() {
  if (ucx_.wires != UcxWires::kNet) {
    auto shm = UcxWorker::open(UcxWorker::Wires::kShm);
    if (shm.ok()) {
      workers_.push_back(std::move(shm).value());
    } else if (ucx_.wires == UcxWires::kShm || shm.error().code != Code::kUnsupported) {
      return std::move(shm).error();
    } else {
      log::info("shared_memory_unavailable", {{"reason", shm.error().message}});
    }
  }
  if (ucx_.wires != UcxWires::kShm) {
    workers_.push_back(TRY(UcxWorker::open(UcxWorker::Wires::kNet)));
  }
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) {
    return Error{Code::kInternal, std::string("epoll_create1 failed: ") + std::strerror(errno)};
  }
  const auto watch = [&](int fd) -> Result<void> {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0) return {};
    return Error{Code::kInternal, std::string("epoll_ctl failed: ") + std::strerror(errno)};
  };
  TRY(watch(commands_.event_fd()));
  for (const auto& worker : workers_) {
    receivers_.push_back({this, worker->handle()});
    TRY(worker->on_message(kFrameMessage, &on_message<kFrameMessage>, &receivers_.back()));
    TRY(worker->on_message(kHeaderMessage, &on_message<kHeaderMessage>, &receivers_.back()));
    TRY(worker->on_message(kGoodbyeMessage, &Driver::on_goodbye, &receivers_.back()));
    TRY(watch(worker->event_fd()));
  }
  return {};
}

void Driver::run() {
  while (!stopping_) {
    bool worked = take_commands();
    worked |= progress();
    worked |= settle_losses();
    if (worked) {
      fruitless_rounds_ = 0;
      if (ucx_.spin_ns > 0) last_work_ns_ = monotonic_ns();
    } else if (ucx_.spin_ns == 0 || monotonic_ns() - last_work_ns_ >= ucx_.spin_ns) {
      sleep();
    }
  }
  shut_down();
}

bool Driver::take_commands() {
  batch_.clear();
  stopping_ = !commands_.take(batch_);
  for (Command& command : batch_) {
    switch (command.kind) {
      case Command::Kind::kOpen:
        open_channel(command.channel, command.address);
        break;
      case Command::Kind::kSend:
        send(command.channel, std::move(command.frame));
        break;
      case Command::Kind::kClose:
        say_goodbye(*command.channel);
        forget(command.channel);
        break;
    }
  }
  return !batch_.empty();
}

bool Driver::progress() {
  bool worked = false;
  for (const auto& worker : workers_) {
    for (int i = 0; i < kProgressBurst && ucp_worker_progress(worker->handle()) != 0; ++i) {
      worked = true;
    }
  }
  return worked;
}

void Driver::sleep() {
  bool can_sleep = true;
  for (const auto& worker : workers_) {
    can_sleep &= ucp_worker_arm(worker->handle()) == UCS_OK;
  }
  if (!can_sleep && ++fruitless_rounds_ < kFruitlessRounds) return;
  if (!commands_.announce_sleep()) return;
  epoll_event events[4];
  epoll_wait(epoll_fd_, events, 4, can_sleep ? -1 : kStuckPollMs);
  commands_.woke();
}

void Driver::open_channel(const std::shared_ptr<Channel>& channel,
                          const std::vector<std::byte>& address) {
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                      UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler = {.cb = &Driver::on_endpoint_error, .arg = channel.get()};
  channel->driver = this;
  channels_[channel.get()] = channel;
  by_peer_[channel->peer] = channel.get();
  const ucs_status_t status = ucp_ep_create(channel->worker->handle(), &params, &channel->endpoint);
  if (status != UCS_OK) {
    channel->endpoint = nullptr;
    losses_.push_back({channel.get(), ucx_error("ucp_ep_create", status)});
  }
}

void Driver::send(const std::shared_ptr<Channel>& channel, EncodedFrame frame) {
  if (channel->endpoint == nullptr) {  // closed or lost after the frame was queued
    channel->queued_bytes -= frame.size_bytes();
    return;
  }
  sends_.push_front(SendOp{.channel = channel, .frame = std::move(frame), .driver = this});
  const auto op = sends_.begin();
  op->self = op;

  EncodedFrame& sending = op->frame;
  std::vector<std::byte>& message_header = op->message_header;
  message_header.resize(sizeof(uint64_t));
  std::memcpy(message_header.data(), &options_.self.value, sizeof(uint64_t));
  if (sending.header.size() > kMaxInlineHeader) {
    post(op, kHeaderMessage, sizeof(uint64_t), {sending.header.data(), sending.header.size()});
  } else {
    message_header.insert(message_header.end(), sending.header.begin(), sending.header.end());
  }
  const Bytes payload =
      sending.payload ? Bytes(sending.payload->data(), sending.payload->size()) : Bytes();
  post(op, kFrameMessage, message_header.size(), payload);
  if (op->num_pending == 0) finish_send(op);
}

void Driver::post(std::list<SendOp>::iterator op, unsigned id, size_t header_bytes, Bytes data) {
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  params.cb.send = &Driver::on_sent;
  params.user_data = &*op;
  ucs_status_ptr_t request = ucp_am_send_nbx(op->channel->endpoint, id, op->message_header.data(),
                                             header_bytes, data.data(), data.size(), &params);
  if (UCS_PTR_IS_ERR(request)) {
    op->status = UCS_PTR_STATUS(request);
  } else if (request != nullptr) {
    ++op->num_pending;
  }
}

void Driver::on_sent(void* request, ucs_status_t status, void* argument) {
  auto* op = static_cast<SendOp*>(argument);
  ucp_request_free(request);
  if (status != UCS_OK) op->status = status;
  if (--op->num_pending == 0) op->driver->finish_send(op->self);
}

void Driver::finish_send(std::list<SendOp>::iterator op) {
  Channel& channel = *op->channel;
  const size_t size = op->frame.size_bytes();
  channel.queued_bytes -= size;
  if (op->status == UCS_OK) {
    ++channel.frames_sent;
    channel.bytes_sent += size;
  } else if (channel.endpoint != nullptr) {
    losses_.push_back({&channel, lost_peer(op->status)});
  }
  sends_.erase(op);
}

void Driver::say_goodbye(const Channel& channel) {
  if (channel.endpoint == nullptr || channel.worker->wires() != UcxWorker::Wires::kShm) return;
  ucp_request_param_t params{};
  params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  params.flags = UCP_AM_SEND_FLAG_EAGER;
  ucs_status_ptr_t request = ucp_am_send_nbx(channel.endpoint, kGoodbyeMessage, &goodbye_,
                                             sizeof(goodbye_), nullptr, 0, &params);
  // A peer whose queue is full does not get it, and does not need it.
  if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);
}

void Driver::forget(const std::shared_ptr<Channel>& channel) {
  if (channel->endpoint != nullptr) {
    ucp_request_param_t params{};
    params.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
    params.flags = UCP_EP_CLOSE_FLAG_FORCE;
    ucs_status_ptr_t request = ucp_ep_close_nbx(std::exchange(channel->endpoint, nullptr), &params);
    if (UCS_PTR_IS_PTR(request)) ucp_request_free(request);  // freed when it completes
  }
  std::erase_if(losses_, [&](const Loss& loss) { return loss.channel == channel.get(); });
  const auto latest = by_peer_.find(channel->peer);
  if (latest != by_peer_.end() && latest->second == channel.get()) by_peer_.erase(latest);
  channels_.erase(channel.get());
}

void Driver::on_endpoint_error(void* argument, ucp_ep_h, ucs_status_t status) {
  auto* channel = static_cast<Channel*>(argument);
  channel->driver->losses_.push_back({channel, lost_peer(status)});
}

bool Driver::settle_losses() {
  if (losses_.empty()) return false;
  while (!losses_.empty()) {
    const Loss loss = losses_.front();
    lose(loss.channel, loss.reason);
  }
  return true;
}

void Driver::lose(Channel* lost, Error reason) {
  const auto found = channels_.find(lost);
  CHECK(found != channels_.end());
  const std::shared_ptr<Channel> channel = found->second;
  LinkState open = LinkState::kOpen;
  const bool was_open = channel->state.compare_exchange_strong(open, LinkState::kLost);
  forget(channel);
  if (!was_open) return;  // its user has closed it already
  log::info("link_lost", {{"peer", channel->peer}, {"reason", reason.message}});
  if (options_.on_link_down) options_.on_link_down(channel->peer, std::move(reason));
}

template <unsigned id>
ucs_status_t Driver::on_message(void* argument, const void* header, size_t header_length,
                                void* data, size_t length, const ucp_am_recv_param_t* param) {
  const auto& [driver, worker] = *static_cast<Receiver*>(argument);
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
    driver->receive_rendezvous(worker, std::move(arrival), data, rest, length);
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

void Driver::receive_rendezvous(ucp_worker_h worker, Arrival arrival, void* descriptor,
                                std::byte* into, size_t length) {
  Arrival& waiting = arrivals_[arrival.source].emplace_back(std::move(arrival));
  ucp_request_param_t params{};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  params.cb.recv_am = &Driver::on_received;
  params.user_data = &waiting;
  ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker, descriptor, into, length, &params);
  if (!UCS_PTR_IS_PTR(request)) {  // with NO_IMM_CMPL that is an error
    on_received(nullptr, UCS_PTR_STATUS(request), 0, &waiting);
  }
}

void Driver::on_received(void* request, ucs_status_t status, size_t, void* argument) {
  auto* arrival = static_cast<Arrival*>(argument);
  Driver* driver = arrival->driver;
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

void Driver::hand_on(Arrival arrival) {
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

void Driver::accept(Result<Frame> frame, size_t size_bytes) {
  if (!frame.ok()) return reject(frame.error());
  const FrameHeader& header = frame.value().header;
  const auto found = by_peer_.find(header.source);
  if (header.cluster != options_.cluster) {
    if (found != by_peer_.end()) ++found->second->frames_rejected;
    return reject(Error{Code::kInvalidArgument, "the frame is of another cluster"});
  }
  ++counters_.frames_received;
  counters_.bytes_received += size_bytes;
  if (found != by_peer_.end()) {
    ++found->second->frames_received;
    found->second->bytes_received += size_bytes;
  }
  options_.on_frame(std::move(frame).value());
}

void Driver::reject(const Error& error) {
  // A peer may send these as fast as it likes: the first few are told, the rest counted.
  constexpr uint64_t kTold = 10;
  if (++counters_.frames_rejected <= kTold) {
    log::warning("frame_rejected", {{"reason", error.message}});
  }
}

ucs_status_t Driver::on_goodbye(void* argument, const void* header, size_t header_length, void*,
                                size_t, const ucp_am_recv_param_t*) {
  Driver* driver = static_cast<Receiver*>(argument)->driver;
  Goodbye goodbye{};
  if (header_length != sizeof(goodbye)) {
    driver->reject(Error{Code::kCorrupt, "a goodbye of the wrong length"});
    return UCS_OK;
  }
  std::memcpy(&goodbye, header, sizeof(goodbye));
  const auto found = driver->by_peer_.find(NodeId{goodbye.source});
  if (goodbye.cluster == driver->options_.cluster && found != driver->by_peer_.end()) {
    driver->losses_.push_back(
        {found->second, Error{Code::kUnavailable, "the peer closed the link"}});
  }
  return UCS_OK;
}

void Driver::shut_down() {
  while (!channels_.empty()) {
    const std::shared_ptr<Channel> channel = channels_.begin()->second;
    channel->state = LinkState::kClosed;
    say_goodbye(*channel);
    forget(channel);
  }
  // Forced closes end the pending sends at once; a bounded number of rounds lets UCX say so. What
  // it has not said by then ends with the workers.
  for (int round = 0; round < 1000 && progress(); ++round) {
  }
  losses_.clear();
  workers_.clear();
  sends_.clear();
  arrivals_.clear();
  lone_headers_.clear();
}

class UcxLink final : public Link {
 public:
  UcxLink(std::shared_ptr<Channel> channel, std::shared_ptr<CommandQueue> commands, NodeId self,
          uint64_t cluster)
      : channel_(std::move(channel)),
        commands_(std::move(commands)),
        self_(self),
        cluster_(cluster),
        transport_(channel_->worker->transport_name()) {}
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
    if (!commands_->push({Command::Kind::kSend, channel_, std::move(frame)})) {
      channel_->queued_bytes -= size;
      return gone();
    }
    return {};
  }

  void close() override { close_channel(); }

  [[nodiscard]] bool open() const { return channel_->state == LinkState::kOpen; }

  [[nodiscard]] LinkStats stats() const override {
    return {.peer = channel_->peer,
            .transport = transport_,
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
      commands_->push({Command::Kind::kClose, channel_});
    }
  }

  const std::shared_ptr<Channel> channel_;
  const std::shared_ptr<CommandQueue> commands_;
  const NodeId self_;
  const uint64_t cluster_;
  const std::string transport_;
};

class UcxPort final : public Port {
 public:
  UcxPort(PortOptions options, UcxOptions ucx)
      : options_(std::move(options)),
        ucx_(ucx),
        commands_(std::make_shared<CommandQueue>()),
        driver_(options_, ucx_, *commands_, counters_) {}

  ~UcxPort() override {
    commands_->shut();
    if (thread_.joinable()) thread_.join();
  }

  Result<void> open() {
    TRY(driver_.open());
    PortAddress address{.host = this_host()};
    if (const auto* worker = driver_.worker(UcxWorker::Wires::kNet)) {
      address.net_worker = worker->address();
    }
    if (const auto* worker = driver_.worker(UcxWorker::Wires::kShm)) {
      address.shm_worker = worker->address();
    }
    address_ = to_text(address);
    thread_ = std::thread([this] { driver_.run(); });
    return {};
  }

  [[nodiscard]] std::string address() const override { return address_; }

  Result<std::shared_ptr<Link>> connect(NodeId peer, const std::string& text) override {
    const PortAddress address = TRY(parse_port_address(text));
    const std::lock_guard lock(mutex_);
    if (auto link = links_[peer].lock(); link && link->open()) return std::shared_ptr<Link>(link);

    auto channel = std::make_shared<Channel>(peer, options_.max_queued_bytes);
    UcxWorker* shm = driver_.worker(UcxWorker::Wires::kShm);
    UcxWorker* net = driver_.worker(UcxWorker::Wires::kNet);
    // Both sides decide alike: from what both offer and whether they share a host.
    const bool by_shm =
        shm != nullptr && !address.shm_worker.empty() && address.host == this_host();
    if (!by_shm && (net == nullptr || address.net_worker.empty())) {
      return Error{Code::kUnsupported,
                   "no wire leads to node " + std::to_string(peer.value) +
                       ": shared memory needs one host and both ends willing, the network both "
                       "ends willing; see the option for UCX wires of both nodes"};
    }
    channel->worker = by_shm ? shm : net;
    auto link = std::make_shared<UcxLink>(channel, commands_, options_.self, options_.cluster);
    commands_->push({.kind = Command::Kind::kOpen,
                     .channel = std::move(channel),
                     .address = by_shm ? address.shm_worker : address.net_worker});
    links_[peer] = link;
    std::erase_if(links_, [](const auto& entry) { return entry.second.expired(); });
    return std::shared_ptr<Link>(std::move(link));
  }

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
  Driver driver_;
  std::string address_;
  std::mutex mutex_;
  std::map<NodeId, std::weak_ptr<UcxLink>> links_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Port>> open_ucx_port(PortOptions options, UcxOptions ucx) {
  auto port = std::make_unique<UcxPort>(std::move(options), ucx);
  auto opened = port->open();
  if (!opened.ok()) return std::move(opened).error().with_context("opening a UCX port");
  return std::unique_ptr<Port>(std::move(port));
}

}  // namespace troupe::transport
