#include "kvcache/holder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::kvcache {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Tokens = std::vector<TokenId>;

std::string text(const Copy& copy) {
  if (const auto* out = std::get_if<CopyToHost>(&copy)) {
    return std::to_string(out->from.value) + ">h" + std::to_string(out->to.value);
  }
  if (const auto* in = std::get_if<CopyToDevice>(&copy)) {
    return "h" + std::to_string(in->from.value) + ">" + std::to_string(in->to.value);
  }
  const auto& within = std::get<CopyBlock>(copy);
  return std::to_string(within.from.value) + ">" + std::to_string(within.to.value);
}

/// "granted 1: 0 1 2, cached 8; 5>h0 h3>2 1>2" (out to host slot 0, in from slot 3, a copy).
std::string text(const HolderEffect& effect) {
  std::string line;
  const auto list = [&](const std::vector<BlockId>& blocks) {
    for (const BlockId block : blocks) line += " " + std::to_string(block.value);
  };
  const auto copied = [&](const std::vector<Copy>& copies) {
    for (size_t i = 0; i < copies.size(); ++i) line += (i == 0 ? "; " : " ") + text(copies[i]);
  };
  if (const auto* granted = std::get_if<Granted>(&effect)) {
    line = "granted " + std::to_string(granted->request.value) + ":";
    list(granted->table);
    line += ", cached " + std::to_string(granted->cached_len);
    copied(granted->copies);
  } else if (const auto* extended = std::get_if<Extended>(&effect)) {
    line = "extended " + std::to_string(extended->request.value) + ":";
    list(extended->blocks);
    copied(extended->copies);
  } else if (const auto* refused = std::get_if<Refused>(&effect)) {
    line = "refused " + std::to_string(refused->request.value);
  } else if (const auto* first = std::get_if<CopiesFirst>(&effect)) {
    line = std::to_string(first->again.request.value) + " comes again";
    copied(first->copies);
  } else if (const auto* pending = std::get_if<Pending>(&effect)) {
    line = std::to_string(pending->request.value) + " waits for " +
           std::to_string(pending->computing.value);
  } else {
    line = "wake " + std::to_string(std::get<Wake>(effect).request.value);
  }
  return line;
}

/// first, first + 1, ...: `count` tokens.
Tokens count_from(TokenId first, size_t count) {
  Tokens tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = first + static_cast<TokenId>(i);
  return tokens;
}
Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// Blocks of four tokens.
class HolderTest : public ::testing::Test {
 protected:
  explicit HolderTest(uint32_t num_blocks = 8, uint32_t num_host_slots = 0,
                      uint32_t max_copies = 32)
      : holder({.num_blocks = num_blocks,
                .num_host_slots = num_host_slots,
                .block_tokens = 4,
                .max_copies = max_copies}) {}

  std::vector<std::string> tell(const HolderEvent& event) {
    std::vector<std::string> lines;
    for (const HolderEffect& effect : holder.handle(event)) lines.push_back(text(effect));
    EXPECT_EQ(holder.check(), "");
    return lines;
  }
  std::vector<std::string> reserve(uint64_t request, const Tokens& tokens, uint32_t room = 0,
                                   const std::string& cache_namespace = "") {
    room = std::max(room, static_cast<uint32_t>(tokens.size()));
    return tell(Reserve{RequestId{request}, cache_namespace, tokens, room});
  }
  std::vector<std::string> read(uint64_t reader, const Tokens& tokens) {
    return tell(Reserve{.request = RequestId{reader}, .tokens = tokens, .cached_only = true});
  }
  std::vector<std::string> extend(uint64_t request, uint32_t room) {
    return tell(Extend{RequestId{request}, room});
  }
  std::vector<std::string> computed(uint64_t request, uint32_t first, const Tokens& tokens) {
    return tell(Computed{RequestId{request}, first, tokens});
  }
  std::vector<std::string> release(uint64_t request) { return tell(Release{RequestId{request}}); }
  /// A request that comes, computes all its tokens and leaves.
  std::vector<std::string> run(uint64_t request, const Tokens& tokens,
                               const std::string& cache_namespace = "") {
    auto lines = reserve(request, tokens, 0, cache_namespace);
    computed(request, 0, tokens);
    release(request);
    return lines;
  }
  uint32_t found(const Tokens& tokens, const std::string& cache_namespace = "") {
    return holder.match_len(cache_namespace, tokens + Tokens{-1});
  }

  Holder holder;
};

// --- what is found ----------------------------------------------------------------------------

TEST_F(HolderTest, GivesARequestRoomForAllItsTokens) {
  EXPECT_THAT(reserve(1, {1, 2, 3}, 9), ElementsAre("granted 1: 0 1 2, cached 0"));
  EXPECT_EQ(holder.stats().cache.used_blocks, 3U);
  EXPECT_THAT(release(1), IsEmpty());
  EXPECT_EQ(holder.stats().cache.free_blocks, 8U) << "nothing was computed, nothing stays";
}

TEST_F(HolderTest, FindsWhatAFinishedRequestComputedAndGenerated) {
  reserve(1, count_from(1, 6), 12);
  computed(1, 0, count_from(1, 6));
  computed(1, 6, {7});
  computed(1, 7, {8});
  release(1);
  EXPECT_EQ(holder.stats().cache.idle_blocks, 2U);
  EXPECT_THAT(reserve(2, count_from(1, 8) + Tokens{50, 51}),
              ElementsAre("granted 2: 0 1 2, cached 8"))
      << "the second turn of a conversation";
}

TEST_F(HolderTest, SharesTheBlocksOfARequestThatRuns) {
  reserve(1, count_from(1, 9));
  computed(1, 0, count_from(1, 9));
  EXPECT_THAT(reserve(2, count_from(1, 8) + Tokens{50}), ElementsAre("granted 2: 0 1 3, cached 8"));
  EXPECT_EQ(holder.stats().cache.used_blocks, 4U);
  release(1);
  EXPECT_EQ(holder.stats().cache.used_blocks, 3U) << "two of the blocks have another owner";
}

TEST_F(HolderTest, FindsAChunkAsSoonAsItIsComputed) {
  reserve(1, count_from(1, 12));
  computed(1, 0, count_from(1, 5));
  EXPECT_EQ(found(count_from(1, 12)), 5U);
  computed(1, 5, count_from(6, 2));
  EXPECT_EQ(found(count_from(1, 12)), 7U);
  computed(1, 7, count_from(8, 5));
  EXPECT_EQ(found(count_from(1, 12)), 12U);
}

TEST_F(HolderTest, LeavesTheLastKnownTokenToBeComputed) {
  run(1, count_from(1, 8));
  EXPECT_EQ(holder.match_len("", count_from(1, 8)), 7U);
  EXPECT_THAT(reserve(2, count_from(1, 8)), ElementsAre("granted 2: 0 2, cached 7; 1>2"))
      << "its last token goes into a copy, not into the shared block";
  EXPECT_EQ(holder.match_len("", Tokens{1}), 0U);
  EXPECT_EQ(holder.match_len("", Tokens{}), 0U);
}

TEST_F(HolderTest, CopiesABlockOfWhichOnlyTheBeginningMatches) {
  run(1, count_from(1, 8));
  EXPECT_THAT(reserve(2, {1, 2, 3, 4, 5, 6, 99, 99, 99}),
              ElementsAre("granted 2: 0 2 3, cached 6; 1>2"));
  EXPECT_THAT(reserve(3, {1, 99}), ElementsAre("granted 3: 4, cached 1; 0>4"));
}

TEST_F(HolderTest, SharesThePartOfTheLastBlockThatARunningRequestHasComputed) {
  reserve(1, count_from(1, 6), 20);
  computed(1, 0, count_from(1, 6));
  EXPECT_THAT(reserve(2, count_from(1, 6), 8), ElementsAre("granted 2: 0 5, cached 5; 1>5"))
      << "a second choice of the same prompt";
  computed(1, 6, {7});
  computed(1, 7, {8});
  computed(1, 8, {9});
  EXPECT_THAT(reserve(3, count_from(1, 10)), ElementsAre("granted 3: 0 1 6, cached 9; 2>6"));
}

TEST_F(HolderTest, KeepsTheTailsOfChoicesThatDiffer) {
  reserve(1, count_from(1, 6), 8);
  computed(1, 0, count_from(1, 6));
  reserve(2, count_from(1, 6), 8);
  computed(2, 5, {6, 70});
  computed(1, 6, {7});
  EXPECT_EQ(found({1, 2, 3, 4, 5, 6, 7, 8}), 7U);
  EXPECT_EQ(found({1, 2, 3, 4, 5, 6, 70, 8}), 7U);
}

TEST_F(HolderTest, NeverSharesBetweenNamespaces) {
  reserve(1, count_from(1, 9), 0, "a");
  EXPECT_THAT(reserve(2, count_from(1, 9), 0, "b"), ElementsAre("granted 2: 3 4 5, cached 0"))
      << "neither waits";
  computed(1, 0, count_from(1, 9));
  release(1);
  EXPECT_EQ(found(count_from(1, 9), "a"), 9U);
  EXPECT_EQ(found(count_from(1, 9), "b"), 0U);
  EXPECT_EQ(found(count_from(1, 9), ""), 0U);
}

TEST_F(HolderTest, KeepsOneEntryWhenTwoRequestsComputeTheSame) {
  reserve(1, {1, 2, 3}, 16);
  reserve(2, {1, 2, 3}, 16);
  computed(1, 0, count_from(1, 4));
  computed(2, 0, count_from(1, 9));
  EXPECT_EQ(found(count_from(1, 9)), 9U) << "the second goes on below the entry of the first";
  release(1);
  EXPECT_EQ(holder.stats().cache.used_blocks, 5U) << "it holds what is above its own entries";
  release(2);
  EXPECT_EQ(holder.stats().cache.idle_blocks, 3U);
  EXPECT_EQ(holder.stats().cache.free_blocks, 5U);
}

TEST_F(HolderTest, DropsATailWhenALongerOneIsPublished) {
  for (uint64_t turn = 1; turn <= 3; ++turn) {
    run(turn, count_from(1, 4 * turn + 1));
    EXPECT_EQ(found(count_from(1, 4 * turn + 1)), 4 * turn + 1);
    EXPECT_EQ(holder.stats().cache.idle_blocks, turn + 1) << "a conversation leaves one tail only";
  }
}

TEST_F(HolderTest, MatchingForTheChoiceOfARouterChangesNothing) {
  run(1, count_from(1, 8));
  run(2, count_from(11, 8));
  for (int i = 0; i < 10; ++i) found(count_from(1, 8));
  reserve(3, count_from(21, 20));
  EXPECT_EQ(found(count_from(1, 8)), 4U) << "the oldest goes first";
  EXPECT_EQ(found(count_from(11, 8)), 8U);
  EXPECT_EQ(holder.stats().queried_tokens_total, 36U);
  EXPECT_EQ(holder.stats().hit_tokens_total, 0U);
}

// --- waiting for another request --------------------------------------------------------------

TEST_F(HolderTest, LetsARequestWaitForTheOneThatComputesItsNextBlock) {
  reserve(1, count_from(1, 10));
  EXPECT_THAT(reserve(2, count_from(1, 10) + Tokens{50}), ElementsAre("2 waits for 1"));
  EXPECT_EQ(holder.stats().waiting, 1U);
  EXPECT_EQ(holder.stats().cache.used_blocks, 3U) << "it holds nothing";
  EXPECT_THAT(computed(1, 0, count_from(1, 4)), IsEmpty()) << "more of what they share will come";
  EXPECT_THAT(computed(1, 4, count_from(5, 6)), ElementsAre("wake 2"));
  EXPECT_THAT(reserve(2, count_from(1, 10) + Tokens{50}),
              ElementsAre("granted 2: 0 1 3, cached 10; 2>3"));
}

TEST_F(HolderTest, ComputesACommonPrefixOnceForSixtyFourRequests) {
  Holder wide({.num_blocks = 200, .num_host_slots = 0, .block_tokens = 4});
  const Tokens prefix = count_from(1, 40);
  const auto ask = [&](uint64_t r) {
    return wide.handle(Reserve{RequestId{r}, "", prefix + Tokens{1000 + static_cast<int>(r)}, 44});
  };
  for (uint64_t r = 0; r < 64; ++r) ASSERT_EQ(ask(r).size(), 1U);
  EXPECT_EQ(wide.stats().running, 1U);
  EXPECT_EQ(wide.stats().waiting, 63U);
  const auto woken = wide.handle(Computed{RequestId{0}, 0, prefix + Tokens{1000}});
  ASSERT_EQ(woken.size(), 63U);
  for (const HolderEffect& effect : woken) {
    const auto granted = ask(std::get<Wake>(effect).request.value);
    ASSERT_EQ(std::get<Granted>(granted.at(0)).cached_len, 40U);
  }
  EXPECT_EQ(wide.check(), "");
  const HolderStats stats = wide.stats();
  EXPECT_EQ(stats.queried_tokens_total - stats.hit_tokens_total, 41U + 63U) << "tokens to compute";
  EXPECT_EQ(stats.cache.used_blocks, 10U + 64U);
}

TEST_F(HolderTest, WakesThoseWhoWaitWhenTheOtherLeavesOrIsPreempted) {
  reserve(1, count_from(1, 10));
  reserve(2, count_from(1, 10));
  reserve(3, count_from(1, 9));
  EXPECT_THAT(release(1), ElementsAre("wake 2", "wake 3"));
  EXPECT_THAT(reserve(2, count_from(1, 10)), ElementsAre("granted 2: 0 1 2, cached 0"));
  EXPECT_THAT(reserve(3, count_from(1, 9)), ElementsAre("3 waits for 2"));
  EXPECT_THAT(reserve(1, count_from(1, 10)), ElementsAre("1 waits for 2"));
}

TEST_F(HolderTest, DoesNotWakeARequestThatLeftOrRuns) {
  reserve(1, count_from(1, 10));
  reserve(2, count_from(1, 10));
  EXPECT_THAT(release(2), IsEmpty());
  reserve(3, count_from(1, 10));
  EXPECT_THAT(reserve(3, count_from(31, 10)), ElementsAre("granted 3: 3 4 5, cached 0"))
      << "asked again with other tokens, it does not wait any longer";
  EXPECT_THAT(computed(1, 0, count_from(1, 10)), IsEmpty());
}

TEST_F(HolderTest, WaitsOnlyWhereAWholeBlockIsToBeGained) {
  reserve(1, count_from(1, 7), 8);
  EXPECT_THAT(reserve(2, count_from(1, 3)), ElementsAre("granted 2: 2, cached 0"));
  EXPECT_THAT(reserve(3, {1, 2, 3, 99, 99}), ElementsAre("granted 3: 3 4, cached 0"));
  computed(1, 0, count_from(1, 4));
  EXPECT_THAT(reserve(4, count_from(1, 7)), ElementsAre("granted 4: 0 5, cached 4"))
      << "the other one computes its block, but that is not whole";
}

TEST_F(HolderTest, DoesNotWaitForTheLastTokenOfABlock) {
  reserve(1, count_from(1, 8));
  computed(1, 0, count_from(1, 7));
  EXPECT_THAT(reserve(2, count_from(1, 8)), ElementsAre("granted 2: 0 2, cached 7; 1>2"));
}

// --- reading what is cached ---------------------------------------------------------------------

TEST_F(HolderTest, GivesReadersWholeCachedBlocksAndNoneToFill) {
  run(1, count_from(1, 10));
  EXPECT_THAT(read(2, count_from(1, 21)), ElementsAre("granted 2: 0 1, cached 8"));
  EXPECT_EQ(holder.stats().cache.used_blocks, 2U);
  EXPECT_THAT(read(3, count_from(51, 9)), ElementsAre("granted 3:, cached 0"));
  EXPECT_THAT(read(4, {7}), ElementsAre("granted 4:, cached 0"));
  EXPECT_THAT(reserve(5, count_from(91, 24)), ElementsAre(HasSubstr("granted 5: ")));
  EXPECT_THAT(read(6, count_from(1, 21)), ElementsAre("granted 6: 0 1, cached 8"))
      << "it needs no room";
  for (const uint64_t reader : {2, 3, 4, 6}) EXPECT_THAT(release(reader), IsEmpty());
  EXPECT_EQ(holder.stats().cache.used_blocks, 6U);
}

TEST_F(HolderTest, LetsNobodyWaitForAReaderNorReadersForAnybody) {
  run(1, count_from(1, 8));
  read(2, count_from(1, 21));
  EXPECT_THAT(reserve(3, count_from(1, 20)), ElementsAre("granted 3: 0 1 2 3 4, cached 8"))
      << "the reader computes nothing";
  EXPECT_THAT(read(4, count_from(1, 21)), ElementsAre("granted 4: 0 1, cached 8"))
      << "though 3 computes more";
}

// --- room -------------------------------------------------------------------------------------

TEST_F(HolderTest, EvictsTheLeastRecentlyUsedFirst) {
  run(1, count_from(1, 8));
  run(2, count_from(11, 8));
  run(3, count_from(21, 8));
  EXPECT_THAT(reserve(4, count_from(31, 13)), ElementsAre("granted 4: 6 7 1 0, cached 0"));
  EXPECT_EQ(found(count_from(1, 8)), 0U);
  EXPECT_EQ(found(count_from(11, 8)), 8U);
  EXPECT_EQ(holder.stats().cache.evicted_total, 2U);
}

TEST_F(HolderTest, EvictsLeavesBeforeWhatTheyHaveInCommon) {
  const Tokens prefix = count_from(1, 4);
  run(1, prefix + count_from(11, 4));
  run(2, prefix + count_from(21, 4));
  run(3, count_from(31, 20));
  reserve(4, count_from(61, 8));
  EXPECT_EQ(found(prefix + count_from(11, 4)), 4U);
  EXPECT_EQ(found(prefix + count_from(21, 4)), 4U);
  EXPECT_EQ(found(count_from(31, 20)), 20U);
  release(4);
  reserve(5, count_from(61, 12));
  EXPECT_EQ(found(prefix), 4U) << "found twice, it outlives what is only newer";
  EXPECT_EQ(found(count_from(31, 20)), 16U);
}

TEST_F(HolderTest, NeverTakesABlockThatARequestUses) {
  run(1, count_from(1, 8));
  reserve(2, count_from(1, 8) + Tokens{50});
  EXPECT_THAT(reserve(3, count_from(21, 24)), ElementsAre("refused 3"));
  EXPECT_THAT(reserve(3, count_from(21, 20)), ElementsAre("granted 3: 3 4 5 6 7, cached 0"));
  EXPECT_THAT(reserve(4, {99}), ElementsAre("refused 4"));
  release(2);
  EXPECT_THAT(reserve(4, {99}), ElementsAre("granted 4: 2, cached 0")) << "evicts nothing";
  EXPECT_EQ(found(count_from(1, 8)), 8U);
}

TEST_F(HolderTest, RefusesWithoutEvictingAnything) {
  run(1, count_from(1, 16));
  reserve(2, count_from(51, 12));
  EXPECT_THAT(reserve(3, count_from(71, 24)), ElementsAre("refused 3"));
  EXPECT_THAT(reserve(3, count_from(1, 16) + count_from(71, 16)), ElementsAre("refused 3"));
  EXPECT_THAT(reserve(4, count_from(71, 99)), ElementsAre("refused 4")) << "would never fit";
  EXPECT_EQ(found(count_from(1, 16)), 16U);
  EXPECT_EQ(holder.stats().cache.evicted_total, 0U);
  EXPECT_EQ(holder.stats().refused_total, 3U);
}

TEST_F(HolderTest, CountsNoGuests) {
  const uint64_t guest = kFirstGuest.value;
  run(1, count_from(1, 8));
  reserve(2, count_from(1, 8) + count_from(51, 8));
  const HolderStats before = holder.stats();
  EXPECT_THAT(reserve(guest, count_from(1, 8) + Tokens{70}),
              ElementsAre("granted " + std::to_string(guest) + ": 0 1 4, cached 8"));
  release(guest);
  EXPECT_THAT(reserve(guest + 1, count_from(1, 8) + count_from(51, 5)),
              ElementsAre(HasSubstr("waits for 2")));
  EXPECT_THAT(reserve(guest + 2, count_from(71, 99)), ElementsAre(HasSubstr("refused")));
  const HolderStats after = holder.stats();
  EXPECT_EQ(after.queried_tokens_total, before.queried_tokens_total);
  EXPECT_EQ(after.hit_tokens_total, before.hit_tokens_total);
  EXPECT_EQ(after.pending_total, before.pending_total);
  EXPECT_EQ(after.refused_total, before.refused_total);
}

TEST_F(HolderTest, GivesUpABlockItWouldCopyWhenThatIsTheLastRoom) {
  run(1, count_from(1, 32));
  EXPECT_THAT(reserve(2, count_from(1, 30), 32),
              ElementsAre("granted 2: 0 1 2 3 4 5 6 7, cached 28"));
}

TEST_F(HolderTest, KeepsWhatIsFoundAgainThroughAScanButNotForEver) {
  run(1, count_from(1, 8));
  run(2, count_from(1, 8) + Tokens{50});
  run(3, count_from(1, 8) + Tokens{60});
  for (uint64_t r = 10; r < 12; ++r) run(r, count_from(static_cast<TokenId>(r) * 100, 24));
  EXPECT_EQ(found(count_from(1, 8)), 8U) << "recency alone would have lost it";
  for (uint64_t r = 20; r < 40; ++r) run(r, count_from(static_cast<TokenId>(r) * 100, 24));
  EXPECT_EQ(found(count_from(1, 8)), 0U);
}

TEST_F(HolderTest, ExtendsATableAndEvictsForIt) {
  run(1, count_from(1, 8));
  reserve(2, count_from(11, 20));
  EXPECT_THAT(extend(2, 20), ElementsAre("extended 2:"));
  EXPECT_THAT(extend(2, 25), ElementsAre("extended 2: 7 1"));
  EXPECT_THAT(extend(2, 32), ElementsAre("extended 2: 0"));
  EXPECT_THAT(extend(2, 33), ElementsAre("refused 2"));
  EXPECT_THAT(extend(2, 3), ElementsAre("extended 2:")) << "a table never shrinks";
  EXPECT_EQ(found(count_from(1, 8)), 0U);
}

TEST_F(HolderTest, ResumesAPreemptedRequestFromWhatItPublished) {
  reserve(1, count_from(1, 9), 12);
  computed(1, 0, count_from(1, 9));
  computed(1, 9, {10});
  EXPECT_THAT(release(1), IsEmpty());
  EXPECT_THAT(reserve(1, count_from(1, 11), 16), ElementsAre("granted 1: 0 1 3 4, cached 10; 2>3"));
}

// --- the host tier ----------------------------------------------------------------------------

class HolderWithHostTest : public HolderTest {
 protected:
  HolderWithHostTest() : HolderTest(4, 3) {}
};

TEST_F(HolderWithHostTest, MovesWhatItEvictsToTheHostAndBringsItBack) {
  run(1, count_from(1, 10));
  EXPECT_THAT(reserve(2, count_from(21, 16)),
              ElementsAre("granted 2: 3 2 1 0, cached 0; 2>h0 1>h1 0>h2"))
      << "a block is copied away before it is given to another";
  EXPECT_EQ(found(count_from(1, 10)), 10U);
  release(2);
  EXPECT_THAT(reserve(3, count_from(1, 10) + Tokens{50}),
              ElementsAre("granted 3: 3 2 1, cached 10; h2>3 h1>2 h0>1"))
      << "the tail comes straight into the request's own block, and stays on the host";
  EXPECT_EQ(holder.stats().host_hit_tokens_total, 10U);
  EXPECT_EQ(holder.stats().cache.host_entries, 1U);
  EXPECT_EQ(holder.stats().cache.brought_back_total, 2U);
}

TEST_F(HolderWithHostTest, SwapsTheTiersWhenBothAreFull) {
  run(1, count_from(1, 12));
  run(2, count_from(21, 16));
  EXPECT_EQ(holder.stats().cache.host_entries, 3U);
  EXPECT_THAT(reserve(3, count_from(1, 12) + Tokens{50}),
              ElementsAre("granted 3: 0 1 2 3, cached 12; h2>0 1>h2 h1>1 2>h1 h0>2 3>h0"))
      << "one was forgotten, as no slot was free yet; then each slot is reused once it is read";
  EXPECT_EQ(found(count_from(21, 16)), 12U);
}

TEST_F(HolderWithHostTest, ForgetsTheLeastWorthOnTheHost) {
  run(1, count_from(1, 12));
  run(2, count_from(21, 16));
  run(3, count_from(41, 8));
  EXPECT_EQ(found(count_from(1, 12)), 4U);
  EXPECT_EQ(found(count_from(21, 16)), 16U);
  EXPECT_EQ(found(count_from(41, 8)), 8U);
}

TEST_F(HolderWithHostTest, PutsARecomputedBlockInThePlaceOfItsHostCopy) {
  run(1, count_from(1, 8));
  reserve(2, count_from(1, 3), 16);
  computed(2, 0, count_from(1, 8));
  release(2);
  EXPECT_EQ(found(count_from(1, 8)), 8U);
  EXPECT_EQ(holder.stats().cache.host_entries, 0U);
}

TEST_F(HolderWithHostTest, CopiesOnlyWhatCostsMoreToComputeAgain) {
  // 2 ms out and back; 1 ms for the rows of the first block, half a millisecond more for each one.
  tell(CostsMeasured{
      {.copy = milliseconds(1), .compute = milliseconds(1), .compute_deeper = microseconds(500)}});
  run(1, count_from(1, 8));
  run(2, count_from(21, 8));
  reserve(3, count_from(41, 8));
  EXPECT_EQ(found(count_from(1, 8)), 0U) << "its second block would cost 1.5 ms";
  EXPECT_EQ(holder.stats().cache.evicted_total, 2U);
  EXPECT_EQ(holder.stats().cache.host_entries, 0U);
  release(3);
  run(4, count_from(61, 16));
  EXPECT_EQ(found(count_from(21, 8)), 0U);
  reserve(5, count_from(81, 16));
  EXPECT_EQ(holder.stats().cache.host_entries, 3U)
      << "the third and fourth, and with them one more";
  EXPECT_EQ(found(count_from(61, 16)), 12U);
  release(5);
  tell(CostsMeasured{{.copy = microseconds(500), .compute = milliseconds(1)}});
  run(6, count_from(101, 4));
  reserve(7, count_from(121, 16));
  EXPECT_EQ(found(count_from(101, 4)), 4U) << "it pays now: as much as computing it";
}

TEST_F(HolderWithHostTest, CopiesOneOfManyThatAreNotWorthItToMeasureOn) {
  tell(CostsMeasured{{.copy = milliseconds(2), .compute = milliseconds(1)}});
  for (uint32_t i = 1; i <= 2 * PrefixCache::kMeasureOneOf + 4; ++i) {
    run(i, count_from(static_cast<TokenId>(10 * i), 4));
    const uint64_t evicted = holder.stats().cache.evicted_total;
    EXPECT_EQ(holder.stats().cache.offloaded_total, evicted / PrefixCache::kMeasureOneOf);
  }
  EXPECT_EQ(holder.stats().cache.offloaded_total, 2U);
}

TEST_F(HolderWithHostTest, CopiesAtOnceWhatTakesNoLongerThanTheTarget) {
  for (const auto& [copy, most] :
       {std::pair{microseconds(100), 40U}, {microseconds(700), 14U}, {milliseconds(9), 8U}}) {
    Holder full({.num_blocks = 40,
                 .num_host_slots = 40,
                 .block_tokens = 4,
                 .copies_target = milliseconds(10)});
    const RequestId first{1}, second{2};
    (void)full.handle(Reserve{first, "", count_from(1, 160), 160});
    (void)full.handle(Computed{first, 0, count_from(1, 160)});
    (void)full.handle(Release{first});
    (void)full.handle(CostsMeasured{{.copy = copy, .compute = seconds(1)}});
    (void)full.handle(Reserve{second, "", count_from(201, 160), 160});
    EXPECT_LE(full.stats().cache.offloaded_total, most);
    EXPECT_GE(full.stats().cache.offloaded_total, most - 1);
  }
}

/// Ten blocks, room for all of them on the host, three copies at once.
class HolderWithFewCopiesTest : public HolderTest {
 protected:
  HolderWithFewCopiesTest() : HolderTest(10, 20, 3) {}
};

TEST_F(HolderWithFewCopiesTest, MakesRoomForALongPromptInSeveralTurns) {
  run(1, count_from(1, 40));
  for (int turn = 0; turn < 3; ++turn) {
    const auto said = reserve(2, count_from(51, 32));
    ASSERT_EQ(said.size(), 1U);
    EXPECT_THAT(said[0], HasSubstr("2 comes again; ")) << "turn " << turn;
    EXPECT_EQ(holder.stats().cache.offloaded_total, 2U * (turn + 1));
    EXPECT_EQ(holder.stats().cache.free_blocks, 2U * (turn + 1)) << "it holds nothing";
    EXPECT_EQ(holder.stats().running, 0U);
  }
  EXPECT_THAT(reserve(2, count_from(51, 32)), ElementsAre(HasSubstr("granted 2: ")));
  EXPECT_EQ(holder.stats().cache.offloaded_total, 8U);
  EXPECT_EQ(found(count_from(1, 40)), 40U) << "all of it is cached still";
}

TEST_F(HolderWithFewCopiesTest, BringsALongPrefixBackInSeveralTurns) {
  run(1, count_from(1, 32));
  for (int turns = 0; reserve(2, count_from(51, 40))[0].starts_with("2 comes again"); ++turns) {
    ASSERT_LT(turns, 10);
  }
  release(2);
  for (int turn = 1; turn <= 4; ++turn) {
    EXPECT_THAT(reserve(3, count_from(1, 32) + Tokens{99}),
                ElementsAre(HasSubstr(turn < 4 ? "3 comes again; " : "granted 3: ")));
    EXPECT_EQ(holder.stats().cache.brought_back_total, 2U * turn);
  }
  EXPECT_EQ(holder.stats().hit_tokens_total, 32U);
  EXPECT_EQ(holder.stats().host_hit_tokens_total, 32U);
}

TEST_F(HolderWithFewCopiesTest, BringsAPrefixBackForAReaderInSeveralTurns) {
  run(1, count_from(1, 32));
  while (reserve(2, count_from(51, 40))[0].starts_with("2 comes again")) {
  }
  EXPECT_THAT(read(3, count_from(1, 40)), ElementsAre("refused 3")) << "2 has all blocks";
  release(2);
  for (int turn = 1; turn <= 4; ++turn) {
    EXPECT_THAT(read(3, count_from(1, 40)),
                ElementsAre(HasSubstr(turn < 4 ? "3 comes again; " : ", cached 32")));
    EXPECT_EQ(holder.stats().cache.brought_back_total, 2U * turn);
  }
  EXPECT_EQ(holder.stats().cache.used_blocks, 8U);
}

TEST_F(HolderWithFewCopiesTest, OthersMayTakeWhatWasFreedMeanwhile) {
  run(1, count_from(1, 40));
  EXPECT_THAT(reserve(2, count_from(51, 32)), ElementsAre(HasSubstr("2 comes again; ")));
  reserve(3, count_from(91, 8));
  EXPECT_THAT(reserve(2, count_from(51, 32)), ElementsAre(HasSubstr("2 comes again; ")));
  extend(3, 12);
  EXPECT_THAT(reserve(2, count_from(51, 32)), ElementsAre("refused 2"));
  release(2);
  release(3);
  EXPECT_EQ(holder.stats().cache.used_blocks, 0U);
}

TEST_F(HolderTest, ForgetsWhatItEvictsWithoutAHostTier) {
  run(1, count_from(1, 32));
  EXPECT_THAT(reserve(2, count_from(51, 8)), ElementsAre("granted 2: 7 6, cached 0"));
  EXPECT_EQ(found(count_from(1, 32)), 24U);
  EXPECT_EQ(holder.stats().cache.offloaded_total, 0U);
}

// --- what should not happen -------------------------------------------------------------------

TEST_F(HolderTest, IgnoresRepeatedAndUnknownEvents) {
  EXPECT_THAT(release(9), IsEmpty());
  EXPECT_THAT(extend(9, 4), IsEmpty());
  EXPECT_THAT(computed(9, 0, {1}), IsEmpty());
  reserve(1, count_from(1, 9), 12);
  EXPECT_THAT(reserve(1, count_from(1, 9), 12), IsEmpty()) << "it was answered";
  computed(1, 0, count_from(1, 6));
  EXPECT_THAT(computed(1, 0, count_from(1, 6)), IsEmpty());
  EXPECT_THAT(computed(1, 2, count_from(3, 2)), IsEmpty());
  computed(1, 4, count_from(5, 6));
  EXPECT_EQ(found(count_from(1, 10)), 10U) << "an overlap is trimmed";
  release(1);
  EXPECT_THAT(release(1), IsEmpty());
  EXPECT_EQ(holder.stats().cache.idle_blocks, 3U);
}

using HolderDeathTest = HolderTest;

TEST_F(HolderDeathTest, StopsTheProcessWhenItIsToldOtherTokensOrAGap) {
  reserve(1, count_from(1, 6), 8);
  computed(1, 0, count_from(1, 2));
  EXPECT_DEATH(computed(1, 3, {4}), "first_position");
  EXPECT_DEATH(computed(1, 2, {99}), "equal");
  EXPECT_DEATH(computed(1, 0, count_from(1, 9)), "table");
  EXPECT_DEATH(reserve(2, {}), "tokens");
}

}  // namespace
}  // namespace troupe::kvcache
