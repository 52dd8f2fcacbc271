#include "kvcache/transfers.hpp"

#include <gtest/gtest.h>

#include <deque>

#include "base/random.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::kvcache {
namespace {

constexpr uint32_t kBlockTokens = 4;
constexpr NodeId kHere{1}, kThere{2};
using Tokens = std::vector<TokenId>;

Tokens counting(size_t count) {
  Tokens tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<TokenId>(i);
  return tokens;
}

std::string num(uint64_t value) { return std::to_string(value); }

std::string text(const TransferEffect& effect) {
  struct Text {
    std::string operator()(const TellHolder& e) const {
      if (const auto* reserve = std::get_if<Reserve>(&e.event)) {
        return (reserve->cached_only ? "reserve cached " : "reserve ") + reserve->cache_namespace +
               num(reserve->tokens.size());
      }
      if (const auto* computed = std::get_if<Computed>(&e.event)) {
        return "computed " + num(computed->first_position) + "+" + num(computed->tokens.size());
      }
      return std::holds_alternative<Release>(e.event) ? "release" : "?";
    }
    std::string operator()(const AskRouter& e) const {
      return "ask " + num(e.from.value) + " for " + e.what.cache_namespace +
             num(e.what.first_block) + "+" + num(e.what.num_blocks) + " of " +
             num(e.what.tokens.size());
    }
    std::string operator()(const WriteBlock& e) const { return "write " + num(e.block.value); }
    std::string operator()(const FetchEnded& e) const { return "ended with " + num(e.num_blocks); }
    std::string operator()(const ReadBlocks& e) const {
      return "read " + num(e.first_block) + "+" + num(e.blocks.size()) + " of " +
             num(e.num_available);
    }
    std::string operator()(const SendNothing& e) const {
      return "nothing at " + num(e.first_block) + " of " + num(e.num_available);
    }
  };
  return std::visit(Text{}, effect);
}

class TransfersTest : public ::testing::Test {
 protected:
  std::string tell(const TransferEvent& event) {
    std::string lines;
    for (const TransferEffect& effect : transfers.handle(event, now)) {
      if (const auto* told = std::get_if<TellHolder>(&effect)) {
        if (const auto* reserve = std::get_if<Reserve>(&told->event)) guest = reserve->request;
      }
      if (const auto* read = std::get_if<ReadBlocks>(&effect)) reading = read->guest;
      lines += (lines.empty() ? "" : ", ") + text(effect);
    }
    EXPECT_EQ(transfers.check(), "");
    return lines;
  }
  std::string want(size_t num_tokens) {
    return tell(FetchWanted{kKey, kThere, "s/", counting(num_tokens)});
  }
  std::string grant(uint32_t num_blocks, uint32_t cached_len) {
    std::vector<BlockId> table;
    for (uint32_t i = 0; i < num_blocks; ++i) table.push_back(BlockId{100 + i});
    return tell(GuestGranted{guest, table, cached_len});
  }
  std::string arrive(uint32_t index, uint32_t num_available, bool has_data = true) {
    return tell(BlockArrived{kThere, kKey, index, num_available, has_data});
  }

  static constexpr TransferKey kKey{kHere, RequestId{7}, 1};
  Instant now;
  RequestId guest;    ///< that was reserved last
  RequestId reading;  ///< that a part was read for last
  Transfers transfers{{.block_tokens = kBlockTokens,
                       .window_blocks = 2,
                       .max_fetches = 1,
                       .max_reads = 1,
                       .patience = milliseconds(300)}};
};

TEST_F(TransfersTest, FetchesWholeBlocksAWindowAtATime) {
  EXPECT_EQ(want(17), "reserve s/17");
  EXPECT_TRUE(is_guest(guest));
  EXPECT_EQ(grant(5, 0), "ask 2 for s/0+2 of 9");
  EXPECT_EQ(arrive(0, 9), "write 100");
  EXPECT_EQ(arrive(1, 9), "write 101, ask 2 for s/2+2 of 17");
  EXPECT_EQ(arrive(2, 9), "write 102");
  EXPECT_EQ(arrive(3, 9), "write 103, computed 0+16, release, ended with 4");
  EXPECT_FALSE(transfers.waits());
  EXPECT_EQ(transfers.fetched_blocks(), 4U);
}

TEST_F(TransfersTest, LeavesTheLastTokenToBeComputed) {
  want(16);
  EXPECT_EQ(grant(4, 0), "ask 2 for s/0+2 of 9");
  arrive(0, 4);
  EXPECT_EQ(arrive(1, 4), "write 101, ask 2 for s/2+1 of 13");
  EXPECT_EQ(arrive(2, 4), "write 102, computed 0+12, release, ended with 3");
}

TEST_F(TransfersTest, AsksOnlyForWhatIsNotHere) {
  want(17);
  EXPECT_EQ(grant(5, 10), "ask 2 for s/2+2 of 17");
  arrive(2, 9);
  EXPECT_EQ(arrive(3, 9), "write 103, computed 10+6, release, ended with 2");
}

TEST_F(TransfersTest, EndsAtOnceWhereAllIsHereOrNoRoomIs) {
  want(17);
  EXPECT_EQ(grant(5, 16), "release, ended with 0");
  want(17);
  EXPECT_EQ(tell(GuestRefused{guest}), "release, ended with 0");
}

TEST_F(TransfersTest, TakesWhatTheOtherSideHas) {
  want(41);
  grant(11, 0);
  EXPECT_EQ(arrive(0, 1), "write 100, computed 0+4, release, ended with 1");
  want(41);
  grant(11, 0);
  EXPECT_EQ(arrive(0, 0, false), "release, ended with 0");
}

TEST_F(TransfersTest, KeepsWhatCameWhenTheRestDoesNot) {
  want(17);
  grant(5, 0);
  arrive(0, 9);
  now = now + milliseconds(299);
  EXPECT_EQ(tell(PatienceTick{}), "");
  now = now + milliseconds(1);
  EXPECT_EQ(tell(PatienceTick{}), "computed 0+4, release, ended with 1");
  want(17);
  grant(5, 0);
  EXPECT_EQ(tell(RouterLost{NodeId{3}}), "");
  EXPECT_EQ(tell(RouterLost{kThere}), "release, ended with 0");
}

TEST_F(TransfersTest, IsPatientAsLongAsBlocksCome) {
  want(17);
  now = now + milliseconds(200);
  grant(5, 0);
  now = now + milliseconds(200);
  EXPECT_EQ(tell(PatienceTick{}), "") << "the holder answered since";
  EXPECT_EQ(arrive(0, 2), "write 100");
  now = now + milliseconds(200);
  EXPECT_EQ(tell(PatienceTick{}), "") << "a block came since";
  now = now + milliseconds(100);
  EXPECT_EQ(tell(PatienceTick{}), "computed 0+4, release, ended with 1");
}

TEST_F(TransfersTest, WaitsNoLongerForItsHolder) {
  want(17);
  now = now + milliseconds(300);
  EXPECT_EQ(tell(PatienceTick{}), "release, ended with 0");
  EXPECT_EQ(grant(5, 0), "release") << "the answer comes too late";
}

TEST_F(TransfersTest, IgnoresRepeatsStrangersAndWhatIsOutOfOrder) {
  want(17);
  EXPECT_EQ(arrive(0, 2), "") << "there is no table to write to yet";
  grant(5, 0);
  EXPECT_EQ(arrive(1, 9), "");
  EXPECT_EQ(tell(BlockArrived{NodeId{3}, kKey, 0, 9, true}), "");
  EXPECT_EQ(tell(BlockArrived{kThere, {kHere, RequestId{7}, 2}, 0, 9, true}), "");
  EXPECT_EQ(arrive(0, 9), "write 100");
  EXPECT_EQ(arrive(0, 9), "");
}

TEST_F(TransfersTest, BoundsFetchesAndReads) {
  want(17);
  EXPECT_EQ(tell(FetchWanted{{kHere, RequestId{8}, 1}, kThere, "", counting(17)}), "ended with 0");
  EXPECT_EQ(tell(BlocksAsked{kKey, 0, 2, "s/", counting(9)}), "reserve cached s/9");
  EXPECT_EQ(tell(BlocksAsked{kKey, 0, 2, "", counting(9)}), "nothing at 0 of 0");
}

TEST_F(TransfersTest, AbandonsAFetch) {
  want(17);
  EXPECT_EQ(tell(FetchAbandoned{kKey}), "release");
  EXPECT_EQ(grant(5, 0), "release");
  EXPECT_FALSE(transfers.waits());
}

TEST_F(TransfersTest, GivesWhatIsCachedAndNoMore) {
  EXPECT_EQ(tell(BlocksAsked{kKey, 1, 9, "", counting(33)}), "reserve cached 33");
  EXPECT_EQ(grant(9, 30), "read 1+2 of 7") << "a window at most";
  EXPECT_EQ(tell(ReadEnded{guest}), "release");
  EXPECT_EQ(tell(ReadEnded{guest}), "");
  tell(ReadTurn{});
  tell(BlocksAsked{kKey, 6, 9, "", counting(33)});
  EXPECT_EQ(grant(9, 30), "read 6+1 of 7");
  tell(ReadEnded{guest});
  tell(BlocksAsked{kKey, 7, 9, "", counting(33)});
  EXPECT_EQ(grant(9, 30), "nothing at 7 of 7, release");
  tell(BlocksAsked{kKey, 0, 9, "", counting(33)});
  EXPECT_EQ(tell(GuestRefused{guest}), "release, nothing at 0 of 0");
  EXPECT_EQ(tell(BlocksAsked{kKey, 0, 0, "", counting(33)}), "nothing at 0 of 0");
  EXPECT_EQ(tell(BlocksAsked{kKey, 0, 1, "", {}}), "nothing at 0 of 0");
}

class TransfersOfManyTest : public TransfersTest {
 protected:
  TransfersOfManyTest() {
    transfers = Transfers({.block_tokens = kBlockTokens,
                           .window_blocks = 16,
                           .max_reads = 3,
                           .read_target = milliseconds(5)});
  }
  /// Somebody asks for blocks from the first on. @returns the guest
  RequestId ask(NodeId router, uint64_t request, uint32_t num_blocks) {
    const size_t num_tokens = num_blocks * kBlockTokens + 1;
    tell(BlocksAsked{{router, RequestId{request}, 1}, 0, num_blocks, "", counting(num_tokens)});
    return guest;
  }
  std::string grant_all(RequestId asking, uint32_t num_blocks) {
    guest = asking;
    return grant(num_blocks, num_blocks * kBlockTokens);
  }
};

TEST_F(TransfersOfManyTest, ReadsOnePartInATurnOfAsManyBlocksAsTakeTheTarget) {
  const RequestId first = ask(kThere, 1, 16);
  EXPECT_EQ(grant_all(first, 16), "read 0+2 of 16") << "what a block takes is not known";
  const RequestId second = ask(kThere, 2, 16);
  EXPECT_EQ(grant_all(second, 16), "") << "one part at a time, whoever asks";
  EXPECT_EQ(tell(ReadTurn{}), "");
  EXPECT_EQ(tell(ReadEnded{second, milliseconds(2)}), "") << "it is not being read";
  EXPECT_EQ(tell(ReadEnded{first, milliseconds(2)}), "");
  EXPECT_EQ(tell(ReadTurn{}), "read 0+5 of 16") << "1 ms for each";
  EXPECT_EQ(tell(ReadEnded{second, milliseconds(25)}), "") << "2 ms, by a quarter of the lesson";
  EXPECT_EQ(tell(PatienceTick{}), "read 2+2 of 16") << "a long step is out";
  EXPECT_EQ(tell(ReadEnded{first, seconds(1)}), "");
  EXPECT_EQ(tell(ReadTurn{}), "read 5+1 of 16") << "one that takes longer is read all the same";
  EXPECT_TRUE(transfers.waits());
  for (int i = 0; i < 40; ++i) {
    tell(ReadEnded{reading, Duration{1}});
    tell(ReadTurn{});
  }
  EXPECT_FALSE(transfers.waits());
}

TEST_F(TransfersOfManyTest, ReadsForThoseWhoAskedByTurns) {
  const RequestId first = ask(kThere, 1, 4), second = ask(kThere, 2, 4);
  grant_all(first, 4);
  grant_all(second, 4);
  std::vector<RequestId> turns{reading};
  const auto turn = [&] {
    tell(ReadEnded{reading});
    tell(ReadTurn{});
    turns.push_back(reading);
  };
  turn();
  const RequestId third = ask(kThere, 3, 4);
  grant_all(third, 4);
  for (int i = 0; i < 4; ++i) turn();
  EXPECT_EQ(turns, (std::vector{first, second, third, first, second, third}));
}

TEST_F(TransfersOfManyTest, ReadsNoMoreForARouterThatIsLost) {
  const NodeId other{3};
  const RequestId first = ask(kThere, 1, 4), second = ask(kThere, 2, 4), third = ask(other, 1, 4);
  EXPECT_EQ(grant_all(first, 4), "read 0+2 of 4");
  EXPECT_EQ(grant_all(third, 4), "");
  EXPECT_EQ(tell(RouterLost{kThere}), "release") << "the part of the first one is out";
  EXPECT_EQ(grant_all(second, 4), "release") << "the answer comes too late";
  EXPECT_EQ(tell(ReadEnded{first}), "release");
  EXPECT_EQ(tell(ReadTurn{}), "read 0+2 of 4") << "of the other router";
  EXPECT_EQ(tell(ReadEnded{third}), "");
  EXPECT_EQ(tell(RouterLost{other}), "release");
  EXPECT_EQ(tell(ReadTurn{}), "");
  EXPECT_FALSE(transfers.waits());
}

// --- two routers with their holders, under random loads
// -------------------------------------------

/// What the KV of a token depends on: itself and all before it.
uint64_t kv_of(const Tokens& tokens, size_t position) {
  uint64_t hash = 1;
  for (size_t i = 0; i <= position; ++i) {
    hash = random_bits(hash, static_cast<uint64_t>(tokens[i]) + 1);
  }
  return hash;
}

using Block = std::vector<uint64_t>;

struct BlockMessage {
  BlockArrived arrived;
  Block data;
};
using Message = std::variant<BlocksAsked, BlockMessage>;

/// A router: its holder, its memory, and requests that compute what they do not find.
class Site {
 public:
  Site(NodeId id, uint32_t num_blocks)
      : id_(id),
        holder_({.num_blocks = num_blocks, .block_tokens = kBlockTokens}),
        memory_(num_blocks, Block(kBlockTokens)),
        transfers_(
            {.block_tokens = kBlockTokens, .window_blocks = 3, .max_fetches = 2, .max_reads = 2}) {}

  void start(RequestId request, Tokens tokens, NodeId from) {
    const TransferKey key{id_, request, 1};
    requests_[request] = std::move(tokens);
    act(FetchWanted{key, from, "", requests_[request]});
  }
  void leave(RequestId request) {
    if (requests_.erase(request) == 0) return;
    act(FetchAbandoned{{id_, request, 1}});
    tell_holder(Release{request});
  }
  void act(const TransferEvent& event) {
    for (const TransferEffect& effect : transfers_.handle(event, now)) {
      std::visit([this](const auto& e) { perform(e); }, effect);
    }
    ASSERT_EQ(transfers_.check(), "");
    ASSERT_EQ(holder_.check(), "");
  }
  /// The executor has done what it has to do, and no step is out.
  void rest() {
    while (reading_) {
      ASSERT_NO_FATAL_FAILURE(
          act(ReadEnded{*std::exchange(reading_, std::nullopt), Duration{1000}}));
      ASSERT_NO_FATAL_FAILURE(act(ReadTurn{}));
    }
  }
  void receive(const BlockMessage& message) {
    data_ = message.data;
    act(message.arrived);
  }
  [[nodiscard]] std::vector<RequestId> live() const {
    std::vector<RequestId> live;
    for (const auto& [request, tokens] : requests_) live.push_back(request);
    return live;
  }
  [[nodiscard]] bool quiet() const { return !transfers_.waits(); }
  [[nodiscard]] uint64_t fetched() const { return transfers_.fetched_blocks(); }

  Instant now;
  std::deque<std::pair<NodeId, Message>> outbox;
  uint64_t found = 0;  ///< tokens that requests did not have to compute

 private:
  void tell_holder(const HolderEvent& event) {
    for (const HolderEffect& effect : holder_.handle(event)) {
      if (const auto* granted = std::get_if<Granted>(&effect)) {
        copy(granted->copies);
        if (is_guest(granted->request)) {
          act(GuestGranted{granted->request, granted->table, granted->cached_len});
        } else {
          compute(*granted);
        }
      } else if (const auto* refused = std::get_if<Refused>(&effect)) {
        if (is_guest(refused->request))
          act(GuestRefused{refused->request});
        else
          leave(refused->request);
      } else if (const auto* pending = std::get_if<Pending>(&effect)) {
        if (is_guest(pending->request)) act(GuestRefused{pending->request});
      } else if (const auto* wake = std::get_if<Wake>(&effect)) {
        if (!is_guest(wake->request)) reserve(wake->request);
      }
    }
  }
  void reserve(RequestId request) {
    const Tokens& tokens = requests_.at(request);
    tell_holder(Reserve{request, "", tokens, static_cast<uint32_t>(tokens.size())});
  }
  void copy(const std::vector<Copy>& copies) {
    for (const Copy& copy : copies) {
      if (const auto* block = std::get_if<CopyBlock>(&copy)) {
        memory_[block->to.value] = memory_[block->from.value];
      }
    }
  }
  void compute(const Granted& granted) {
    const Tokens& tokens = requests_.at(granted.request);
    found += granted.cached_len;
    for (size_t i = 0; i < tokens.size(); ++i) {
      uint64_t& kv = memory_[granted.table[i / kBlockTokens].value][i % kBlockTokens];
      if (i >= granted.cached_len) kv = kv_of(tokens, i);
      ASSERT_EQ(kv, kv_of(tokens, i)) << "position " << i << " of request " << granted.request;
    }
    tell_holder(Computed{
        granted.request, granted.cached_len, {tokens.begin() + granted.cached_len, tokens.end()}});
  }
  void perform(const TellHolder& e) { tell_holder(e.event); }
  void perform(const AskRouter& e) { outbox.emplace_back(e.from, e.what); }
  void perform(const WriteBlock& e) { memory_[e.block.value] = data_; }
  void perform(const FetchEnded& e) {
    if (requests_.contains(e.key.request)) reserve(e.key.request);
  }
  void perform(const ReadBlocks& e) {
    uint32_t index = e.first_block;
    for (const BlockId block : e.blocks) {
      outbox.emplace_back(e.key.router, BlockMessage{{id_, e.key, index++, e.num_available, true},
                                                     memory_[block.value]});
    }
    reading_ = e.guest;
  }
  void perform(const SendNothing& e) {
    outbox.emplace_back(e.key.router,
                        BlockMessage{{id_, e.key, e.first_block, e.num_available, false}, {}});
  }

  NodeId id_;
  Holder holder_;
  std::vector<Block> memory_;
  Transfers transfers_;
  std::map<RequestId, Tokens> requests_;
  Block data_;
  std::optional<RequestId> reading_;
};

TEST(Transfers, NeverPutWrongKvIntoACacheWhateverIsLost) {
  uint64_t fetched = 0;
  const auto run = [&](uint64_t seed) {
    uint64_t draws = 0;
    const auto draw = [&](uint64_t n) { return random_bits(seed, draws++) % n; };
    std::map<NodeId, Site> sites;
    sites.try_emplace(kHere, kHere, 24U);
    sites.try_emplace(kThere, kThere, 24U);
    uint64_t last_request = 0;
    for (int i = 0; i < 2'000; ++i) {
      Site& site = sites.at(draw(2) == 0 ? kHere : kThere);
      const NodeId other = &site == &sites.at(kHere) ? kThere : kHere;
      const uint64_t what = draw(12);
      if (what == 0) {
        Tokens tokens = counting(1 + draw(40));
        tokens.front() = static_cast<TokenId>(draw(6));
        if (draw(3) == 0) tokens[draw(tokens.size())] = 99;
        ASSERT_NO_FATAL_FAILURE(site.start(RequestId{++last_request}, tokens, other));
      } else if (what == 1) {
        const auto live = site.live();
        if (live.empty()) continue;
        ASSERT_NO_FATAL_FAILURE(site.leave(live[draw(live.size())]));
      } else if (what == 2 && draw(20) == 0) {
        site.outbox.clear();
        ASSERT_NO_FATAL_FAILURE(site.act(RouterLost{other}));
      } else if (what == 3) {
        for (auto& [id, at] : sites) {
          at.now = at.now + milliseconds(60);
          ASSERT_NO_FATAL_FAILURE(at.act(PatienceTick{}));
        }
      } else if (what == 4 || what == 5) {
        ASSERT_NO_FATAL_FAILURE(site.rest());
      } else if (!site.outbox.empty()) {
        auto [to, message] = std::move(site.outbox.front());
        site.outbox.pop_front();
        if (draw(50) == 0) continue;  // lost
        Site& receiver = sites.at(to);
        if (const auto* asked = std::get_if<BlocksAsked>(&message)) {
          ASSERT_NO_FATAL_FAILURE(receiver.act(*asked));
        } else {
          ASSERT_NO_FATAL_FAILURE(receiver.receive(std::get<BlockMessage>(message)));
        }
      }
    }
    for (auto& [id, site] : sites) {
      ASSERT_NO_FATAL_FAILURE(site.rest());
      site.now = site.now + seconds(1);
      ASSERT_NO_FATAL_FAILURE(site.act(PatienceTick{}));
      ASSERT_NO_FATAL_FAILURE(site.rest());
      EXPECT_TRUE(site.quiet()) << "a fetch or a read hangs";
      fetched += site.fetched();
    }
  };
  for_each_seed(100, run, 1);
  if (!usual_seeds()) return;
  EXPECT_GT(fetched, 5'000U) << "the test tests little";
}

}  // namespace
}  // namespace troupe::kvcache
