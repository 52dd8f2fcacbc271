#include "scheduler/prefix_index.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/random.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::scheduler {
namespace {

using Tokens = std::vector<TokenId>;

constexpr NodeId kA{1}, kB{2};

Tokens counting(TokenId first, size_t count) {
  Tokens tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = first + static_cast<TokenId>(i);
  return tokens;
}

std::map<NodeId, uint32_t> match(const PrefixIndex& index, const std::string& name,
                                 const Tokens& tokens) {
  std::map<NodeId, uint32_t> matches;
  for (const auto& match : index.match(name, tokens)) {
    EXPECT_TRUE(matches.emplace(match.router, match.num_tokens).second);
  }
  return matches;
}

TEST(PrefixIndex, RemembersNoMoreThanTheRoutersCanHold) {
  EXPECT_EQ(PrefixIndexOptions::for_tokens(32 * 100 + 31).max_chunks, 100U);
  EXPECT_EQ(PrefixIndexOptions::for_tokens(1).max_chunks, 1U);
  EXPECT_EQ(PrefixIndexOptions::for_tokens(uint64_t{1} << 40).max_chunks,
            PrefixIndexOptions{}.max_chunks)
      << "of the largest cluster as well, a bounded part of the head's memory";
  EXPECT_EQ(PrefixIndexOptions::for_tokens(0).max_chunks, PrefixIndexOptions{}.max_chunks);
}

TEST(PrefixIndex, KnowsWholeChunksOfWhatWasSentWhere) {
  PrefixIndex index({.chunk_tokens = 4});
  index.add(kA, "", counting(0, 10));
  EXPECT_EQ(match(index, "", counting(0, 20)), (std::map<NodeId, uint32_t>{{kA, 8}}));
  EXPECT_EQ(match(index, "", counting(0, 7)), (std::map<NodeId, uint32_t>{{kA, 4}}));
  EXPECT_TRUE(match(index, "", counting(0, 3)).empty());
  EXPECT_TRUE(match(index, "", counting(4, 4)).empty()) << "a part that is no start";
}

TEST(PrefixIndex, KeepsNamespacesApart) {
  PrefixIndex index({.chunk_tokens = 4});
  index.add(kA, "salt", counting(0, 8));
  EXPECT_TRUE(match(index, "", counting(0, 8)).empty());
  EXPECT_EQ(match(index, "salt", counting(0, 8)).at(kA), 8U);
}

TEST(PrefixIndex, TellsHowFarEachRouterGoes) {
  PrefixIndex index({.chunk_tokens = 4});
  index.add(kA, "", counting(0, 16));
  index.add(kB, "", counting(0, 8));
  EXPECT_EQ(match(index, "", counting(0, 16)), (std::map<NodeId, uint32_t>{{kA, 16}, {kB, 8}}));
  index.forget(kA);
  EXPECT_EQ(match(index, "", counting(0, 16)), (std::map<NodeId, uint32_t>{{kB, 8}}));
  index.forget(kB);
  EXPECT_EQ(index.num_chunks(), 0U);
}

TEST(PrefixIndex, ForgetsTheEndsOfWhatWasNotUsedForLongest) {
  PrefixIndex index({.chunk_tokens = 4, .max_chunks = 4});
  index.add(kA, "", counting(0, 8));
  index.add(kA, "", counting(100, 8));
  index.add(kA, "", counting(0, 8));
  index.add(kA, "", counting(200, 4));
  EXPECT_EQ(match(index, "", counting(0, 8)).at(kA), 8U);
  EXPECT_EQ(match(index, "", counting(100, 8)).at(kA), 4U) << "its start outlives its end";
  EXPECT_EQ(index.check(), "");
}

/// All that was ever added, searched through.
class Twin {
 public:
  void add(NodeId router, const std::string& name, Tokens tokens) {
    added_.push_back({router, name, std::move(tokens)});
  }
  void forget(NodeId router) {
    std::erase_if(added_, [&](const Added& added) { return added.router == router; });
  }
  [[nodiscard]] std::map<NodeId, uint32_t> match(const std::string& name, const Tokens& tokens,
                                                 uint32_t chunk) const {
    std::map<NodeId, uint32_t> matches;
    for (const Added& added : added_) {
      if (added.name != name) continue;
      const auto same = std::ranges::mismatch(added.tokens, tokens).in2 - tokens.begin();
      const auto whole = static_cast<uint32_t>(same) / chunk * chunk;
      if (whole > 0) matches[added.router] = std::max(matches[added.router], whole);
    }
    return matches;
  }

 private:
  struct Added {
    NodeId router;
    std::string name;
    Tokens tokens;
  };
  std::vector<Added> added_;
};

TEST(PrefixIndex, AgreesWithASearchThroughAllThatWasAdded) {
  const auto run = [&](uint64_t seed) {
    uint64_t draws = 0;
    const auto draw = [&](uint64_t n) { return random_bits(seed, draws++) % n; };
    const auto tokens = [&] {
      Tokens drawn(draw(30));
      for (TokenId& token : drawn) token = static_cast<TokenId>(draw(8) == 0 ? 1 : 0);
      return drawn;
    };
    PrefixIndex index({.chunk_tokens = 3, .max_chunks = 1 << 20});
    Twin twin;
    for (int i = 0; i < 300; ++i) {
      const NodeId router{1 + draw(4)};
      const std::string name(draw(2), 's');
      const Tokens some = tokens();
      if (draw(40) == 0) {
        index.forget(router);
        twin.forget(router);
      } else if (draw(3) == 0) {
        index.add(router, name, some);
        twin.add(router, name, some);
      } else {
        ASSERT_EQ(match(index, name, some), twin.match(name, some, 3)) << "event " << i;
      }
      ASSERT_EQ(index.check(), "");
    }
  };
  for_each_seed(20, run, 1);
}

TEST(PrefixIndex, LeavesNoGapsWhateverGoesForWantOfRoom) {
  uint64_t num_partial = 0;
  const auto run = [&](uint64_t seed) {
    uint64_t draws = 0;
    const auto draw = [&](uint64_t n) { return random_bits(seed, draws++) % n; };
    PrefixIndex index({.chunk_tokens = 2, .max_chunks = 4 + static_cast<uint32_t>(draw(12))});
    for (int i = 0; i < 1'000; ++i) {
      const NodeId router{1 + draw(3)};
      Tokens some(draw(16));
      for (TokenId& token : some) token = static_cast<TokenId>(draw(8) == 0 ? 1 : 0);
      if (draw(40) == 0) index.forget(router);
      if (draw(2) == 0) index.add(router, "", some);
      ASSERT_EQ(index.check(), "");
      const auto whole = match(index, "", some);
      for (size_t length = 0; length <= some.size(); length += 2) {
        auto expected = whole;
        for (auto& [of, tokens] : expected) {
          num_partial += tokens > 0 && tokens < length ? 1 : 0;
          tokens = std::min(tokens, static_cast<uint32_t>(length));
        }
        if (length == 0) expected.clear();
        ASSERT_EQ(match(index, "", Tokens(some.begin(), some.begin() + int64_t(length))), expected)
            << "event " << i;
      }
    }
  };
  for_each_seed(20, run, 1);
  if (!usual_seeds()) return;
  EXPECT_GT(num_partial, 1'000U);
}

}  // namespace
}  // namespace troupe::scheduler
