#include "kvcache/radix_tree.hpp"

#include <gtest/gtest.h>

namespace troupe::kvcache {
namespace {

using Tokens = std::vector<TokenId>;

/// Blocks of two tokens.
class RadixTreeTest : public ::testing::Test {
 protected:
  void TearDown() override { EXPECT_EQ(tree.check(), ""); }

  /// Appends blocks below `parent` as one run.
  NodeIdx run(NodeIdx parent, const Tokens& tokens) {
    const NodeIdx node = tree.add_child(parent, std::span(tokens).first(2), 0);
    for (size_t i = 2; i < tokens.size(); i += 2) {
      tree.append(node, std::span(tokens).subspan(i, std::min<size_t>(2, tokens.size() - i)), 0);
    }
    return node;
  }
  uint32_t matched(const Tokens& tokens, const std::string& cache_namespace = "") {
    return tree.match(cache_namespace, tokens).num_tokens;
  }

  RadixTree tree{2};
};

TEST_F(RadixTreeTest, MatchesTheLongestPrefixWithinARunToTheToken) {
  run(tree.root(""), {1, 2, 3, 4, 5});
  EXPECT_EQ(matched({}), 0U);
  EXPECT_EQ(matched({9, 2}), 0U);
  EXPECT_EQ(matched({1, 9}), 1U);
  EXPECT_EQ(matched({1, 2, 3}), 3U);
  EXPECT_EQ(matched({1, 2, 3, 4, 5, 6}), 5U);
}

TEST_F(RadixTreeTest, GoesDownToTheChildThatSharesMost) {
  const NodeIdx top = run(tree.root(""), {1, 2});
  const NodeIdx low = run(top, {3, 4, 5, 6});
  const NodeIdx high = run(top, {3, 8});
  EXPECT_EQ(tree.match("", Tokens{1, 2, 3, 4, 5, 9}).node, low);
  EXPECT_EQ(matched({1, 2, 3, 4, 5, 9}), 5U);
  EXPECT_EQ(tree.match("", Tokens{1, 2, 3, 8, 1}).node, high);
  EXPECT_EQ(tree.match("", Tokens{1, 2, 3, 7}).node, high) << "the next one in order";
  EXPECT_EQ(matched({1, 2, 3, 7}), 3U);
  EXPECT_EQ(tree.match("", Tokens{1, 2, 3, 9}).node, high) << "the one before, if none is next";
  EXPECT_EQ(tree.match("", Tokens{1, 2, 4}).node, top);
}

TEST_F(RadixTreeTest, PrefersTheLongerOfTwoTails) {
  RadixTree wide{4};
  const NodeIdx root = wide.root("");
  wide.add_child(root, Tokens{1, 2}, 0);
  const NodeIdx longer = wide.add_child(root, Tokens{1, 2, 3}, 1);
  EXPECT_EQ(wide.match("", Tokens{1, 2, 3, 4}).node, longer);
  EXPECT_EQ(wide.match("", Tokens{1, 2, 3, 4}).num_tokens, 3U);
  EXPECT_EQ(wide.check(), "");
}

TEST_F(RadixTreeTest, MatchesTheSameAfterASplitAnywhere) {
  const Tokens tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  const NodeIdx node = run(tree.root(""), tokens);
  run(node, {9, 9});
  for (const uint32_t cut : {2U, 1U}) {
    const NodeIdx top = tree.split(tree.match("", Tokens{1, 2}).node, cut);
    EXPECT_EQ(tree[top].places.size(), cut);
    EXPECT_EQ(tree.check(), "");
    EXPECT_EQ(matched(tokens), 8U);
    EXPECT_EQ(matched({1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9}), 10U) << "the children went along";
  }
  EXPECT_EQ(tree.num_nodes(), 5U);
}

TEST_F(RadixTreeTest, KeepsSiblingsInOrderWhenATailGrows) {
  RadixTree wide{4};
  const NodeIdx root = wide.root("");
  const NodeIdx tail = wide.add_child(root, Tokens{1}, 0);
  wide.add_child(root, Tokens{1, 5, 5, 5}, 1);
  wide.grow_tail(tail, Tokens{1, 9});
  EXPECT_EQ(wide.check(), "");
  EXPECT_EQ(wide.match("", Tokens{1, 9, 1}).node, tail);
}

TEST_F(RadixTreeTest, KeepsNamespacesApart) {
  run(tree.root("a"), {1, 2});
  EXPECT_EQ(matched({1, 2}, "a"), 2U);
  EXPECT_EQ(matched({1, 2}, "b"), 0U);
  EXPECT_EQ(matched({1, 2}, ""), 0U);
}

TEST_F(RadixTreeTest, ForgetsANamespaceWithItsLastBlock) {
  const NodeIdx node = run(tree.root("a"), {1, 2, 3, 4});
  EXPECT_EQ(tree.num_nodes(), 2U);
  tree.remove_tail(node);
  EXPECT_EQ(matched({1, 2, 3, 4}, "a"), 2U);
  tree.remove_tail(node);
  EXPECT_EQ(tree.num_nodes(), 0U);
  EXPECT_EQ(matched({1, 2}, "a"), 0U);
}

}  // namespace
}  // namespace troupe::kvcache
