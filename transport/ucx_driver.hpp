#pragma once

// The thread that owns a UCX port's workers. Everybody else hands it commands and wakes it by an
// eventfd; it sleeps in epoll on that and on UCX's own descriptors, so an idle port costs nothing.
// Waking a thread costs more than most of what it does here. So whoever sends a frame while it
// sleeps does its work for a turn instead: one of them at a time has the turn. And a thread that
// waits for frames anyway may sleep in its place (ucx_watch.hpp), called the driver, too, below.
// Where the driver spins before it sleeps, a sender's turn ends with waking it, to spin for the
// answer.
//
// There is no UCX listener (64 bytes of garbage abort it): worker addresses travel over the control
// plane. A wire to a peer is an endpoint of the network worker, which also tells when the peer is
// gone, and for shared memory a worker and endpoint of its own beside it, whose address goes to the
// peer in a hello. It is of its own because a process killed while it writes into a shared receive
// queue jams that queue for good (measured: once in about 50 kills during a flood); so it is jammed
// for nobody else, and the wire's end frees it with all that is in it.
//
// A frame is one active message: its header is the sender's node id and the frame's header, its
// data the payload, one contiguous piece that UCX can move without a copy (an iov made it ten times
// slower: it never goes by CMA). A frame's header that is too long for that goes ahead as a message
// of its own.

#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "transport/port_address.hpp"
#include "transport/ports.hpp"
#include "transport/ucx_watch.hpp"
#include "transport/ucx_worker.hpp"

namespace troupe::transport {

enum class LinkState : uint8_t { kOpen, kClosed, kLost };

/// What a link and the driver share.
struct Channel {
  Channel(NodeId peer_in, size_t max_queued_in, bool by_shm_in)
      : peer(peer_in), max_queued(max_queued_in), by_shm(by_shm_in) {}

  const NodeId peer;
  const size_t max_queued;
  const bool by_shm;
  std::atomic<LinkState> state{LinkState::kOpen};
  std::atomic<size_t> queued_bytes{0};
  std::atomic<uint64_t> frames_sent{0}, bytes_sent{0};
  std::atomic<uint64_t> frames_received{0}, bytes_received{0}, frames_rejected{0};
};

struct UcxCommand {
  enum class Kind : uint8_t { kOpen, kSend, kClose } kind;
  std::shared_ptr<Channel> channel;
  EncodedFrame frame = {};   ///< kSend
  PortAddress address = {};  ///< kOpen
};

/// The way from any thread to the driver. Outlives the port: links keep it.
class CommandQueue {
 public:
  /// Who sleeps on behalf of the driver.
  [[nodiscard]] UcxWatch& watch() { return watch_; }
  /// Has the command carried out; kSend by this thread if nobody has the turn. False after shut().
  bool push(UcxCommand command);
  void shut();

  /// For whoever has the turn: moves what is queued to `out`; false once shut.
  bool take(std::vector<UcxCommand>& out);
  /// Before the turn is given up: true if nothing is queued, and then the next push() takes it.
  bool announce_sleep();
  void woke();  ///< with the turn
  /// The turn: whoever holds it may use the driver. The driver's thread gives it up to sleep, and
  /// for good when shut.
  [[nodiscard]] std::mutex& turn() { return turn_; }
  /// What push() does with a turn. Before the first push().
  void lend_to_senders(std::function<void()> take_turn) { take_turn_ = std::move(take_turn); }

 private:
  UcxWatch watch_;
  std::function<void()> take_turn_;
  std::mutex turn_;
  std::mutex mutex_;  // taken with or without the turn; never held while the turn is waited for
  std::vector<UcxCommand> commands_;
  bool asleep_ = false;  // nobody has the turn, or the driver has it and is about to give it up
  bool shut_ = false;
};

struct PortCounters {
  std::atomic<uint64_t> frames_received{0}, bytes_received{0}, frames_rejected{0};
};

class UcxDriver {
 public:
  /// All references outlive the driver.
  UcxDriver(const PortOptions& options, const UcxOptions& ucx, CommandQueue& commands,
            PortCounters& counters)
      : options_(options), ucx_(ucx), commands_(commands), counters_(counters) {
    commands_.lend_to_senders([this] { take_turn(); });
  }
  ~UcxDriver();

  /// Before run(): opens what the options ask for.
  Result<void> open();
  /// What this port offers to peers. REQUIRES: open() succeeded.
  [[nodiscard]] PortAddress address() const;
  /// The thread's body; returns after shut() of the command queue.
  void run();
  /// Port::drive().
  void run_as_guest(const std::function<bool()>& done);

 private:
  /// A worker and whether it is armed, that is, has nothing to do until its descriptor says so.
  struct Seat {
    UcxDriver* driver = nullptr;
    std::unique_ptr<UcxWorker> worker;
    bool armed = false;
  };
  /// The way to one peer. It exists because we opened a link or because the peer said hello.
  struct Wire {
    UcxDriver* driver = nullptr;
    NodeId peer;
    bool by_shm = false;
    std::shared_ptr<Channel> channel;  ///< of our link; nullptr: only the peer has opened one
    ucp_ep_h net_endpoint = nullptr;
    Seat shm;                          ///< by_shm
    ucp_ep_h shm_endpoint = nullptr;   ///< by_shm, once the peer's hello has come
    std::deque<EncodedFrame> waiting;  ///< for the hello
  };
  struct SendOp {
    Wire* wire = nullptr;  ///< nullptr: the wire has gone
    std::shared_ptr<Channel> channel;
    EncodedFrame frame;
    std::vector<std::byte> message_header;
    int num_pending = 0;  ///< active messages of it that UCX still reads from
    ucs_status_t status = UCS_OK;
    UcxDriver* driver = nullptr;
    std::list<SendOp>::iterator self;
  };
  /// A message that is not handed on yet: its data is on the way, or that of one before it is. UCX
  /// starts messages in order but completes large ones later than small ones behind them.
  struct Arrival {
    UcxDriver* driver = nullptr;
    uint64_t source = 0;
    unsigned id = 0;
    size_t header_bytes = 0;          ///< how much of `message` came in the message's header
    std::shared_ptr<Buffer> message;  ///< nullptr: it failed on the way
    bool complete = false;
  };
  struct Loss {
    Wire* wire;
    Error reason;
  };
  struct Hello {
    NodeId source;
    std::string address;
  };

  template <unsigned id>
  static ucs_status_t on_message(void* argument, const void* header, size_t header_length,
                                 void* data, size_t length, const ucp_am_recv_param_t* param);
  static ucs_status_t on_hello(void* argument, const void* header, size_t header_length, void* data,
                               size_t length, const ucp_am_recv_param_t* param);
  static void on_received(void* request, ucs_status_t status, size_t length, void* argument);
  static void on_sent(void* request, ucs_status_t status, void* argument);
  static void on_endpoint_error(void* argument, ucp_ep_h endpoint, ucs_status_t status);

  /// One look at everything there is to do; false if there was nothing.
  bool round();
  bool take_commands();
  bool progress();
  bool settle();
  /// There was work so short a time ago that more may come at once.
  [[nodiscard]] bool is_to_spin() const;
  /// True if every worker will tell by its descriptor when there is something to do.
  bool arm();
  void sleep(std::unique_lock<std::mutex>& turn);
  void leave_watch(std::unique_lock<std::mutex>& turn);
  /// What is on the way goes on only if somebody looks after it.
  [[nodiscard]] bool is_unfinished() const;
  void take_turn();
  void shut_down();

  Result<void> seat(Seat& seat, const std::shared_ptr<UcxContext>& context);
  void unseat(Seat& seat);

  void open_channel(const std::shared_ptr<Channel>& channel, const PortAddress& address);
  void close_channel(const Channel& channel);
  Wire* find_wire(NodeId peer);
  Wire& add_wire(NodeId peer, bool by_shm, const PortAddress& address);
  Result<void> say_hello(Wire& wire);
  void answer(const Hello& hello);
  void lose(Wire& wire, Error reason);
  void drop(Wire& wire);

  void send(const std::shared_ptr<Channel>& channel, EncodedFrame frame);
  void send_on(Wire& wire, EncodedFrame frame);
  void post(std::list<SendOp>::iterator op, unsigned id, size_t header_bytes, Bytes data);
  void finish_send(std::list<SendOp>::iterator op);

  void receive_rendezvous(ucp_worker_h worker, Arrival arrival, void* descriptor, std::byte* into,
                          size_t length);
  void hand_on(Arrival arrival);
  void accept(Result<Frame> frame, size_t size_bytes);
  void reject(const Error& error);

  const PortOptions& options_;
  const UcxOptions& ucx_;
  CommandQueue& commands_;
  PortCounters& counters_;
  std::shared_ptr<UcxContext> shm_context_;  // nullptr: no shared memory
  int epoll_fd_ = -1;
  Seat net_;
  std::vector<Seat*> seats_;  // net_ and those of the wires
  bool stopping_ = false;
  int fruitless_rounds_ = 0;  // by whoever had the turn, since there was work
  int64_t last_work_ns_ = 0;  // likewise; only where it spins

  std::vector<UcxCommand> batch_;
  std::map<NodeId, std::unique_ptr<Wire>> wires_;
  std::vector<Loss> losses_;   // told by callbacks, settled outside of them
  std::vector<Hello> hellos_;  // likewise
  std::list<SendOp> sends_;
  std::map<uint64_t, std::list<Arrival>> arrivals_;           // by source; only non-empty lists
  std::map<uint64_t, std::shared_ptr<Buffer>> lone_headers_;  // by source
};

}  // namespace troupe::transport
