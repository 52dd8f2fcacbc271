#include "scheduler/fair_queue.hpp"

#include <gtest/gtest.h>

#include <map>

#include "base/random.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::scheduler {
namespace {

const FairQueueOptions kOptions{.ageing = seconds(10), .max_tenants = 8};
constexpr Instant kStart{seconds(1000).ns};

TEST(FairQueue, StartsTheOldestOfOneTenantFirst) {
  FairQueue queue(kOptions);
  queue.push({RequestId{2}, "a", 0, kStart, 1});
  queue.push({RequestId{1}, "a", 0, kStart, 2});
  queue.push({RequestId{3}, "a", 0, kStart - seconds(1), 3});
  EXPECT_EQ(queue.front(kStart), RequestId{3});
  queue.erase(RequestId{3});
  EXPECT_EQ(queue.front(kStart), RequestId{2}) << "equal times: as they came";
}

TEST(FairQueue, WhatRanBeforeIsNext) {
  FairQueue queue(kOptions);
  queue.push({RequestId{1}, "a", 0, kStart, 1});
  queue.push({RequestId{2}, "b", 3, kStart, 2, true});
  queue.charge("b", 1'000'000);
  EXPECT_EQ(queue.front(kStart), RequestId{2});
}

TEST(FairQueue, AnUrgentClassPassesALowerOneUntilThatHasWaitedItsPeriods) {
  FairQueue queue(kOptions);
  queue.push({RequestId{1}, "a", 2, kStart});
  queue.push({RequestId{2}, "b", 0, kStart + seconds(9)});
  EXPECT_EQ(queue.front(kStart + seconds(9)), RequestId{2});
  EXPECT_EQ(queue.front(kStart + seconds(19)), RequestId{2}) << "class 2 is class 1 by now";
  queue.charge("b", 1);
  EXPECT_EQ(queue.front(kStart + seconds(20)), RequestId{1}) << "as urgent, and served less";
}

TEST(FairQueue, KnowsWhoIsServedBeforeANewcomer) {
  FairQueue queue({.ageing = seconds(10), .weights = {{"heavy", 2}}});
  const auto before = [&](const std::string& tenant, uint32_t priority, size_t most = 100) {
    std::vector<uint64_t> ids;
    for (const RequestId id : queue.before(tenant, priority, kStart, most)) ids.push_back(id.value);
    return ids;
  };
  using Ids = std::vector<uint64_t>;
  EXPECT_EQ(before("a", 0), Ids());
  for (uint64_t r = 1; r <= 4; ++r) queue.push({RequestId{r}, "a", 0, kStart, r});
  queue.push({RequestId{5}, "b", 0, kStart, 5});
  queue.push({RequestId{6}, "b", 1, kStart, 6});
  for (uint64_t r = 7; r <= 9; ++r) queue.push({RequestId{r}, "heavy", 0, kStart, r});
  EXPECT_EQ(before("a", 0), (Ids{1, 2, 3, 4, 5, 7, 8, 9})) << "6 is less urgent";
  EXPECT_EQ(before("a", 1), (Ids{1, 2, 3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(before("b", 0), (Ids{5, 1, 2, 7, 8, 9})) << "turns, of which heavy has two each";
  EXPECT_EQ(before("new", 0), (Ids{1, 5, 7, 8}));
  EXPECT_EQ(before("heavy", 0), (Ids{7, 8, 9, 1, 2, 5}));
  EXPECT_EQ(before("heavy", 0, 4), (Ids{7, 8, 9, 1}));
  EXPECT_EQ(before("heavy", 0, 2), (Ids{7, 8}));
  queue.push({RequestId{10}, "b", 3, kStart, 10, true});
  EXPECT_EQ(before("new", 0), (Ids{1, 10, 7, 8})) << "10 ran before";
}

TEST(FairQueue, NamesTheFirstOfTheTenantWithTheFewestPlaces) {
  FairQueue queue(kOptions);
  EXPECT_EQ(queue.front_of_fewest({}), std::nullopt);
  queue.push({RequestId{1}, "a", 0, kStart});
  queue.push({RequestId{2}, "b", 1, kStart});
  queue.push({RequestId{3}, "b", 0, kStart});
  EXPECT_EQ(queue.front_of_fewest({{"a", 2}, {"b", 1}}), RequestId{3});
  EXPECT_EQ(queue.front_of_fewest({{"a", 2}, {"b", 3}}), RequestId{1});
  EXPECT_EQ(queue.front_of_fewest({{"a", 1}}), RequestId{3}) << "b has none";
  queue.charge("a", 5);
  EXPECT_EQ(queue.front_of_fewest({{"a", 1}, {"b", 1}}), RequestId{3}) << "it was served less";
}

TEST(FairQueue, ComparesPlacesByWeight) {
  FairQueue queue({.weights = {{"a", 3}}});
  queue.push({RequestId{1}, "a", 0, kStart});
  queue.push({RequestId{2}, "b", 0, kStart});
  EXPECT_EQ(queue.front_of_fewest({{"a", 5}, {"b", 2}}), RequestId{1});
  EXPECT_EQ(queue.front_of_fewest({{"a", 7}, {"b", 2}}), RequestId{2});
}

TEST(FairQueue, ServesTenantsByTokensAndWeights) {
  FairQueue queue({.weights = {{"c", 2}}});
  std::map<std::string, uint64_t> served;
  uint64_t request = 0;
  for (const std::string tenant : {"a", "b", "c"}) {
    for (int i = 0; i < 2000; ++i) queue.push({RequestId{++request}, tenant, 0, kStart});
  }
  // Requests of "a" cost ten times those of "b".
  const std::map<std::string, uint64_t> cost = {{"a", 1000}, {"b", 100}, {"c", 500}};
  for (int i = 0; i < 1500; ++i) {
    const RequestId next = *queue.front(kStart);
    const std::string tenant = next.value <= 2000 ? "a" : next.value <= 4000 ? "b" : "c";
    queue.erase(next);
    queue.charge(tenant, cost.at(tenant));
    served[tenant] += cost.at(tenant);
    ASSERT_EQ(queue.check(), "");
  }
  EXPECT_NEAR(static_cast<double>(served["b"]), static_cast<double>(served["a"]), 1100);
  EXPECT_NEAR(static_cast<double>(served["c"]), 2.0 * static_cast<double>(served["a"]), 2100);
}

TEST(FairQueue, TimeWithoutWorkEarnsNothing) {
  FairQueue queue(kOptions);
  queue.push({RequestId{1}, "busy", 0, kStart});
  queue.push({RequestId{2}, "busy", 0, kStart});
  queue.charge("busy", 1'000'000);
  queue.push({RequestId{3}, "late", 0, kStart});
  queue.push({RequestId{4}, "late", 0, kStart});
  // From here on both have the same right: "late" does not get a million tokens first.
  queue.charge("late", 10);
  EXPECT_EQ(queue.front(kStart), RequestId{1});
}

TEST(FairQueue, ANewTenantBeginsAtTheLevelOfTheOneWhoWaitedLast) {
  FairQueue queue(kOptions);
  queue.push({RequestId{1}, "light", 0, kStart});
  queue.erase(RequestId{1});  // it runs, and nobody waits
  queue.charge("light", 30'000);
  queue.push({RequestId{2}, "heavy", 0, kStart});
  queue.push({RequestId{3}, "heavy", 0, kStart});
  queue.push({RequestId{4}, "light", 0, kStart});
  queue.erase(RequestId{2});
  queue.charge("heavy", 100);
  EXPECT_EQ(queue.front(kStart), RequestId{4}) << "else it pays for what it had while alone";
}

TEST(FairQueue, RemembersABoundedNumberOfIdleTenants) {
  FairQueue queue(kOptions);
  for (uint64_t t = 0; t < 1000; ++t) queue.charge("tenant " + std::to_string(t), t);
  EXPECT_EQ(queue.check(), "");
  queue.push({RequestId{1}, "tenant 999", 0, kStart});
  queue.push({RequestId{2}, "tenant 1", 0, kStart});
  EXPECT_EQ(queue.front(kStart), RequestId{1}) << "a forgotten tenant starts at the others' level";
}

void push_and_serve(uint64_t seed) {
  FairQueue queue(kOptions);
  uint64_t draws = 0;
  const auto draw = [&](uint64_t n) { return random_bits(seed, draws++) % n; };
  std::map<RequestId, Instant> pushed;
  Instant now = kStart;
  uint64_t request = 0;
  Duration longest;
  for (int i = 0; i < 30'000; ++i) {  // one in, one out, after a backlog of 50
    now = now + milliseconds(100);
    const RequestId id{++request};
    pushed[id] = now;
    queue.push({id, std::string(1, static_cast<char>('a' + draw(4))),
                static_cast<uint32_t>(draw(3)), now});
    if (i < 50) continue;
    const RequestId next = *queue.front(now);
    longest = std::max(longest, now - pushed.at(next));
    queue.erase(next);
    queue.charge(std::string(1, static_cast<char>('a' + draw(4))), draw(100));
  }
  EXPECT_EQ(queue.check(), "");
  EXPECT_LT(longest, seconds(60)) << "5 s of backlog, 20 s of head start, and fair turns";
}

TEST(FairQueue, NobodyIsPassedForEverWhateverGoesInAndOut) { for_each_seed(1, push_and_serve, 3); }

}  // namespace
}  // namespace troupe::scheduler
