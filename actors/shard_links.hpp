#pragma once

// A router's links to the expert shards of its epoch: what may lie at each (credits), and whether
// each is alive. Nobody else notices a cut between a router and a shard that both still hear the
// head.

#include <caf/all.hpp>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "actors/messages.hpp"
#include "actors/services.hpp"
#include "cluster/failure_detector.hpp"
#include "transport/credit.hpp"

namespace troupe::actors {

struct ShardLinkOptions {
  /// Shards are asked for a sign of life so often, and one that gives none for so long has failed.
  Duration heartbeat_interval = milliseconds(200);
  Duration heartbeat_timeout = milliseconds(1500);
};

class ShardLinks {
 public:
  using FailureHandler = std::function<void(NodeId shard, Error reason)>;
  /// @param self the router's actor; it gets the Beat messages. @param on_failed runs in it
  ShardLinks(caf::event_based_actor* self, const WorkerServices* services, ShardLinkOptions options,
             FailureHandler on_failed);

  /// Links all of them, with so much credit each; false: one could not be linked and has failed.
  [[nodiscard]] bool open(const std::vector<Peer>& shards, transport::Credit credit);
  void close();
  /// From now on signs of life are of this epoch.
  void use(Epoch epoch);

  [[nodiscard]] bool contains(NodeId shard) const { return links_.contains(shard); }
  /// Where it cannot be sent, the shard has failed.
  void send(NodeId shard, const transport::Frame& frame);
  void fail(NodeId shard, Error reason) { on_failed_(shard, std::move(reason)); }
  [[nodiscard]] transport::CreditLedger& credits() { return credits_; }

  /// Something of this epoch came. @returns true once, when all shards have been heard: no epoch
  /// serves over links that do not carry both ways.
  [[nodiscard]] bool heard(const transport::FrameHeader& header);
  void beat(const Beat& msg);

  [[nodiscard]] std::vector<transport::LinkStats> stats() const;

 private:
  void ping(transport::Link& link);

  caf::event_based_actor* self_;
  const WorkerServices* services_;
  ShardLinkOptions options_;
  FailureHandler on_failed_;
  Epoch epoch_;
  std::map<NodeId, std::shared_ptr<transport::Link>> links_;
  cluster::FailureDetector detector_;
  transport::CreditLedger credits_;
};

}  // namespace troupe::actors
