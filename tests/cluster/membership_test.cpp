#include "cluster/membership.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "base/random.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::cluster {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string id(NodeId node) { return std::to_string(node.value); }
std::string id(Epoch epoch) { return std::to_string(epoch.value); }

/// "accept 1", "reject 1 invalid_argument: ...", "form 2: router-0 | shard-0 shard-1", "serve 2",
/// "prepare 3: shard-0", "switch 3: router-0", "keep 3: shard-0", "stop 2: ...",
/// "drop 1 internal: ...".
std::string text(const MembershipEffect& effect) {
  const auto error = [](const Error& e) {
    return std::string(to_string(e.code)) + ": " + e.message;
  };
  if (const auto* accept = std::get_if<AcceptNode>(&effect)) return "accept " + id(accept->node);
  if (const auto* reject = std::get_if<RejectNode>(&effect)) {
    return "reject " + id(reject->node) + " " + error(reject->error);
  }
  if (const auto* form = std::get_if<FormEpoch>(&effect)) {
    std::string line = "form " + id(form->epoch) + ":";
    for (const NodeInfo& router : form->routers) line += " " + router.name;
    line += " |";
    for (const NodeInfo& shard : form->shards) line += " " + shard.name;
    return line;
  }
  if (const auto* serve = std::get_if<StartServing>(&effect)) return "serve " + id(serve->epoch);
  const auto names = [](const std::vector<NodeInfo>& nodes) {
    std::string line = ":";
    for (const NodeInfo& node : nodes) line += " " + node.name;
    return line;
  };
  if (const auto* prepare = std::get_if<PrepareEpoch>(&effect)) {
    return "prepare " + id(prepare->epoch) + names(prepare->shards);
  }
  if (const auto* to_new = std::get_if<SwitchEpoch>(&effect)) {
    return "switch " + id(to_new->epoch) + names(to_new->routers);
  }
  if (const auto* keep = std::get_if<KeepEpoch>(&effect)) {
    return "keep " + id(keep->epoch) + names(keep->shards) +
           (keep->abandoned ? " after " + error(*keep->abandoned) : "");
  }
  if (const auto* stop = std::get_if<StopServing>(&effect)) {
    return "stop " + id(stop->epoch) + " " + error(stop->reason);
  }
  const auto& drop = std::get<DropNode>(effect);
  return "drop " + id(drop.node) + " " + error(drop.reason);
}

const MembershipOptions kOptions = {
    .version = "0.1.0",
    .checkpoint_digest = 0xabc,
    .expected = {
        {"router-0", Role::kRouter}, {"shard-0", Role::kExperts}, {"shard-1", Role::kExperts}}};

NodeInfo info_of(uint64_t node, std::string name) {
  return {.id = NodeId{node},
          .name = name,
          .role = name.starts_with("router") ? Role::kRouter : Role::kExperts,
          .version = "0.1.0",
          .checkpoint_digest = 0xabc,
          .arithmetic_class = "cpu-f32",
          .link_address = "a",
          .host = "h",
          .pid = 5};
}

class MembershipTest : public ::testing::Test {
 protected:
  std::vector<std::string> tell(const MembershipEvent& event) {
    std::vector<std::string> lines;
    for (const MembershipEffect& effect : membership.handle(event, now)) {
      lines.push_back(text(effect));
    }
    EXPECT_EQ(membership.check(), "");
    return lines;
  }
  std::vector<std::string> join(uint64_t node, const std::string& name) {
    return tell(NodeJoining{info_of(node, name)});
  }
  std::vector<std::string> ready(uint64_t node, uint64_t epoch) {
    return tell(NodeReady{NodeId{node}, Epoch{epoch}});
  }
  std::vector<std::string> lose(uint64_t node) { return tell(NodeLost{NodeId{node}, "silent"}); }
  std::vector<std::string> fail(uint64_t node, uint64_t epoch, Code code = Code::kInternal) {
    return tell(NodeFailed{NodeId{node}, Epoch{epoch}, {code, "it broke"}});
  }
  std::vector<std::string> running(uint64_t count) { return tell(RequestsRunning{count}); }
  std::vector<std::string> wait(Duration duration) {
    now = now + duration;
    return tell(Tick{});
  }
  void serve() {
    join(1, "router-0");
    join(2, "shard-0");
    join(3, "shard-1");
    ready(1, 1);
    ready(2, 1);
    EXPECT_THAT(ready(3, 1), ElementsAre("serve 1"));
  }

  Instant now{seconds(50).ns};
  Membership membership{kOptions, now};
};

TEST_F(MembershipTest, FormsAnEpochWhenAllAreHereAndServesWhenAllAreReady) {
  EXPECT_EQ(membership.condition(),
            "waiting for router-0, shard-0, shard-1 (0 of 1 router, 0 of 2 shards)");
  EXPECT_THAT(join(3, "shard-1"), ElementsAre("accept 3"));
  EXPECT_THAT(join(1, "router-0"), ElementsAre("accept 1"));
  EXPECT_EQ(membership.condition(), "waiting for shard-0 (1 of 1 router, 1 of 2 shards)");
  EXPECT_THAT(join(2, "shard-0"), ElementsAre("accept 2", "form 1: router-0 | shard-0 shard-1"));
  EXPECT_THAT(ready(3, 1), IsEmpty());
  EXPECT_EQ(membership.condition(), "forming epoch 1: waiting for router-0, shard-0 to be ready");
  EXPECT_THAT(ready(1, 1), IsEmpty());
  EXPECT_FALSE(membership.serving());
  EXPECT_THAT(ready(2, 1), ElementsAre("serve 1"));
  EXPECT_TRUE(membership.serving());
  EXPECT_EQ(membership.epoch(), Epoch{1});
  EXPECT_EQ(membership.condition(), "serving epoch 1 with 1 router and 2 shards");
  EXPECT_EQ(membership.next_deadline(), std::nullopt);
}

TEST_F(MembershipTest, RejectsNodesThatDoNotBelongAndSaysWhy) {
  join(9, "shard-1");
  struct Case {
    void (*spoil)(NodeInfo&);
    const char* message;
  };
  const std::vector<Case> cases = {
      {[](NodeInfo& n) { n.version = "0.2.0"; },
       "invalid_argument: the node runs troupe '0.2.0', the head runs troupe '0.1.0'"},
      {[](NodeInfo& n) { n.version = std::string(5'000, '\n'); }, "??...', the head runs"},
      {[](NodeInfo& n) { n.checkpoint_digest = 1; },
       "has the digest 0000000000000001, the head's has 0000000000000abc"},
      {[](NodeInfo& n) { n.name = "shard-7"; },
       "no node 'shard-7'; it names router-0, shard-0, shard-1"},
      {[](NodeInfo& n) { n.role = Role::kRouter; },
       "gives shard-0 the role experts, but it joined as router"},
      {[](NodeInfo& n) { n.name = "shard-1"; },
       "unavailable: a node named shard-1 is live already (process 5 on 'h')"},
      {[](NodeInfo& n) { n.id = NodeId{9}; }, "the node id 9 is taken or zero"},
      {[](NodeInfo& n) { n.id = NodeId{0}; }, "the node id 0 is taken or zero"},
      {[](NodeInfo& n) { n.arithmetic_class = "cpu-bf16"; },
       "arithmetic class 'cpu-bf16', the cluster in 'cpu-f32'"}};
  for (const auto& [spoil, message] : cases) {
    NodeInfo info = info_of(2, "shard-0");
    spoil(info);
    EXPECT_THAT(tell(NodeJoining{info}),
                ElementsAre(::testing::AllOf(::testing::StartsWith("reject " + id(info.id) + " "),
                                             HasSubstr(message))));
  }
  EXPECT_EQ(membership.members().size(), 1U);
}

TEST_F(MembershipTest, AcceptsAnyArithmeticClassFromTheFirstNode) {
  NodeInfo info = info_of(2, "shard-0");
  info.arithmetic_class = "cpu-bf16";
  EXPECT_THAT(tell(NodeJoining{info}), ElementsAre("accept 2"));
  lose(2);
  EXPECT_THAT(join(3, "shard-1"), ElementsAre("accept 3")) << "the first of those who live";
}

TEST_F(MembershipTest, AcceptsANodeThatAsksTwice) {
  join(2, "shard-0");
  EXPECT_THAT(join(2, "shard-0"), ElementsAre("accept 2"));
  EXPECT_EQ(membership.members().size(), 1U);
}

TEST_F(MembershipTest, GoesOnWithThosePresentWhenTheWaitIsOver) {
  join(1, "router-0");
  join(3, "shard-1");
  EXPECT_EQ(membership.next_deadline(), now + seconds(30));
  EXPECT_THAT(wait(seconds(30)), ElementsAre("form 1: router-0 | shard-1"));
  ready(1, 1);
  EXPECT_THAT(ready(3, 1), ElementsAre("serve 1"));
  EXPECT_EQ(membership.condition(), "serving epoch 1 with 1 router and 1 shard; missing shard-0");
}

TEST_F(MembershipTest, WaitsOnWithoutADeadlineIfThosePresentDoNotSuffice) {
  join(2, "shard-0");
  EXPECT_THAT(wait(seconds(30)), IsEmpty());
  EXPECT_EQ(membership.next_deadline(), std::nullopt);
  EXPECT_EQ(membership.condition(), "waiting for router-0, shard-1 (0 of 1 router, 1 of 2 shards)");
  EXPECT_THAT(join(1, "router-0"), ElementsAre("accept 1", "form 1: router-0 | shard-0"));
}

TEST_F(MembershipTest, FormsANewEpochOfThoseWhoRemainWhenANodeIsLost) {
  serve();
  EXPECT_THAT(lose(2), ElementsAre("stop 1 unavailable: node shard-0 was lost: silent",
                                   "form 2: router-0 | shard-1"));
  EXPECT_FALSE(membership.serving());
  EXPECT_THAT(ready(1, 1), IsEmpty()) << "of the old epoch";
  EXPECT_THAT(ready(1, 2), IsEmpty());
  EXPECT_THAT(ready(3, 2), ElementsAre("serve 2"));
  EXPECT_THAT(lose(2), IsEmpty());
}

TEST_F(MembershipTest, StopsAndWaitsWhenTheLastOfARoleIsLost) {
  serve();
  EXPECT_THAT(lose(1), ElementsAre("stop 1 unavailable: node router-0 was lost: silent"));
  EXPECT_EQ(membership.condition(), "waiting for router-0 (0 of 1 router, 2 of 2 shards)");
  EXPECT_THAT(join(8, "router-0"), ElementsAre("accept 8", "form 2: router-0 | shard-0 shard-1"));
}

TEST_F(MembershipTest, FormsAnewWhenANodeIsLostWhileAnEpochIsFormed) {
  join(1, "router-0");
  join(2, "shard-0");
  join(3, "shard-1");
  ready(1, 1);
  EXPECT_THAT(lose(3), ElementsAre("form 2: router-0 | shard-0"));
  ready(2, 2);
  EXPECT_THAT(ready(1, 2), ElementsAre("serve 2"));
}

TEST_F(MembershipTest, TakesInANewcomerWhenNoRequestIsRunning) {
  serve();
  lose(2);
  ready(1, 2);
  ready(3, 2);
  running(2);
  EXPECT_THAT(join(7, "shard-0"), ElementsAre("accept 7"));
  EXPECT_EQ(membership.condition(),
            "serving epoch 2 with 1 router and 2 shards; shard-0 waits "
            "until no request is running");
  EXPECT_THAT(running(1), IsEmpty());
  EXPECT_THAT(running(0), ElementsAre("stop 2 unavailable: a new epoch takes in shard-0",
                                      "form 3: router-0 | shard-0 shard-1"));
}

TEST_F(MembershipTest, LosesANewcomerWithoutDisturbingTheServing) {
  serve();
  lose(2);
  ready(1, 2);
  ready(3, 2);
  running(1);
  join(7, "shard-0");
  EXPECT_THAT(lose(7), IsEmpty());
  EXPECT_TRUE(membership.serving());
}

TEST_F(MembershipTest, TakesInThoseWhoJoinedDuringTheFormingBeforeItServes) {
  join(1, "router-0");
  join(2, "shard-0");
  wait(seconds(30));
  EXPECT_THAT(join(3, "shard-1"), ElementsAre("accept 3"));
  ready(1, 1);
  EXPECT_THAT(ready(2, 1), ElementsAre("form 2: router-0 | shard-0 shard-1"));
}

TEST_F(MembershipTest, DropsANodeThatFailsAndGoesOnWithTheRest) {
  join(1, "router-0");
  join(2, "shard-0");
  join(3, "shard-1");
  EXPECT_THAT(fail(2, 1), ElementsAre("drop 2 internal: node shard-0 failed: it broke",
                                      "form 2: router-0 | shard-1"));
  EXPECT_THAT(fail(3, 1), IsEmpty()) << "of the old epoch";
  EXPECT_THAT(fail(99, 2), IsEmpty());
  ready(1, 2);
  ready(3, 2);
  EXPECT_THAT(fail(3, 2), ElementsAre("drop 3 internal: node shard-1 failed: it broke",
                                      "stop 2 unavailable: node shard-1 failed: it broke"));
}

TEST_F(MembershipTest, DropsNodesThatAreNotReadyInTime) {
  join(1, "router-0");
  join(2, "shard-0");
  join(3, "shard-1");
  ready(1, 1);
  ready(3, 1);
  EXPECT_EQ(membership.next_deadline(), now + seconds(120));
  EXPECT_THAT(wait(seconds(120)),
              ElementsAre("drop 2 deadline_exceeded: node shard-0 was not ready for epoch 1 within "
                          "120 s",
                          "form 2: router-0 | shard-1"));
  EXPECT_THAT(wait(seconds(120)), ElementsAre(HasSubstr("drop 1"), HasSubstr("drop 3")));
  EXPECT_TRUE(membership.members().empty());
}

TEST_F(MembershipTest, KeepsANodeOutOfReachUntilALossExplainsIt) {
  serve();
  EXPECT_THAT(fail(1, 1, Code::kUnavailable),
              ElementsAre("stop 1 unavailable: node router-0 failed: it broke"));
  EXPECT_THAT(membership.condition(),
              HasSubstr("epoch 1 ended: node router-0 failed: it broke; a new one is formed"));
  EXPECT_THAT(lose(3), ElementsAre("form 2: router-0 | shard-0"));
}

TEST_F(MembershipTest, FormsAnewAfterASecondForANodeOutOfReachAndDropsItTheThirdTime) {
  serve();
  fail(1, 1, Code::kUnavailable);
  EXPECT_THAT(fail(1, 1, Code::kUnavailable), IsEmpty()) << "the same failure twice";
  EXPECT_THAT(wait(milliseconds(999)), IsEmpty());
  EXPECT_THAT(wait(milliseconds(1)), ElementsAre("form 2: router-0 | shard-0 shard-1"));
  EXPECT_THAT(fail(1, 2, Code::kUnavailable), IsEmpty());
  EXPECT_THAT(wait(seconds(1)), ElementsAre("form 3: router-0 | shard-0 shard-1"));
  EXPECT_THAT(fail(1, 3, Code::kUnavailable),
              ElementsAre("drop 1 unavailable: node router-0 failed: it broke"));
}

TEST_F(MembershipTest, ForgivesFailuresOnceItServes) {
  serve();
  for (uint64_t epoch = 1; epoch < 8; ++epoch) {
    fail(1, epoch, Code::kUnavailable);
    wait(seconds(1));
    for (uint64_t node = 1; node <= 3; ++node) ready(node, epoch + 1);
    ASSERT_TRUE(membership.serving()) << epoch;
  }
}

TEST_F(MembershipTest, HoldsADroppedNodeBackLongerEachTime) {
  serve();
  uint64_t node = 3, epoch = 1;
  const auto others_ready = [&] {
    ready(1, epoch);
    return ready(2, epoch);
  };
  fail(node, epoch);
  EXPECT_THAT(others_ready(), IsEmpty()) << "of the old epoch";
  ++epoch;
  others_ready();
  for (const int64_t held : {10, 20, 40, 80, 160, 320, 640, 640}) {
    ASSERT_TRUE(membership.serving());
    ++node;
    EXPECT_THAT(join(node, "shard-1"), ElementsAre("accept " + std::to_string(node)));
    EXPECT_THAT(membership.condition(),
                HasSubstr("shard-1 failed lately and is held back for a while"));
    EXPECT_EQ(membership.next_deadline(), now + seconds(held));
    EXPECT_THAT(wait(seconds(held) + nanoseconds(-1)), IsEmpty());
    ++epoch;
    EXPECT_THAT(wait(nanoseconds(1)),
                ElementsAre(HasSubstr("a new epoch takes in shard-1"),
                            "form " + std::to_string(epoch) + ": router-0 | shard-0 shard-1"));
    EXPECT_THAT(fail(node, epoch, Code::kUnavailable),
                ElementsAre(HasSubstr("drop " + std::to_string(node)),
                            "form " + std::to_string(epoch + 1) + ": router-0 | shard-0"))
        << "it gets one try";
    ++epoch;
    EXPECT_THAT(others_ready(), ElementsAre("serve " + std::to_string(epoch)));
  }
  join(++node, "shard-1");
  wait(seconds(640));
  ++epoch;
  others_ready();
  EXPECT_THAT(ready(node, epoch), ElementsAre("serve " + std::to_string(epoch)));
  fail(node, epoch);
  ++epoch;
  others_ready();
  join(++node, "shard-1");
  EXPECT_EQ(membership.next_deadline(), now + seconds(10)) << "it has served: all is forgiven";
}

TEST_F(MembershipTest, HoldsNobodyBackWithoutWhomNothingIsServed) {
  serve();
  lose(2);
  ready(1, 2);
  ready(3, 2);
  fail(3, 2);
  EXPECT_FALSE(membership.serving());
  EXPECT_THAT(join(4, "shard-1"), ElementsAre("accept 4", "form 3: router-0 | shard-1"));
}

class ChangeTest : public MembershipTest {
 protected:
  std::vector<std::string> change() { return tell(ChangePlacement{}); }
  /// Both shards are prepared for epoch 2, and the router has been told.
  void switching() {
    serve();
    change();
    ready(2, 2);
    EXPECT_THAT(ready(3, 2), ElementsAre("switch 2: router-0"));
  }
};

TEST_F(ChangeTest, PreparesTheShardsThenSwitchesTheRoutersThenDropsWhatIsOld) {
  EXPECT_THAT(change(), IsEmpty()) << "nothing serves";
  serve();
  running(3);
  EXPECT_TRUE(membership.can_change());
  EXPECT_THAT(change(), ElementsAre("prepare 2: shard-0 shard-1"));
  EXPECT_FALSE(membership.can_change());
  EXPECT_THAT(change(), IsEmpty()) << "one at a time";
  EXPECT_THAT(membership.condition(),
              HasSubstr("changing to epoch 2: waiting for shard-0, shard-1 to load experts"));
  EXPECT_THAT(ready(3, 2), IsEmpty());
  EXPECT_THAT(ready(3, 2), IsEmpty());
  EXPECT_THAT(ready(1, 2), IsEmpty()) << "no router was asked yet";
  EXPECT_THAT(ready(2, 2), ElementsAre("switch 2: router-0"));
  EXPECT_EQ(membership.epoch(), Epoch{1});
  EXPECT_THAT(membership.condition(), HasSubstr("waiting for router-0 to switch"));
  EXPECT_THAT(ready(1, 2), ElementsAre("keep 2: shard-0 shard-1"));
  EXPECT_EQ(membership.epoch(), Epoch{2});
  EXPECT_TRUE(membership.serving());
  EXPECT_TRUE(membership.can_change());
  EXPECT_EQ(membership.next_deadline(), std::nullopt);
  EXPECT_THAT(change(), ElementsAre("prepare 3: shard-0 shard-1"));
}

TEST_F(ChangeTest, IsAbandonedWhenAShardCannotPrepareAndServingGoesOn) {
  serve();
  change();
  ready(2, 2);
  EXPECT_THAT(fail(3, 2), ElementsAre("keep 1: shard-0 shard-1 after internal: node shard-1 "
                                      "failed: it broke"));
  EXPECT_TRUE(membership.serving());
  EXPECT_THAT(ready(3, 2), IsEmpty());
  EXPECT_THAT(change(), ElementsAre("prepare 3: shard-0 shard-1")) << "no number comes twice";
}

TEST_F(ChangeTest, IsAbandonedWhenAShardIsNotPreparedInTime) {
  serve();
  change();
  ready(2, 2);
  EXPECT_EQ(membership.next_deadline(), now + seconds(300));
  EXPECT_THAT(wait(seconds(300)),
              ElementsAre("keep 1: shard-0 shard-1 after deadline_exceeded: node shard-1 was not "
                          "prepared in time for epoch 2"));
  EXPECT_TRUE(membership.serving());
}

TEST_F(ChangeTest, EndsWithTheEpochWhenANodeIsLostAtAnyStage) {
  serve();
  change();
  EXPECT_THAT(lose(2), ElementsAre("stop 2 unavailable: node shard-0 was lost: silent",
                                   "form 3: router-0 | shard-1"));
  EXPECT_THAT(ready(3, 2), IsEmpty());
  ready(1, 3);
  EXPECT_THAT(ready(3, 3), ElementsAre("serve 3"));
}

TEST_F(ChangeTest, EndsWithTheEpochWhenAShardIsLostWhileRoutersSwitch) {
  switching();
  EXPECT_THAT(lose(3), ElementsAre("stop 2 unavailable: node shard-1 was lost: silent",
                                   "form 3: router-0 | shard-0"));
  EXPECT_THAT(ready(1, 2), IsEmpty());
}

TEST_F(ChangeTest, TakesFailuresInEitherEpochSeriouslyWhileRoutersSwitch) {
  for (const uint64_t epoch : {1U, 2U}) {
    membership = Membership(kOptions, now);
    switching();
    EXPECT_THAT(fail(3, epoch, Code::kUnavailable),
                ElementsAre("stop 2 unavailable: node shard-1 failed: it broke"));
    EXPECT_THAT(wait(seconds(1)), ElementsAre("form 3: router-0 | shard-0 shard-1"));
  }
}

TEST_F(ChangeTest, DoesNotWaitForARouterForever) {
  switching();
  EXPECT_THAT(wait(seconds(30)),
              ElementsAre("stop 2 unavailable: node router-0 failed: it did not end its step in "
                          "time for epoch 2"));
  EXPECT_THAT(wait(seconds(1)), ElementsAre("form 3: router-0 | shard-0 shard-1"));
}

TEST_F(ChangeTest, TakesTheLastReportOfAStageAsInTimeWhenItComesWithTheDeadline) {
  serve();
  change();
  ready(2, 2);
  now = now + seconds(300);
  EXPECT_THAT(ready(3, 2), ElementsAre("switch 2: router-0"));
  now = now + seconds(30);
  EXPECT_THAT(ready(1, 2), ElementsAre("keep 2: shard-0 shard-1"));
  EXPECT_TRUE(membership.serving());
}

TEST_F(ChangeTest, LeavesANewcomerOutAndEndsWhenItIsTakenIn) {
  serve();
  lose(3);
  ready(1, 2);
  ready(2, 2);
  running(1);
  join(7, "shard-1");
  EXPECT_THAT(change(), ElementsAre("prepare 3: shard-0"));
  EXPECT_THAT(running(0), ElementsAre("stop 3 unavailable: a new epoch takes in shard-1",
                                      "form 4: router-0 | shard-0 shard-1"));
}

TEST_F(MembershipTest, ShowsItsMembersInConfigurationOrder) {
  join(3, "shard-1");
  join(9, "router-0");
  const auto members = membership.members();
  ASSERT_EQ(members.size(), 2U);
  EXPECT_EQ(members[0].info.name, "router-0");
  EXPECT_EQ(members[1].info.name, "shard-1");
  EXPECT_EQ(to_string(members[0].state), "joined");
}

// Nodes that join, get ready, fail, die and come back at any time. A twin keeps the view of the
// nodes: epochs only grow, every epoch is of live nodes with both roles, serving starts only when
// all of its nodes said they are ready, and when the faults end, all serve.
class RandomCluster {
 public:
  explicit RandomCluster(uint64_t seed) : seed_(seed) {}

  uint64_t draw(uint64_t n) { return random_bits(seed_, draws_++) % n; }

  void act() {
    now_ = now_ + milliseconds(static_cast<int64_t>(draw(1'000)));
    if (const auto due = membership_.next_deadline(); due && draw(20) == 0) {
      now_ = std::max(now_, *due);  // whatever happens, happens with a deadline
    }
    const auto any = [&]() -> NodeId {
      if (live_.empty() || draw(30) == 0) return NodeId{draw(last_ + 5)};
      return std::next(live_.begin(), static_cast<int64_t>(draw(live_.size())))->first;
    };
    const Epoch latest = changing_ ? *changing_ : epoch_;
    const Epoch epoch{latest.value - (draw(8) == 0 ? draw(latest.value + 1) : 0)};
    switch (draw(13)) {
      case 0:
      case 1: return join(kOptions.expected[draw(3)].first);
      case 2: return draw(4) == 0 ? lose(any()) : void();
      case 3: return draw(3) == 0 ? fail(any(), epoch) : void();
      case 4: return tell(RequestsRunning{draw(3)});
      case 5: return tell(Tick{});
      case 6: return tell(ChangePlacement{});
      default: return ready(any(), epoch);
    }
  }
  void settle() {
    for (int i = 0; i < 500; ++i) {
      for (const auto& [name, role] : kOptions.expected) ASSERT_NO_FATAL_FAILURE(join(name));
      ASSERT_NO_FATAL_FAILURE(tell(RequestsRunning{0}));
      const auto nodes = live_;
      for (const auto& [node, name] : nodes) {
        ASSERT_NO_FATAL_FAILURE(ready(node, changing_ ? *changing_ : epoch_));
      }
      if (const auto due = membership_.next_deadline()) {
        now_ = std::max(now_, *due);
        ASSERT_NO_FATAL_FAILURE(tell(Tick{}));
        ASSERT_NE(membership_.next_deadline(), due) << "the timer would spin";
      }
    }
    ASSERT_TRUE(membership_.serving()) << membership_.condition();
    ASSERT_EQ(taking_part_.size(), 3U);
  }
  [[nodiscard]] uint64_t num_served() const { return num_served_; }
  [[nodiscard]] uint64_t num_changed() const { return num_changed_; }
  [[nodiscard]] uint64_t num_abandoned() const { return num_abandoned_; }

 private:
  void join(const std::string& name) { tell(NodeJoining{info_of(++last_, name)}); }
  void lose(NodeId node) {
    live_.erase(node);
    tell(NodeLost{node, "killed"});
  }
  void fail(NodeId node, Epoch epoch) {
    tell(NodeFailed{node, epoch, {draw(2) == 0 ? Code::kUnavailable : Code::kInternal, "broken"}});
  }
  void ready(NodeId node, Epoch epoch) {
    if (epoch == epoch_) ready_.insert(node);
    if (changing_ == epoch) ready_for_change_.insert(node);
    tell(NodeReady{node, epoch});
  }

  void tell(const MembershipEvent& event) {
    const auto effects = membership_.handle(event, now_);
    ASSERT_EQ(membership_.check(), "");
    for (const MembershipEffect& effect : effects) {
      if (const auto* accept = std::get_if<AcceptNode>(&effect)) {
        const auto& info = std::get<NodeJoining>(event).info;
        ASSERT_EQ(accept->node, info.id);
        for (const auto& [node, name] : live_) ASSERT_NE(name, info.name) << "two of a name";
        live_[info.id] = info.name;
      } else if (const auto* drop = std::get_if<DropNode>(&effect)) {
        ASSERT_EQ(live_.erase(drop->node), 1U);
      } else if (const auto* form = std::get_if<FormEpoch>(&effect)) {
        ASSERT_FALSE(serving_) << "an epoch is formed while another serves";
        ASSERT_GT(form->epoch, last_epoch_);
        last_epoch_ = form->epoch;
        ASSERT_FALSE(form->routers.empty());
        ASSERT_FALSE(form->shards.empty());
        epoch_ = form->epoch;
        ready_.clear();
        taking_part_.clear();
        for (const NodeInfo& info : form->routers) taking_part_.insert(info.id);
        for (const NodeInfo& info : form->shards) taking_part_.insert(info.id);
        for (const NodeId node : taking_part_) ASSERT_TRUE(live_.contains(node));
      } else if (const auto* serve = std::get_if<StartServing>(&effect)) {
        ASSERT_FALSE(serving_);
        ASSERT_EQ(serve->epoch, epoch_);
        for (const NodeId node : taking_part_) ASSERT_TRUE(ready_.contains(node));
        serving_ = true;
        ++num_served_;
      } else if (const auto* stop = std::get_if<StopServing>(&effect)) {
        ASSERT_TRUE(serving_);
        ASSERT_EQ(stop->epoch, last_epoch_);
        changing_.reset();
        serving_ = false;
      } else if (const auto* prepare = std::get_if<PrepareEpoch>(&effect)) {
        ASSERT_TRUE(serving_ && !changing_);
        ASSERT_GT(prepare->epoch, last_epoch_);
        changing_ = last_epoch_ = prepare->epoch;
        ready_for_change_.clear();
        for (const NodeInfo& info : prepare->shards) ASSERT_TRUE(taking_part_.contains(info.id));
        shards_ = prepare->shards;
      } else if (const auto* to_new = std::get_if<SwitchEpoch>(&effect)) {
        ASSERT_EQ(changing_, to_new->epoch);
        for (const NodeInfo& info : shards_) ASSERT_TRUE(ready_for_change_.contains(info.id));
        ASSERT_EQ(to_new->routers.size() + shards_.size(), taking_part_.size());
        routers_ = to_new->routers;
        ready_for_change_.clear();
      } else if (const auto* keep = std::get_if<KeepEpoch>(&effect)) {
        ASSERT_TRUE(serving_ && changing_);
        ASSERT_EQ(keep->shards.size(), shards_.size());
        if (keep->abandoned) {
          ASSERT_EQ(keep->epoch, epoch_);
          ++num_abandoned_;
        } else {
          ASSERT_EQ(keep->epoch, *changing_);
          for (const NodeInfo& info : routers_) ASSERT_TRUE(ready_for_change_.contains(info.id));
          epoch_ = keep->epoch;
          ++num_changed_;
        }
        changing_.reset();
      }
    }
    ASSERT_EQ(serving_, membership_.serving());
    if (!serving_) return;
    for (const NodeId node : taking_part_)
      ASSERT_TRUE(live_.contains(node)) << "serves with a dead";
  }

  uint64_t seed_, draws_ = 0, last_ = 0, num_served_ = 0, num_changed_ = 0, num_abandoned_ = 0;
  Instant now_{0};
  Membership membership_{kOptions, Instant{0}};
  std::map<NodeId, std::string> live_;  // accepted and neither lost nor dropped
  std::set<NodeId> taking_part_, ready_;
  Epoch epoch_, last_epoch_;
  bool serving_ = false;
  std::optional<Epoch> changing_;
  std::vector<NodeInfo> shards_, routers_;  // of the change
  std::set<NodeId> ready_for_change_;
};

TEST(Membership, ServesOnlyWithLiveReadyNodesUnderRandomEvents) {
  const auto run = [](uint64_t seed) {
    RandomCluster cluster(seed);
    for (int i = 0; i < 40'000; ++i) ASSERT_NO_FATAL_FAILURE(cluster.act()) << "event " << i;
    if (usual_seeds()) {
      EXPECT_GT(cluster.num_served(), 100U);
      EXPECT_GT(cluster.num_changed(), 100U);
      EXPECT_GT(cluster.num_abandoned(), 10U);
    }
    ASSERT_NO_FATAL_FAILURE(cluster.settle());
  };
  for_each_seed(3, run, 1);
}

}  // namespace
}  // namespace troupe::cluster
