#pragma once

// The head's view of its nodes: who may join, when the cluster is complete, which placement epoch
// is in force, and what the loss of a node means. Pure.
//
// Life of an epoch: all nodes that the configuration names have joined (or the wait is over and
// those present suffice) -> Form{epoch} to every node -> each answers NodeReady or NodeFailed ->
// when all are ready, serving starts. A lost node ends the epoch: serving stops, and a new epoch is
// formed from those that remain, if one router and one shard are left. A node that joins a serving
// cluster is taken in with the next epoch, which starts when no request is running.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/time.hpp"

namespace troupe::cluster {

enum class Role : uint8_t { kRouter, kExperts };

/// What a node says of itself when it joins.
struct NodeInfo {
  NodeId id;
  std::string name;                ///< from the configuration, unique among live nodes
  Role role = Role::kExperts;
  std::string version;             ///< must equal the head's
  uint64_t checkpoint_digest = 0;  ///< must equal the head's
  std::string arithmetic_class;    ///< must equal the first node's
  std::string link_address;        ///< of its transport port
  std::string host;                ///< for people
  uint64_t pid = 0;
};

struct MembershipOptions {
  std::string version;
  uint64_t checkpoint_digest = 0;
  std::vector<std::pair<std::string, Role>> expected;  ///< names and roles of the configuration
  Duration assemble_timeout = seconds(30);  ///< then go on with those present, if they suffice
  Duration ready_timeout = seconds(120);    ///< a node that is not ready by then is dropped
};

// --- events -----------------------------------------------------------------------------------
struct NodeJoining {
  NodeInfo info;
};
struct NodeLost {
  NodeId node;
  std::string reason;
};
struct NodeReady {
  NodeId node;
  Epoch epoch;
};
struct NodeFailed {
  NodeId node;
  Epoch epoch;
  Error error;
};
struct RequestsRunning {
  uint64_t count = 0;
};
struct Tick {};
using MembershipEvent =
    std::variant<NodeJoining, NodeLost, NodeReady, NodeFailed, RequestsRunning, Tick>;

// --- effects ----------------------------------------------------------------------------------
struct AcceptNode {
  NodeId node;
};
struct RejectNode {
  NodeId node;
  Error error;
};
/// Form this epoch: routers and shards in configuration order (unknown names last, by join).
struct FormEpoch {
  Epoch epoch;
  std::vector<NodeInfo> routers;
  std::vector<NodeInfo> shards;
};
/// From now on requests may run in this epoch.
struct StartServing {
  Epoch epoch;
};
/// Requests in flight cannot go on.
struct StopServing {
  Epoch epoch;
  Error reason;
};
/// The head should disconnect from this node (it failed or took too long).
struct DropNode {
  NodeId node;
  Error reason;
};
using MembershipEffect =
    std::variant<AcceptNode, RejectNode, FormEpoch, StartServing, StopServing, DropNode>;

enum class NodeState : uint8_t { kJoined, kForming, kReady };

struct MemberView {
  NodeInfo info;
  NodeState state = NodeState::kJoined;
};

class Membership {
 public:
  Membership(MembershipOptions options, Instant start);
  [[nodiscard]] std::vector<MembershipEffect> handle(const MembershipEvent& event, Instant now);
  [[nodiscard]] bool serving() const;
  [[nodiscard]] Epoch epoch() const;
  /// What it waits for or why it does not serve, for people: "waiting for shard-2 (2 of 3 shards)".
  [[nodiscard]] std::string condition() const;
  [[nodiscard]] std::vector<MemberView> members() const;
  [[nodiscard]] std::optional<Instant> next_deadline() const;
  [[nodiscard]] std::string check() const;

 private:
  MembershipOptions options_;
  // (the core's author adds state here)
};

}  // namespace troupe::cluster
