#include "actors/shard_links.hpp"

#include <chrono>
#include <string>
#include <utility>

#include "actors/instant.hpp"
#include "base/check.hpp"

namespace troupe::actors {

ShardLinks::ShardLinks(caf::event_based_actor* self, const WorkerServices* services,
                       ShardLinkOptions options, FailureHandler on_failed)
    : self_(self),
      services_(services),
      options_(options),
      on_failed_(std::move(on_failed)),
      detector_(options.heartbeat_timeout) {}

bool ShardLinks::open(const std::vector<Peer>& shards, transport::Credit credit) {
  for (const Peer& shard : shards) {
    auto link = services_->port->connect(shard.id, shard.link_address);
    if (!link.ok()) {
      fail(shard.id, Error{link.error()}.with_context("linking " + shard.name));
      return false;
    }
    links_[shard.id] = std::move(*link);
    credits_.grant(shard.id, credit);
    detector_.watch(shard.id, now(self_));
  }
  return true;
}

void ShardLinks::close() {
  for (auto& [shard, link] : links_) {
    link->close();
    credits_.forget(shard);
  }
  links_.clear();
  detector_.clear();
}

void ShardLinks::use(Epoch epoch) {
  epoch_ = epoch;
  beat({epoch});
}

void ShardLinks::send(NodeId shard, const transport::Frame& frame) {
  const auto link = links_.find(shard);
  CHECK(link != links_.end());
  if (const auto sent = link->second->send(frame); !sent.ok()) {
    fail(shard, Error{sent.error()}.with_context("sending a dispatch"));
  }
}

bool ShardLinks::heard(const transport::FrameHeader& header) {
  const auto link = links_.find(header.source);
  if (link == links_.end()) return false;
  if (header.kind == transport::FrameKind::kPing) {
    ping(*link->second);
    return false;
  }
  const bool all_before = detector_.all_heard();
  detector_.heard(header.source, now(self_));
  return !all_before && detector_.all_heard();
}

void ShardLinks::beat(const Beat& msg) {
  if (msg.epoch != epoch_ || links_.empty()) return;
  for (const NodeId shard : detector_.take_silent(now(self_))) {
    const int64_t silence_ms = options_.heartbeat_timeout.ns / milliseconds(1).ns;
    fail(shard, {Code::kUnavailable,
                 "no sign of life on its link for " + std::to_string(silence_ms) +
                     " ms: it is stopped or cut off, or its UCX port is closed to us"});
  }
  for (const auto& [shard, link] : links_) ping(*link);
  self_->delayed_send(self_, std::chrono::nanoseconds(options_.heartbeat_interval.ns), msg);
}

void ShardLinks::ping(transport::Link& link) {
  // Where it cannot be sent, silence will tell.
  (void)link.send({.header = {.kind = transport::FrameKind::kPing, .epoch = epoch_}});
}

std::vector<transport::LinkStats> ShardLinks::stats() const {
  std::vector<transport::LinkStats> stats;
  stats.reserve(links_.size());
  for (const auto& [shard, link] : links_) stats.push_back(link->stats());
  return stats;
}

}  // namespace troupe::actors
