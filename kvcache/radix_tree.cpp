#include "kvcache/radix_tree.hpp"

#include <algorithm>
#include <iterator>

#include "base/check.hpp"

namespace troupe::kvcache {

namespace {
using Tokens = std::span<const TokenId>;

uint32_t common_prefix(Tokens a, Tokens b) {
  const size_t size = std::min(a.size(), b.size());
  const auto end = std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(size), b.begin());
  return static_cast<uint32_t>(end.first - a.begin());
}
}  // namespace

bool RadixTree::ByFirstBlock::operator()(NodeIdx a, NodeIdx b) const {
  return (*this)(a, tree->block(b, 0));
}
bool RadixTree::ByFirstBlock::operator()(NodeIdx a, Tokens b) const {
  return std::ranges::lexicographical_compare(tree->block(a, 0), b);
}

RadixTree::RadixTree(uint32_t block_tokens) : block_tokens_(block_tokens) {
  CHECK_GE(block_tokens, 1U);
}

Tokens RadixTree::block(NodeIdx node, uint32_t index) const {
  const Tokens rest = Tokens(nodes_[node].tokens).subspan(size_t{index} * block_tokens_);
  return rest.first(std::min<size_t>(rest.size(), block_tokens_));
}

RadixTree::Match RadixTree::match(const std::string& cache_namespace, Tokens tokens) const {
  Match match;
  const auto root = roots_.find(cache_namespace);
  NodeIdx parent = root == roots_.end() ? kNoNode : root->second;
  while (parent != kNoNode && match.num_tokens < tokens.size()) {
    const Match child = closest_child(parent, tokens.subspan(match.num_tokens));
    if (child.node == kNoNode) break;
    match = {child.node, child.num_tokens, match.num_tokens + child.num_tokens};
    // A block that is not full has no children.
    const bool goes_on = child.num_tokens == nodes_[child.node].tokens.size();
    parent = goes_on ? child.node : kNoNode;
  }
  return match;
}

RadixTree::Match RadixTree::closest_child(NodeIdx parent, Tokens tokens) const {
  const auto& children = nodes_[parent].children;
  const auto from = tokens.first(std::min<size_t>(tokens.size(), block_tokens_));
  const auto next = children.lower_bound(from);
  Match closest;
  const auto consider = [&](NodeIdx child) {
    const uint32_t num_tokens = common_prefix(nodes_[child].tokens, tokens);
    if (num_tokens > closest.num_tokens) closest = {child, num_tokens, num_tokens};
  };
  if (next != children.end()) consider(*next);
  if (next != children.begin()) consider(*std::prev(next));
  return closest;
}

NodeIdx RadixTree::new_node(NodeIdx parent, uint32_t first_block) {
  if (unused_.empty()) {
    unused_.push_back(static_cast<NodeIdx>(nodes_.size()));
    nodes_.emplace_back(this);
  }
  const NodeIdx node = unused_.back();
  unused_.pop_back();
  nodes_[node].parent = parent;
  nodes_[node].first_block = first_block;
  return node;
}

void RadixTree::free_node(NodeIdx node) {
  nodes_[node] = Node(this);
  unused_.push_back(node);
}

NodeIdx RadixTree::root(const std::string& cache_namespace) {
  const auto [root, is_new] = roots_.try_emplace(cache_namespace, kNoNode);
  if (is_new) {
    root->second = new_node(kNoNode, 0);
    nodes_[root->second].cache_namespace = &root->first;
  }
  return root->second;
}

NodeIdx RadixTree::add_child(NodeIdx parent, Tokens tokens, uint32_t place) {
  const uint32_t above =
      nodes_[parent].first_block + static_cast<uint32_t>(nodes_[parent].places.size());
  const NodeIdx child = new_node(parent, above);
  nodes_[child].tokens.assign(tokens.begin(), tokens.end());
  nodes_[child].places.push_back(place);
  nodes_[parent].children.insert(child);
  return child;
}

void RadixTree::append(NodeIdx node, Tokens tokens, uint32_t place) {
  Node& run = nodes_[node];
  CHECK(!is_root(node) && run.children.empty());
  CHECK_EQ(run.tokens.size(), run.places.size() * block_tokens_);
  run.tokens.insert(run.tokens.end(), tokens.begin(), tokens.end());
  run.places.push_back(place);
}

void RadixTree::grow_tail(NodeIdx node, Tokens tokens) {
  Node& run = nodes_[node];
  const size_t held = block(node, static_cast<uint32_t>(run.places.size() - 1)).size();
  auto& siblings = nodes_[run.parent].children;
  const bool is_first = run.places.size() == 1;  // what the siblings are sorted by
  if (is_first) siblings.erase(node);
  run.tokens.insert(run.tokens.end(), tokens.begin() + static_cast<ptrdiff_t>(held), tokens.end());
  if (is_first) siblings.insert(node);
}

NodeIdx RadixTree::split(NodeIdx node, uint32_t num_blocks) {
  Node& below = nodes_[node];
  CHECK(num_blocks >= 1 && num_blocks < below.places.size());
  const NodeIdx top = new_node(below.parent, below.first_block);
  Node& above = nodes_[top];
  auto& siblings = nodes_[below.parent].children;
  siblings.erase(node);
  const auto tokens_end =
      below.tokens.begin() + static_cast<ptrdiff_t>(size_t{num_blocks} * block_tokens_);
  const auto places_end = below.places.begin() + num_blocks;
  above.tokens.assign(below.tokens.begin(), tokens_end);
  above.places.assign(below.places.begin(), places_end);
  below.tokens.erase(below.tokens.begin(), tokens_end);
  below.places.erase(below.places.begin(), places_end);
  siblings.insert(top);
  above.children.insert(node);
  below.parent = top;
  below.first_block += num_blocks;
  above.num_device = std::min(below.num_device, num_blocks);
  below.num_device -= above.num_device;
  above.num_device_children = below.num_device > 0 ? 1 : 0;
  above.uses = below.uses;
  above.rank = below.rank;
  return top;
}

void RadixTree::remove_tail(NodeIdx node) {
  Node& run = nodes_[node];
  CHECK(run.children.empty() && !run.places.empty());
  const NodeIdx parent = run.parent;
  if (run.places.size() > 1) {
    run.places.pop_back();
    run.tokens.resize(run.places.size() * block_tokens_);
    return;
  }
  nodes_[parent].children.erase(node);
  free_node(node);
  if (!is_root(parent) || !nodes_[parent].children.empty()) return;
  roots_.erase(roots_.find(*nodes_[parent].cache_namespace));
  free_node(parent);
}

std::vector<NodeIdx> RadixTree::nodes() const {
  std::vector<NodeIdx> found;
  const auto add = [&](const auto& children) {
    found.insert(found.end(), children.begin(), children.end());
  };
  for (const auto& [cache_namespace, root] : roots_) add(nodes_[root].children);
  for (size_t i = 0; i < found.size(); ++i) add(nodes_[found[i]].children);
  return found;
}

}  // namespace troupe::kvcache
