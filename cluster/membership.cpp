#include "cluster/membership.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace troupe::cluster {
namespace {

constexpr uint32_t kMaxFailures = 3;          // kUnavailable ones in a row
constexpr Duration kRetryDelay = seconds(1);  // about what a failure detector needs
constexpr Duration kFirstHold = seconds(10);  // of a node that joins after it was dropped
constexpr uint32_t kMaxDoublings = 6;         // of that: about ten minutes

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

/// A name from outside, fit for a message.
std::string shown(std::string_view name) {
  std::string text = "'";
  for (const char c : name.substr(0, 64)) text += c >= ' ' && c <= '~' ? c : '?';
  return text + (name.size() > 64 ? "...'" : "'");
}

std::string hex(uint64_t digest) {
  std::string text;
  for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[(digest >> shift) & 15];
  return text;
}

std::string counted(size_t n, std::string_view noun) {
  return std::to_string(n) + " " + std::string(noun) + (n == 1 ? "" : "s");
}

}  // namespace

std::string_view to_string(Role role) { return role == Role::kRouter ? "router" : "experts"; }

std::string_view to_string(NodeState state) {
  switch (state) {
    case NodeState::kJoined: return "joined";
    case NodeState::kForming: return "forming";
    case NodeState::kReady: return "ready";
  }
  return "unknown";
}

Membership::Membership(MembershipOptions options, Instant start)
    : options_(std::move(options)), assemble_deadline_(start + options_.assemble_timeout) {
  CHECK(count_expected(Role::kRouter) > 0 && count_expected(Role::kExperts) > 0);
}

std::vector<MembershipEffect> Membership::handle(const MembershipEvent& event, Instant now) {
  Effects effects;
  std::visit([&](const auto& e) { on(e, now, effects); }, event);
  follow_deadlines(now, effects);
  advance(now, effects);
  return effects;
}

void Membership::on(const NodeJoining& event, Instant now, Effects& effects) {
  if (auto reason = reason_to_reject(event.info)) {
    effects.emplace_back(RejectNode{event.info.id, *std::move(reason)});
    return;
  }
  Member member{.info = event.info};
  if (const auto drops = drops_.find(event.info.name); drops != drops_.end()) {
    const uint32_t doublings = std::min(drops->second - 1, kMaxDoublings);
    member.held_until = now + kFirstHold * (int64_t{1} << doublings);
    member.failures = kMaxFailures - 1;
  }
  members_.try_emplace(event.info.id, std::move(member));
  effects.emplace_back(AcceptNode{event.info.id});
}

std::optional<Error> Membership::reason_to_reject(const NodeInfo& info) const {
  const auto wrong = [](std::string message) {
    return Error{Code::kInvalidArgument, std::move(message)};
  };
  if (info.version != options_.version) {
    return wrong("the node runs troupe " + shown(info.version) + ", the head runs troupe " +
                 shown(options_.version) + "; install the same version on both");
  }
  if (info.checkpoint_digest != options_.checkpoint_digest) {
    return wrong("the node's model has the digest " + hex(info.checkpoint_digest) +
                 ", the head's has " + hex(options_.checkpoint_digest) +
                 "; give both the same checkpoint");
  }
  const auto expected =
      std::ranges::find(options_.expected, info.name, &std::pair<std::string, Role>::first);
  if (expected == options_.expected.end()) {
    std::vector<std::string> names;
    for (const auto& [name, role] : options_.expected) names.push_back(name);
    return wrong("the configuration has no node " + shown(info.name) + "; it names " +
                 joined(names));
  }
  if (info.role != expected->second) {
    return wrong("the configuration gives " + info.name + " the role " +
                 std::string(to_string(expected->second)) + ", but it joined as " +
                 std::string(to_string(info.role)));
  }
  const Member* live = find(info.name);
  if (live != nullptr && live->info.id == info.id) return std::nullopt;  // it asks again
  if (live != nullptr) {
    return Error{Code::kUnavailable, "a node named " + info.name + " is live already (process " +
                                         std::to_string(live->info.pid) + " on " +
                                         shown(live->info.host) +
                                         "); if it has just died, try again in a second"};
  }
  if (info.id == NodeId{} || members_.contains(info.id)) {
    return wrong("the node id " + std::to_string(info.id.value) +
                 " is taken or zero; a node draws a new random id at each start");
  }
  if (!members_.empty()) {
    const NodeInfo& first = members_.begin()->second.info;
    if (info.arithmetic_class != first.arithmetic_class) {
      return wrong("the node computes in the arithmetic class " + shown(info.arithmetic_class) +
                   ", the cluster in " + shown(first.arithmetic_class) +
                   "; mixing them would change the tokens: give all nodes the same configuration");
    }
  }
  return std::nullopt;
}

void Membership::on(const NodeLost& event, Instant, Effects& effects) {
  const auto member = members_.find(event.node);
  if (member == members_.end()) return;
  remove(event.node,
         {Code::kUnavailable, "node " + member->second.info.name + " was lost: " + event.reason},
         false, effects);
}

void Membership::on(const NodeReady& event, Instant now, Effects& effects) {
  if (change_ && event.epoch == change_->epoch) {
    change_->awaited.erase(event.node);
    // At once, before deadlines are looked at: a report that comes with one is in time.
    if (change_->awaited.empty()) advance_change(now, effects);
    return;
  }
  const auto member = members_.find(event.node);
  if (member == members_.end() || event.epoch != epoch_) return;
  if (member->second.state == NodeState::kForming) member->second.state = NodeState::kReady;
}

void Membership::on(const NodeFailed& event, Instant now, Effects& effects) {
  const auto found = members_.find(event.node);
  const bool changing = change_ && event.epoch == change_->epoch;
  if (found == members_.end() || (event.epoch != epoch_ && !changing)) return;
  Member& member = found->second;
  if (member.state == NodeState::kJoined) return;  // of an epoch that is over
  const Error reason{event.error.code,
                     "node " + member.info.name + " failed: " + event.error.message};
  if (changing && !change_->switching) return abandon_change(reason, effects);
  if (event.error.code != Code::kUnavailable || ++member.failures == kMaxFailures) {
    remove(event.node, reason, true, effects);
    return;
  }
  member.state = NodeState::kJoined;
  if (phase_ == Phase::kRetrying) return;
  end_epoch(Phase::kRetrying, reason, effects);
  form_deadline_ = now + kRetryDelay;
  retry_reason_ = reason.message;
}

void Membership::on(const RequestsRunning& event, Instant, Effects&) {
  num_requests_ = event.count;
}

void Membership::on(const ChangePlacement&, Instant now, Effects& effects) {
  if (!can_change()) return;
  last_epoch_ = Epoch{last_epoch_.value + 1};
  PrepareEpoch prepare{last_epoch_, in_force(Role::kExperts)};
  change_ = Change{.epoch = last_epoch_, .awaited = {}, .deadline = now + options_.prepare_timeout};
  for (const NodeInfo& shard : prepare.shards) change_->awaited.insert(shard.id);
  effects.emplace_back(std::move(prepare));
}

void Membership::abandon_change(const Error& reason, Effects& effects) {
  change_.reset();
  effects.emplace_back(KeepEpoch{epoch_, in_force(Role::kExperts), reason});
}

void Membership::advance_change(Instant now, Effects& effects) {
  if (change_->switching) {
    epoch_ = change_->epoch;
    change_.reset();
    effects.emplace_back(KeepEpoch{epoch_, in_force(Role::kExperts), std::nullopt});
    return;
  }
  SwitchEpoch to_new{change_->epoch, in_force(Role::kRouter)};
  change_->switching = true;
  change_->deadline = now + options_.switch_timeout;
  for (const NodeInfo& router : to_new.routers) change_->awaited.insert(router.id);
  effects.emplace_back(std::move(to_new));
}

void Membership::on(const Tick&, Instant, Effects&) {}

void Membership::remove(NodeId node, const Error& reason, bool drop, Effects& effects) {
  const auto member = members_.find(node);
  const bool took_part = member->second.state != NodeState::kJoined || phase_ == Phase::kRetrying;
  if (drop) {
    ++drops_[member->second.info.name];
    effects.emplace_back(DropNode{node, reason});
  }
  members_.erase(member);
  if (took_part) end_epoch(Phase::kWaiting, reason, effects);
}

void Membership::end_epoch(Phase next, const Error& reason, Effects& effects) {
  if (phase_ == Phase::kServing) {
    effects.emplace_back(StopServing{last_epoch_, {Code::kUnavailable, reason.message}});
    num_requests_ = 0;
  }
  change_.reset();
  phase_ = next;
  if (next != Phase::kWaiting) return;
  for (auto& [node, member] : members_) member.state = NodeState::kJoined;
}

void Membership::follow_deadlines(Instant now, Effects& effects) {
  if (phase_ == Phase::kAssembling && now >= assemble_deadline_) phase_ = Phase::kWaiting;
  if (phase_ == Phase::kRetrying && now >= form_deadline_) phase_ = Phase::kWaiting;
  for (auto& [node, member] : members_) {
    if (member.held_until && now >= *member.held_until) member.held_until.reset();
  }
  if (change_ && now >= change_->deadline) {
    const std::string late = " in time for epoch " + std::to_string(change_->epoch.value);
    if (change_->switching) {
      on(NodeFailed{*change_->awaited.begin(),
                    change_->epoch,
                    {Code::kUnavailable, "it did not end its step" + late}},
         now, effects);
    } else {
      abandon_change(
          {Code::kDeadlineExceeded,
           "node " + members_.at(*change_->awaited.begin()).info.name + " was not prepared" + late},
          effects);
    }
  }
  if (phase_ != Phase::kForming || now < form_deadline_) return;
  for (const std::string& name : names_in(NodeState::kForming)) {
    remove(find(name)->info.id,
           {Code::kDeadlineExceeded,
            "node " + name + " was not ready for epoch " + std::to_string(epoch_.value) +
                " within " + std::to_string(options_.ready_timeout.ns / seconds(1).ns) + " s"},
           true, effects);
  }
}

void Membership::advance(Instant now, Effects& effects) {
  if (phase_ == Phase::kAssembling && members_.size() == options_.expected.size()) {
    form(now, effects);
  } else if (phase_ == Phase::kWaiting && can_serve()) {
    if (!enough_free()) {
      for (auto& [node, member] : members_) member.held_until.reset();
    }
    form(now, effects);
  }
  const auto newcomers = this->newcomers();
  if (phase_ == Phase::kForming && names_in(NodeState::kForming).empty()) {
    if (newcomers.empty() || num_requests_ > 0) {
      phase_ = Phase::kServing;
      for (auto& [node, member] : members_) {
        if (member.state != NodeState::kReady) continue;
        member.failures = 0;
        drops_.erase(member.info.name);
      }
      effects.emplace_back(StartServing{epoch_});
    } else {
      form(now, effects);  // with those who joined meanwhile: nobody is being served yet
    }
  } else if (phase_ == Phase::kServing && !newcomers.empty() && num_requests_ == 0) {
    end_epoch(Phase::kWaiting, {Code::kUnavailable, "a new epoch takes in " + joined(newcomers)},
              effects);
    form(now, effects);
  }
}

void Membership::form(Instant now, Effects& effects) {
  FormEpoch form{.epoch = Epoch{last_epoch_.value + 1}, .routers = {}, .shards = {}};
  const auto held = held_back();
  for (const MemberView& member : members()) {
    if (std::ranges::count(held, member.info.name) != 0) continue;
    (member.info.role == Role::kRouter ? form.routers : form.shards).push_back(member.info);
  }
  for (auto& [node, member] : members_) {
    member.state = member.held_until ? NodeState::kJoined : NodeState::kForming;
  }
  epoch_ = last_epoch_ = form.epoch;
  phase_ = Phase::kForming;
  form_deadline_ = now + options_.ready_timeout;
  effects.emplace_back(std::move(form));
}

bool Membership::serving() const { return phase_ == Phase::kServing; }
Epoch Membership::epoch() const { return epoch_; }

size_t Membership::count(Role role) const {
  return static_cast<size_t>(std::ranges::count(
      members_, role, [](const auto& member) { return member.second.info.role; }));
}

size_t Membership::count_free(Role role) const {
  return static_cast<size_t>(std::ranges::count_if(members_, [role](const auto& member) {
    return member.second.info.role == role && !member.second.held_until;
  }));
}

size_t Membership::count_expected(Role role) const {
  return static_cast<size_t>(
      std::ranges::count(options_.expected, role, &std::pair<std::string, Role>::second));
}

const Membership::Member* Membership::find(std::string_view name) const {
  for (const auto& [node, member] : members_) {
    if (member.info.name == name) return &member;
  }
  return nullptr;
}

std::vector<MemberView> Membership::members() const {
  std::vector<MemberView> views;
  for (const auto& [name, role] : options_.expected) {
    if (const Member* member = find(name)) views.push_back({member->info, member->state});
  }
  return views;
}

std::vector<std::string> Membership::names_in(NodeState state) const {
  std::vector<std::string> names;
  for (const MemberView& member : members()) {
    if (member.state == state) names.push_back(member.info.name);
  }
  return names;
}

std::vector<NodeInfo> Membership::in_force(Role role) const {
  std::vector<NodeInfo> infos;
  for (const MemberView& member : members()) {
    if (member.state == NodeState::kReady && member.info.role == role) infos.push_back(member.info);
  }
  return infos;
}

std::vector<std::string> Membership::held_back() const {
  std::vector<std::string> names;
  for (const auto& [name, role] : options_.expected) {
    const Member* member = find(name);
    if (member != nullptr && member->held_until) names.push_back(name);
  }
  return names;
}

std::vector<std::string> Membership::newcomers() const {
  std::vector<std::string> names = names_in(NodeState::kJoined);
  std::erase_if(names, [this](const std::string& name) { return find(name)->held_until; });
  return names;
}

std::string Membership::condition() const {
  const std::string epoch = "epoch " + std::to_string(epoch_.value);
  std::vector<std::string> missing;
  for (const auto& [name, role] : options_.expected) {
    if (find(name) == nullptr) missing.push_back(name);
  }
  switch (phase_) {
    case Phase::kAssembling:
    case Phase::kWaiting: {
      const size_t routers = count_expected(Role::kRouter), shards = count_expected(Role::kExperts);
      return "waiting for " + joined(missing) + " (" + std::to_string(count(Role::kRouter)) +
             " of " + counted(routers, "router") + ", " + std::to_string(count(Role::kExperts)) +
             " of " + counted(shards, "shard") + ")";
    }
    case Phase::kForming:
      return "forming " + epoch + ": waiting for " + joined(names_in(NodeState::kForming)) +
             " to be ready";
    case Phase::kRetrying:
      return epoch + " ended: " + retry_reason_ + "; a new one is formed within a second";
    case Phase::kServing: break;
  }
  std::string text = "serving " + epoch + " with " + counted(count(Role::kRouter), "router") +
                     " and " + counted(count(Role::kExperts), "shard");
  if (!missing.empty()) text += "; missing " + joined(missing);
  if (const auto names = newcomers(); !names.empty()) {
    text += "; " + joined(names) + " waits until no request is running";
  }
  if (const auto names = held_back(); !names.empty()) {
    text += "; " + joined(names) + " failed lately and is held back for a while";
  }
  if (change_) {
    std::vector<std::string> names;
    for (const NodeId node : change_->awaited) names.push_back(members_.at(node).info.name);
    text += "; changing to epoch " + std::to_string(change_->epoch.value) + ": waiting for " +
            joined(names) + (change_->switching ? " to switch" : " to load experts");
  }
  return text;
}

std::optional<Instant> Membership::next_deadline() const {
  std::optional<Instant> next;
  switch (phase_) {
    case Phase::kAssembling: next = assemble_deadline_; break;
    case Phase::kForming:
    case Phase::kRetrying: next = form_deadline_; break;
    case Phase::kWaiting:
    case Phase::kServing: break;
  }
  const auto consider = [&](Instant at) {
    if (!next || at < *next) next = at;
  };
  for (const auto& [node, member] : members_) {
    if (member.held_until) consider(*member.held_until);
  }
  if (change_) consider(change_->deadline);
  return next;
}

std::string Membership::check() const {
  if (members().size() != members_.size()) return "a member's name is unknown or there twice";
  const bool some_form = !names_in(NodeState::kForming).empty();
  if (last_epoch_ < epoch_ || (change_ && change_->epoch != last_epoch_)) {
    return "an epoch's number was given twice";
  }
  if (change_ && phase_ != Phase::kServing) return "a change goes on though nothing serves";
  if (change_ && change_->awaited.empty()) return "a change waits for nobody";
  if (change_) {
    const Role role = change_->switching ? Role::kRouter : Role::kExperts;
    for (const NodeId node : change_->awaited) {
      const auto member = members_.find(node);
      if (member == members_.end() || member->second.state != NodeState::kReady ||
          member->second.info.role != role) {
        return "a change waits for a node without a part in it";
      }
    }
  }
  switch (phase_) {
    case Phase::kAssembling:
      if (epoch_ != Epoch{}) return "still assembling, but an epoch was formed";
      return members_.size() == options_.expected.size() ? "all are here, but no epoch" : "";
    case Phase::kWaiting: return can_serve() ? "the nodes suffice, but no epoch" : "";
    case Phase::kForming: return some_form ? "" : "all are ready, but nobody is served";
    case Phase::kRetrying: return epoch_ == Epoch{} ? "an epoch failed that was not formed" : "";
    case Phase::kServing: break;
  }
  bool router = false, shard = false;
  for (const auto& [node, member] : members_) {
    if (member.state != NodeState::kReady) continue;
    (member.info.role == Role::kRouter ? router : shard) = true;
  }
  if (some_form || !router || !shard) return "serving without all it needs";
  return !newcomers().empty() && num_requests_ == 0 ? "a node waits although no request runs" : "";
}

}  // namespace troupe::cluster
