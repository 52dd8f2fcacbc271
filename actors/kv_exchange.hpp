#pragma once

// A router's shell over kvcache::Transfers: brings its questions and blocks over links to other
// routers, and its copies to the executor. Links to routers are opened when first needed.

#include <caf/all.hpp>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "actors/messages.hpp"
#include "actors/router_engine.hpp"
#include "actors/services.hpp"
#include "kvcache/transfers.hpp"

namespace troupe::actors {

class KvExchange {
 public:
  using FetchHandler = std::function<void(RequestId request, uint32_t attempt)>;
  /// @param self the router's actor; the rest outlives it. Both handlers run in it.
  /// @param step_is_out a step is computed or under way: what is asked for may be read at once, but
  ///        further parts wait for its end, or a tick
  KvExchange(caf::event_based_actor* self, const WorkerServices* services,
             std::shared_ptr<RouterEngine> engine, caf::actor kv_holder,
             kvcache::TransferOptions options, FetchHandler on_fetch_ended,
             std::function<bool()> step_is_out);

  /// An epoch was formed with these routers; frames of older ones are stale. Transfers keep its
  /// number when the experts' placement changes: they need no experts.
  void join_epoch(Epoch epoch, const std::vector<Peer>& routers);
  void end_epoch();

  /// There is such a router, and it is not this one.
  [[nodiscard]] bool knows(NodeId router) const { return peers_.contains(router); }
  void fetch(RequestId request, uint32_t attempt, NodeId from, const std::string& cache_namespace,
             const std::vector<TokenId>& tokens);
  void abandon(RequestId request, uint32_t attempt);

  /// Takes frames of transfers of the epoch joined; false: it is none.
  bool frame(const transport::Frame& frame);
  void granted(const kvcache::Granted& granted);
  void refused(RequestId guest);
  void link_down(NodeId router);
  void patience_tick();
  /// A step has ended.
  void read_turn();

  [[nodiscard]] uint64_t fetched_blocks() const { return core_.fetched_blocks(); }
  /// "" or what is wrong with its transfers.
  [[nodiscard]] std::string check() const { return core_.check(); }

 private:
  void handle(const kvcache::TransferEvent& event);
  void perform(const kvcache::TellHolder& e);
  void perform(const kvcache::AskRouter& e);
  void perform(const kvcache::WriteBlock& e);
  void perform(const kvcache::FetchEnded& e);
  void perform(const kvcache::ReadBlocks& e);
  void perform(const kvcache::SendNothing& e);
  [[nodiscard]] transport::FrameHeader header(transport::FrameKind kind,
                                              const kvcache::TransferKey& key, uint32_t block,
                                              uint32_t count) const;
  /// Where it cannot be sent, the other side's patience ends the transfer.
  void send(NodeId router, transport::Frame frame);

  caf::event_based_actor* self_;
  const WorkerServices* services_;
  std::shared_ptr<RouterEngine> engine_;
  caf::actor kv_holder_;
  FetchHandler on_fetch_ended_;
  std::function<bool()> step_is_out_;
  kvcache::Transfers core_;
  Epoch epoch_;
  std::map<NodeId, Peer> peers_;
  std::map<NodeId, std::shared_ptr<transport::Link>> links_;
  std::shared_ptr<const transport::Buffer> arrived_;  ///< the data of the BlockArrived at hand
  bool ticking_ = false;
};

/// The payload of a kKvWanted frame: the tokens' number (4 bytes), the tokens (4 bytes each), the
/// namespace.
std::shared_ptr<const transport::Buffer> encode_prefix(const std::string& cache_namespace,
                                                       const std::vector<TokenId>& tokens);
struct DecodedPrefix {
  std::string cache_namespace;
  std::vector<TokenId> tokens;
};
/// @errors kCorrupt for bytes that encode_prefix does not make
Result<DecodedPrefix> decode_prefix(const std::shared_ptr<const transport::Buffer>& payload);

}  // namespace troupe::actors
