#pragma once

// Token sequences as a radix tree over blocks, one root per cache namespace. A node is a run of
// blocks, and siblings differ within their first block, so that matching a long prompt is mostly
// comparing tokens that lie side by side. (One hash per block, the usual alternative, costs a hash
// and a cache miss per block, and cannot find a block that matches only at its beginning.)
// Siblings are sorted by the tokens of their first block: the one with the longest common prefix is
// beside the place where the wanted tokens would stand.
//
// The structure only: what the places of the blocks mean, and what may go, is PrefixCache's.

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"

namespace troupe::kvcache {

using NodeIdx = uint32_t;
inline constexpr NodeIdx kNoNode = UINT32_MAX;

/// How much an entry is worth to the cache: the lowest goes first. See PrefixCache.
struct Rank {
  uint64_t value = 0;
  uint64_t last_use = 0;
  friend auto operator<=>(const Rank&, const Rank&) = default;
};

class RadixTree {
 public:
  /// Orders siblings; a span compares like a first block with these tokens.
  struct ByFirstBlock {
    using is_transparent = void;
    const RadixTree* tree;
    bool operator()(NodeIdx a, NodeIdx b) const;
    bool operator()(NodeIdx a, std::span<const TokenId> b) const;
  };

  /// Invariant: every block is full, except that the last one of a node without children may hold
  /// fewer tokens. A root has no blocks; every other node has at least one.
  struct Node {
    explicit Node(const RadixTree* tree) : children(ByFirstBlock{tree}) {}

    NodeIdx parent = kNoNode;                      ///< none: a root
    const std::string* cache_namespace = nullptr;  ///< of a root
    uint32_t first_block = 0;                      ///< blocks above this node
    std::vector<TokenId> tokens;
    std::vector<uint32_t> places;  ///< of each block: device blocks, then host slots
    std::set<NodeIdx, ByFirstBlock> children;

    // PrefixCache's; a split gives both parts the same.
    uint32_t num_device = 0;           ///< leading places that are device blocks
    uint32_t num_device_children = 0;  ///< children with num_device > 0
    uint32_t uses = 0;
    Rank rank;
    bool in_device_leaves = false, in_host_leaves = false;
  };

  /// The longest prefix of some tokens that the tree has.
  struct Match {
    NodeIdx node = kNoNode;        ///< in which it ends; none if nothing matches
    uint32_t num_node_tokens = 0;  ///< of that node, >= 1
    uint32_t num_tokens = 0;       ///< in all
  };

  /// @param block_tokens >= 1
  explicit RadixTree(uint32_t block_tokens);
  RadixTree(const RadixTree&) = delete;
  RadixTree& operator=(const RadixTree&) = delete;

  [[nodiscard]] const Node& operator[](NodeIdx node) const { return nodes_[node]; }
  [[nodiscard]] Node& operator[](NodeIdx node) { return nodes_[node]; }
  [[nodiscard]] bool is_root(NodeIdx node) const { return nodes_[node].parent == kNoNode; }
  [[nodiscard]] uint32_t block_tokens() const { return block_tokens_; }
  /// The tokens of one block of a node.
  [[nodiscard]] std::span<const TokenId> block(NodeIdx node, uint32_t index) const;

  /// Cost: compares each token once, and per node the first blocks of O(log siblings).
  [[nodiscard]] Match match(const std::string& cache_namespace,
                            std::span<const TokenId> tokens) const;
  /// The child that has the longest common prefix with `tokens`, and its length; none if 0.
  [[nodiscard]] Match closest_child(NodeIdx parent, std::span<const TokenId> tokens) const;

  /// The root of a namespace, made if there is none: it goes with its last child.
  NodeIdx root(const std::string& cache_namespace);
  /// A child of one block. REQUIRES: no child of `parent` begins with `tokens`.
  NodeIdx add_child(NodeIdx parent, std::span<const TokenId> tokens, uint32_t place);
  /// Appends a block to a node's run. REQUIRES: the node is no root, full and without children.
  void append(NodeIdx node, std::span<const TokenId> tokens, uint32_t place);
  /// The last block of a node now holds `tokens`. REQUIRES: it held fewer of them, and no sibling
  /// begins with them.
  void grow_tail(NodeIdx node, std::span<const TokenId> tokens);
  /// Cuts a node in two and returns the new node above, with the first `num_blocks` blocks.
  /// `node` keeps the rest, and its children. REQUIRES: 1 <= num_blocks < its blocks.
  NodeIdx split(NodeIdx node, uint32_t num_blocks);
  /// Takes the last block off a node without children. After its last block the node is gone, and
  /// so is a root without children.
  void remove_tail(NodeIdx node);

  [[nodiscard]] size_t num_nodes() const { return nodes_.size() - unused_.size(); }
  /// Every node that is no root, parents first; every one is reached from exactly one root.
  [[nodiscard]] std::vector<NodeIdx> nodes() const;
  /// The tree is well-formed: "" or the reason.
  [[nodiscard]] std::string check() const;

 private:
  NodeIdx new_node(NodeIdx parent, uint32_t first_block);
  void free_node(NodeIdx node);

  uint32_t block_tokens_;
  std::deque<Node> nodes_;
  std::vector<NodeIdx> unused_;           ///< a stack of nodes_ to use again
  std::map<std::string, NodeIdx> roots_;  ///< each has children, but within a call that adds one
};

}  // namespace troupe::kvcache
