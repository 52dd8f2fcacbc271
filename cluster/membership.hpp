#pragma once

// The head's view of its nodes: who may join, when the cluster is complete, which placement epoch
// is in force, and what the loss of a node means. Pure.
//
// Life of an epoch: all nodes that the configuration names have joined (or the wait is over and
// those present suffice) -> Form{epoch} to every node -> each answers NodeReady or NodeFailed ->
// when all are ready, serving starts. A lost node ends the epoch: serving stops, and a new epoch is
// formed from those that remain, if one router and one shard are left. A node that joins a serving
// cluster is taken in with the next epoch, which starts when no request is running.
//
// The placement may change while requests run, with the number of a new epoch but the same nodes:
// PrepareEpoch to every shard, which loads what is new beside what it holds -> NodeReady of each ->
// SwitchEpoch to every router, which goes on in the new epoch from its next step on -> NodeReady of
// each -> KeepEpoch to the shards, which drop what is old. A shard that can not prepare, or not in
// time, ends the change and nothing else; every other failure ends the epoch as ever.
//
// A failure that is kUnavailable may be a broken link, or a death of which the head is about to
// hear: the epoch ends at once, but the node named is kept and a new epoch is formed when a node is
// lost, or after a second; only the third such failure in a row drops it. Any other failure drops
// it. A dropped node that joins again is held back for ten seconds, then twice as long each time,
// unless nothing can be served without it; it gets one try, until it has served. So a node that the
// head hears but a router does not costs the others little.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
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
  std::string name;  ///< from the configuration, unique among live nodes
  Role role = Role::kExperts;
  std::string version;             ///< must equal the head's
  uint64_t checkpoint_digest = 0;  ///< must equal the head's
  std::string arithmetic_class;    ///< must equal the first node's
  std::string link_address;        ///< of its transport port
  std::string host;                ///< for people
  uint64_t pid = 0;
  std::string device;  ///< for people: what computes, cpu or cuda:0
  std::string cpus;  ///< for people, such as 0-3,8: its compute threads are pinned to; "": to none
};

struct MembershipOptions {
  std::string version;
  uint64_t checkpoint_digest = 0;
  std::vector<std::pair<std::string, Role>> expected;  ///< names and roles of the configuration
  Duration assemble_timeout = seconds(30);  ///< then go on with those present, if they suffice
  Duration ready_timeout = seconds(120);    ///< a node that is not ready by then is dropped
  Duration prepare_timeout = seconds(300);  ///< of a change of placement; then it is abandoned
  /// A router that has not ended its step by then is taken for out of reach.
  Duration switch_timeout = seconds(30);
};

// --- events -----------------------------------------------------------------------------------
struct NodeJoining {
  NodeInfo info;
};
struct NodeLost {
  NodeId node;
  std::string reason;
};
/// For an epoch that is formed, or that this shard prepared or this router switched to.
struct NodeReady {
  NodeId node;
  Epoch epoch;
};
/// The node cannot do its part in this epoch: it says so itself, or a peer that cannot reach it.
struct NodeFailed {
  NodeId node;
  Epoch epoch;
  Error error;
};
/// Requests that hold a router now. Sent when the count changes.
struct RequestsRunning {
  uint64_t count = 0;
};
/// A better placement is at hand. Ignored unless can_change().
struct ChangePlacement {};
struct Tick {};
using MembershipEvent = std::variant<NodeJoining, NodeLost, NodeReady, NodeFailed, RequestsRunning,
                                     ChangePlacement, Tick>;

// --- effects ----------------------------------------------------------------------------------
struct AcceptNode {
  NodeId node;
};
struct RejectNode {
  NodeId node;
  Error error;
};
/// Form this epoch, dropping whatever older one is in force or being formed: routers and shards in
/// configuration order.
struct FormEpoch {
  Epoch epoch;
  std::vector<NodeInfo> routers;
  std::vector<NodeInfo> shards;
};
/// From now on requests may run in this epoch.
struct StartServing {
  Epoch epoch;
};
/// To these shards: be able to serve this epoch, too.
struct PrepareEpoch {
  Epoch epoch;
  std::vector<NodeInfo> shards;
};
/// To these routers: go on in this epoch, which all shards can serve, from the next step on.
struct SwitchEpoch {
  Epoch epoch;
  std::vector<NodeInfo> routers;
};
/// To these shards: of all epochs, only this one goes on.
struct KeepEpoch {
  Epoch epoch;
  std::vector<NodeInfo> shards;
  std::optional<Error> abandoned;  ///< why it is the old one
};
/// Requests in flight cannot go on, neither in this epoch nor in one before.
struct StopServing {
  Epoch epoch;
  Error reason;
};
/// The head should disconnect from this node (it failed or took too long). It is no member any
/// more; it may join again.
struct DropNode {
  NodeId node;
  Error reason;
};
using MembershipEffect = std::variant<AcceptNode, RejectNode, FormEpoch, StartServing, PrepareEpoch,
                                      SwitchEpoch, KeepEpoch, StopServing, DropNode>;

enum class NodeState : uint8_t {
  kJoined,   ///< waits for the next epoch
  kForming,  ///< has been told of the current epoch
  kReady,    ///< serves, or waits for the others to be ready
};

std::string_view to_string(Role role);        ///< "router", "experts": as in the configuration
std::string_view to_string(NodeState state);  ///< "joined", "forming", "ready"

struct MemberView {
  NodeInfo info;
  NodeState state = NodeState::kJoined;
};

class Membership {
 public:
  Membership(MembershipOptions options, Instant start);
  [[nodiscard]] std::vector<MembershipEffect> handle(const MembershipEvent& event, Instant now);
  [[nodiscard]] bool serving() const;
  /// There is a router and an expert shard: if nothing serves, an epoch is about to be formed.
  [[nodiscard]] bool can_serve() const {
    return count(Role::kRouter) > 0 && count(Role::kExperts) > 0;
  }
  [[nodiscard]] Epoch epoch() const;
  /// The placement may be changed: it serves, and no change is under way.
  [[nodiscard]] bool can_change() const { return serving() && !change_; }
  /// What it waits for or why it does not serve, for people: "waiting for shard-2 (2 of 3 shards)".
  [[nodiscard]] std::string condition() const;
  [[nodiscard]] std::vector<MemberView> members() const;
  [[nodiscard]] std::optional<Instant> next_deadline() const;
  [[nodiscard]] std::string check() const;

 private:
  struct Member {
    NodeInfo info;
    NodeState state = NodeState::kJoined;
    uint32_t failures = 0;              ///< kUnavailable ones in a row
    std::optional<Instant> held_until;  ///< not taken into an epoch before
  };
  enum class Phase : uint8_t {
    kAssembling,  ///< waits for every expected node, until assemble_deadline_
    kWaiting,     ///< has too few nodes, or is about to form an epoch of those it has
    kForming,     ///< waits for NodeReady of all, until form_deadline_
    kRetrying,    ///< a node was out of reach: forms anew at form_deadline_, or when a node is lost
    kServing,
  };
  /// A change of placement under way.
  struct Change {
    Epoch epoch;
    bool switching = false;  ///< the shards are prepared, the routers are told
    /// Shards that prepare, then routers that switch; not empty between events.
    std::set<NodeId> awaited;
    Instant deadline;
  };
  using Members = std::map<NodeId, Member>;
  using Effects = std::vector<MembershipEffect>;

  void on(const NodeJoining& event, Instant now, Effects& effects);
  void on(const NodeLost& event, Instant now, Effects& effects);
  void on(const NodeReady& event, Instant now, Effects& effects);
  void on(const NodeFailed& event, Instant now, Effects& effects);
  void on(const RequestsRunning& event, Instant now, Effects& effects);
  void on(const ChangePlacement& event, Instant now, Effects& effects);
  void on(const Tick& event, Instant now, Effects& effects);

  [[nodiscard]] std::optional<Error> reason_to_reject(const NodeInfo& info) const;
  [[nodiscard]] size_t count(Role role) const;           ///< members
  [[nodiscard]] size_t count_free(Role role) const;      ///< those not held back
  [[nodiscard]] size_t count_expected(Role role) const;  ///< of the configuration
  [[nodiscard]] bool enough_free() const {
    return count_free(Role::kRouter) > 0 && count_free(Role::kExperts) > 0;
  }
  [[nodiscard]] std::vector<std::string> names_in(NodeState state) const;
  /// Those of this role in the epoch in force, in configuration order.
  [[nodiscard]] std::vector<NodeInfo> in_force(Role role) const;
  [[nodiscard]] std::vector<std::string> held_back() const;
  /// Joined, not held back, and not in the epoch.
  [[nodiscard]] std::vector<std::string> newcomers() const;
  [[nodiscard]] const Member* find(std::string_view name) const;
  /// Takes a member out, with a DropNode if it is to be disconnected, and ends its epoch.
  void remove(NodeId node, const Error& reason, bool drop, Effects& effects);
  /// Ends the epoch in force or being formed; stops serving if it was in force.
  void end_epoch(Phase next, const Error& reason, Effects& effects);
  void abandon_change(const Error& reason, Effects& effects);
  /// Takes the next step of a change. REQUIRES: all have taken the last.
  void advance_change(Instant now, Effects& effects);
  void follow_deadlines(Instant now, Effects& effects);
  /// Forms an epoch or starts serving, if it is time for that.
  void advance(Instant now, Effects& effects);
  void form(Instant now, Effects& effects);

  MembershipOptions options_;
  Instant assemble_deadline_;
  Instant form_deadline_;
  Phase phase_ = Phase::kAssembling;
  Epoch epoch_;       ///< the last that was formed or changed to; {0}: none yet
  Epoch last_epoch_;  ///< the highest that anybody was told of
  std::optional<Change> change_;
  Members members_;
  std::map<std::string, uint32_t> drops_;  ///< by name, since it last served
  uint64_t num_requests_ = 0;
  std::string retry_reason_;  ///< why the last epoch was given up, in kRetrying
};

}  // namespace troupe::cluster
