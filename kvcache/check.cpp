#include <algorithm>

#include "kvcache/holder.hpp"

// The invariants of the tree, the cache and the holder, each "" or the reason why it is broken.

namespace troupe::kvcache {

namespace {
using Tokens = std::span<const TokenId>;
}

std::string RadixTree::check() const {
  const auto problem = [](NodeIdx node, const char* what) {
    return "node " + std::to_string(node) + " " + what;
  };
  const std::vector<NodeIdx> reached = nodes();
  std::vector<uint32_t> times(nodes_.size(), 0);
  for (const NodeIdx node : reached) ++times[node];
  for (const auto& [cache_namespace, root] : roots_) {
    ++times[root];
    if (!is_root(root) || !nodes_[root].places.empty()) return problem(root, "is no root");
    if (nodes_[root].children.empty()) return problem(root, "is a root of nothing");
    if (nodes_[root].cache_namespace != &cache_namespace) return problem(root, "has another name");
  }
  for (const NodeIdx node : unused_) ++times[node];
  for (NodeIdx node = 0; node < nodes_.size(); ++node) {
    if (times[node] != 1) return problem(node, "is reached twice or lost");
    Tokens before;
    for (const NodeIdx child : nodes_[node].children) {
      if (nodes_[child].parent != node) return problem(child, "has another parent");
      const Tokens first = block(child, 0);
      if (!std::ranges::lexicographical_compare(before, first)) {
        return problem(child, "is out of order among its siblings");
      }
      before = first;
    }
  }
  for (const NodeIdx node : reached) {
    const Node& run = nodes_[node];
    const Node& parent = nodes_[run.parent];
    const size_t room = run.places.size() * block_tokens_;
    if (run.places.empty()) return problem(node, "has no blocks");
    if (run.tokens.size() > room || run.tokens.size() + block_tokens_ <= room) {
      return problem(node, "has tokens for another number of blocks");
    }
    if (run.tokens.size() < room && !run.children.empty()) {
      return problem(node, "has children below a block that is not full");
    }
    if (run.first_block != parent.first_block + parent.places.size()) {
      return problem(node, "is at another depth");
    }
  }
  return "";
}

std::string PrefixCache::check(std::span<const uint32_t> owners) const {
  if (auto reason = tree_.check(); !reason.empty()) return reason;
  if (auto reason = device_.check(owners); !reason.empty()) return reason;
  const std::vector<uint32_t> no_owners(host_.num_blocks(), 0);
  if (auto reason = host_.check(no_owners); !reason.empty()) return "host: " + reason;

  std::vector<bool> device_seen(device_.num_blocks(), false), host_seen(host_.num_blocks(), false);
  const std::vector<NodeIdx> nodes = tree_.nodes();
  size_t num_device_leaves = 0, num_host_leaves = 0;
  for (const NodeIdx node : nodes) {
    const Node& run = tree_[node];
    const auto problem = [&](const char* what) {
      return "node " + std::to_string(node) + " " + what;
    };
    // References never rise downwards; `above` are those of the entry before.
    uint32_t above = UINT32_MAX;
    if (!tree_.is_root(run.parent)) {
      const Node& parent = tree_[run.parent];
      if (run.num_device > 0 && parent.num_device < parent.places.size()) {
        return problem("is on the device, what is above it is not");
      }
      if (parent.rank < run.rank || parent.uses < run.uses) return problem("outranks its parent");
      if (run.num_device > 0) above = device_.references(BlockId{parent.places.back()});
    }
    for (uint32_t i = 0; i < run.places.size(); ++i) {
      const bool on_device = i < run.num_device;
      const BlockId place{run.places[i]};
      auto& seen = on_device ? device_seen : host_seen;
      if (place.value >= seen.size()) return problem("has a place that does not exist");
      if (seen[place.value]) return problem("has a place of another entry");
      seen[place.value] = true;
      if (!(on_device ? device_ : host_).is_kept(place)) return problem("has a place not kept");
      if (!on_device) continue;
      if (node_of_[place.value] != node) return problem("is not known by its block");
      if (device_.references(place) > above) return problem("is in use, what is above it is not");
      above = device_.references(place);
    }
    uint32_t num_device_children = 0;
    for (const NodeIdx child : run.children) {
      if (tree_[child].num_device > 0) ++num_device_children;
    }
    if (num_device_children != run.num_device_children) return problem("miscounts its children");
    if (run.in_device_leaves != is_device_leaf(run) || run.in_host_leaves != is_host_leaf(run) ||
        run.in_device_leaves != device_leaves_.contains({run.rank, node}) ||
        run.in_host_leaves != host_leaves_.contains({run.rank, node})) {
      return problem("can be evicted and is not listed, or the reverse");
    }
    num_device_leaves += run.in_device_leaves ? 1 : 0;
    num_host_leaves += run.in_host_leaves ? 1 : 0;
  }
  if (num_device_leaves != device_leaves_.size() || num_host_leaves != host_leaves_.size()) {
    return "a node that is gone can still be evicted";
  }
  for (uint32_t block = 0; block < device_.num_blocks(); ++block) {
    if (device_.is_kept(BlockId{block}) != device_seen[block] ||
        (node_of_[block] != kNoNode) != device_seen[block]) {
      return "block " + std::to_string(block) + " is kept without an entry";
    }
  }
  for (uint32_t slot = 0; slot < host_.num_blocks(); ++slot) {
    if (host_.is_kept(BlockId{slot}) != host_seen[slot]) {
      return "host slot " + std::to_string(slot) + " is kept without an entry";
    }
  }
  return "";
}

std::string Holder::check() const {
  const PrefixCacheStats blocks = cache_.stats();
  std::vector<uint32_t> owners(blocks.free_blocks + blocks.used_blocks + blocks.idle_blocks, 0);
  std::vector<uint32_t> writers(owners.size(), 0);
  size_t num_waiters = 0;
  for (const auto& [id, request] : running_) {
    const std::string who = "request " + std::to_string(id.value);
    const size_t num_full = request.num_computed / cache_.block_tokens();
    if (request.num_computed > request.tokens.size() || request.entries.size() > num_full ||
        request.table.size() < cache_.blocks_for(request.num_computed)) {
      return who + " has computed more than it may";
    }
    for (size_t i = 0; i < request.table.size(); ++i) {
      const bool shared = i < request.entries.size() && request.entries[i] == request.table[i];
      ++owners[request.table[i].value];
      if (!shared) ++writers[request.table[i].value];
      if (i < request.entries.size() && !shared) ++owners[request.entries[i].value];
    }
    const auto published =
        Tokens(request.tokens).first(request.entries.size() * cache_.block_tokens());
    if (!cache_.holds(request.cache_namespace, published, request.entries)) {
      return who + " shares blocks of other tokens or of another namespace";
    }
    for (const Waiter& waiter : request.waiters) {
      ++num_waiters;
      const auto waiting = waiting_.find(waiter.request);
      if (waiting == waiting_.end() || waiting->second != id || running_.contains(waiter.request) ||
          waiter.num_tokens <= request.num_computed || waiter.num_tokens > request.tokens.size()) {
        return "request " + std::to_string(waiter.request.value) + " waits in vain";
      }
    }
  }
  if (num_waiters != waiting_.size()) return "a request waits for nobody";
  for (size_t block = 0; block < owners.size(); ++block) {
    if (writers[block] > 1 || (writers[block] == 1 && owners[block] > 1)) {
      return "block " + std::to_string(block) + " is shared and written to";
    }
  }
  return cache_.check(owners);
}

}  // namespace troupe::kvcache
