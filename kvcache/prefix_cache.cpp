#include "kvcache/prefix_cache.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"

namespace troupe::kvcache {

PrefixCache::PrefixCache(uint32_t num_blocks, uint32_t num_host_slots, uint32_t block_tokens)
    : tree_(block_tokens),
      device_(num_blocks, block_tokens),
      host_(num_host_slots, block_tokens),
      node_of_(num_blocks, kNoNode) {
  CHECK_GE(num_blocks, 1U);
}

std::optional<PrefixCache::Taken> PrefixCache::take(const Match& match, uint32_t num_blocks,
                                                    uint32_t max_copies) {
  CHECK_GE(max_copies, 2U);
  // Cut the tree so that the match is whole nodes, and `source`, whose beginning matches, is one.
  const uint32_t num_whole = match.num_node_tokens / block_tokens();
  const uint32_t num_tail = match.num_node_tokens % block_tokens();
  NodeIdx last = match.node, source = kNoNode;
  if (last != kNoNode) {
    last = num_whole > 0 ? first_blocks(match.node, num_whole) : tree_[match.node].parent;
    if (num_tail > 0) source = first_blocks(match.node, 1);
  }
  const std::vector<NodeIdx> path = path_to(last);

  uint32_t num_on_device = 0;
  for (const NodeIdx node : path) {
    pin(node);
    num_on_device += tree_[node].num_device;
  }
  if (source != kNoNode) pin(source);
  CHECK_GE(num_blocks, num_on_device);
  if (!has_room(num_blocks - num_on_device) && source != kNoNode) {
    unpin(source);  // the last room may be the source itself
    source = kNoNode;
  }
  if (!has_room(num_blocks - num_on_device)) {
    for (const NodeIdx node : path) unpin(node);
    return std::nullopt;
  }

  const uint64_t age = age_;  // before anything is evicted for it
  Taken taken;
  /// For a block more: one copy makes room, one fills it.
  const auto may_go_on = [&] { return taken.copies.size() + 2 <= max_copies; };
  for (const NodeIdx node : path) {
    while (tree_[node].num_device < tree_[node].places.size() && may_go_on()) {
      bring_back_next(node, taken.copies);
      taken.host_len += block_tokens();
    }
    taken.complete = taken.complete && tree_[node].num_device == tree_[node].places.size();
    for (const uint32_t block : tree_[node].places) taken.table.push_back(BlockId{block});
  }
  taken.num_shared = static_cast<uint32_t>(taken.table.size());
  taken.cached_len = taken.num_shared * block_tokens();
  while (taken.complete && taken.table.size() < num_blocks) {
    if (device_.num_free() == 0 && !may_go_on()) {
      taken.complete = false;
    } else {
      taken.table.push_back(new_block(taken.copies));
    }
  }
  taken.complete = taken.complete && (source == kNoNode || taken.copies.size() < max_copies);
  if (source != kNoNode && taken.complete) {
    const uint32_t from = tree_[source].places[0];
    const BlockId to = taken.table[taken.num_shared];
    if (tree_[source].num_device > 0) {
      taken.copies.emplace_back(CopyBlock{BlockId{from}, to});
    } else {
      taken.copies.emplace_back(CopyToDevice{HostSlot{from}, to});
      taken.host_len += num_tail;
    }
    taken.cached_len += num_tail;
  }
  // A turn that is not the last one keeps them from being evicted before the next.
  const auto touch_or_use = [&](NodeIdx node) {
    set_rank(node, std::min(tree_[node].uses + (taken.complete ? 1 : 0), kMaxUses), age);
  };
  for (const NodeIdx node : path) touch_or_use(node);
  if (source != kNoNode) {
    touch_or_use(source);
    unpin(source);
  }
  if (!taken.complete) {
    for (const NodeIdx node : path) unpin(node);
    for (size_t i = taken.num_shared; i < taken.table.size(); ++i) device_.release(taken.table[i]);
    taken.table.clear();
    taken.num_shared = taken.cached_len = 0;
  }
  return taken;
}

std::optional<PrefixCache::Allocated> PrefixCache::allocate(uint32_t num_blocks) {
  if (!has_room(num_blocks)) return std::nullopt;
  Allocated allocated;
  while (allocated.blocks.size() < num_blocks) {
    allocated.blocks.push_back(new_block(allocated.copies));
  }
  return allocated;
}

BlockId PrefixCache::publish(const std::string& cache_namespace, std::span<const BlockId> before,
                             std::span<const TokenId> tokens, BlockId block) {
  NodeIdx parent = kNoNode;
  if (before.empty()) {
    parent = tree_.root(cache_namespace);
  } else {
    parent = node_of_[before.back().value];
    const uint32_t next = static_cast<uint32_t>(before.size()) - tree_[parent].first_block;
    if (next < tree_[parent].places.size()) {  // the run goes on
      const auto held = tree_.block(parent, next);
      if (tokens.size() <= held.size() && std::ranges::equal(tokens, held.first(tokens.size()))) {
        return adopt(parent, next, tokens, block);
      }
      if (node_of_[block.value] == parent) {
        tree_.grow_tail(parent, tokens);
        return block;
      }
      parent = first_blocks(parent, next);
    }
  }
  const NodeIdx own = node_of_[block.value];  // published before with fewer tokens
  const Match closest = tree_.closest_child(parent, tokens);
  if (closest.num_tokens == tokens.size()) {
    if (closest.node == own) return block;
    if (own != kNoNode) remove_tail(own);
    return adopt(closest.node, 0, tokens, block);
  }
  if (own != kNoNode) {
    tree_.grow_tail(own, tokens);
    return block;
  }
  // A run grows while nobody else has found it: what is found often and what was just computed have
  // different ranks, so they are different nodes.
  NodeIdx node = parent;
  if (!tree_.is_root(parent) && tree_[parent].uses == 1 && tree_[parent].children.empty()) {
    tree_.append(parent, tokens, block.value);
  } else {
    node = tree_.add_child(parent, tokens, block.value);
    tree_[node].uses = 1;
    // Not above its parent's; it matters only after touch(), when nobody uses it any more.
    tree_[node].rank = std::min(tree_[parent].rank, Rank{age_ + 1, now_});
  }
  enter(node, block);
  // A tail that ends where this entry goes on, as an earlier turn of a conversation leaves it, is
  // of no more use.
  if (closest.node != kNoNode && closest.num_tokens == tree_[closest.node].tokens.size() &&
      is_idle(tree_[closest.node])) {
    remove_tail(closest.node);
  }
  return block;
}

/// The entry of these tokens is block `index` of `node`; if it is on the host, `block` takes its
/// place, unless that holds less.
BlockId PrefixCache::adopt(NodeIdx node, uint32_t index, std::span<const TokenId> tokens,
                           BlockId block) {
  Node& run = tree_[node];
  if (index < run.num_device) return BlockId{run.places[index]};
  if (tokens.size() == tree_.block(node, index).size()) {
    CHECK_EQ(index, run.num_device);
    host_.drop(BlockId{run.places[index]});
    run.places[index] = block.value;
    enter(node, block);
  }
  return block;
}

/// `block` has become the last device block of `node`.
void PrefixCache::enter(NodeIdx node, BlockId block) {
  device_.keep(block);
  node_of_[block.value] = node;
  set_num_device(node, tree_[node].num_device + 1);
}

void PrefixCache::touch(BlockId block, uint32_t index) {
  const NodeIdx node = node_of_[block.value];
  const NodeIdx last = first_blocks(node, index + 1 - tree_[node].first_block);
  for (const NodeIdx above : path_to(last)) set_rank(above, tree_[above].uses, age_);
}

void PrefixCache::share(BlockId block) {
  device_.share(block);
  refresh(node_of_[block.value]);
}

void PrefixCache::release(BlockId block) {
  device_.release(block);
  if (device_.is_kept(block)) refresh(node_of_[block.value]);
}

// --- eviction ---------------------------------------------------------------------------------

bool PrefixCache::has_room(uint32_t num_blocks) const {
  return device_.num_free() + device_.num_idle() >= num_blocks;
}

/// A block with one reference. REQUIRES: has_room(1).
BlockId PrefixCache::new_block(std::vector<Copy>& copies) {
  if (device_.num_free() == 0) evict(copies);
  return *device_.allocate();
}

void PrefixCache::evict(std::vector<Copy>& copies) {
  CHECK(!device_leaves_.empty());
  const NodeIdx node = device_leaves_.begin()->node;
  Node& run = tree_[node];
  age_ = std::max(age_, run.rank.value);
  ++totals_.evicted_total;
  const uint32_t last = run.num_device - 1;
  const BlockId block{run.places[last]};
  const bool has_below = run.places.size() > run.num_device || !run.children.empty();
  std::optional<BlockId> slot;
  if (host_.num_blocks() > 0 && (has_below || host_pays(run.first_block + last))) {
    slot = host_slot_for(run.rank);
  }
  if (!slot) {
    // Nothing is below it: that would be on the host, and have lower or equal rank.
    CHECK(!has_below);
    remove_tail(node);
    return;
  }
  ++totals_.offloaded_total;
  copies.emplace_back(CopyToHost{block, HostSlot{slot->value}});
  run.places[run.num_device - 1] = slot->value;
  node_of_[block.value] = kNoNode;
  device_.drop(block);
  set_num_device(node, run.num_device - 1);
}

/// Copying block `index` of a sequence out and back costs no more than computing it.
bool PrefixCache::host_pays(uint32_t index) {
  if (2 * costs_.copy.ns <= costs_.compute.ns + index * costs_.compute_deeper.ns) return true;
  return ++num_unpaid_ % kMeasureOneOf == 0;
}

/// A slot for an entry of this rank, that of an entry of lower or equal rank if none is free.
std::optional<BlockId> PrefixCache::host_slot_for(const Rank& rank) {
  if (host_.num_free() == 0) {
    if (host_leaves_.empty() || rank < host_leaves_.begin()->rank) return std::nullopt;
    remove_tail(host_leaves_.begin()->node);
  }
  const BlockId slot = *host_.allocate();
  host_.keep(slot);
  host_.release(slot);
  return slot;
}

/// Gives a pinned node's first host entry a device block, which keeps the pin.
void PrefixCache::bring_back_next(NodeIdx node, std::vector<Copy>& copies) {
  const BlockId block = new_block(copies);
  Node& run = tree_[node];
  const BlockId slot{run.places[run.num_device]};
  copies.emplace_back(CopyToDevice{HostSlot{slot.value}, block});
  host_.release(slot);
  host_.drop(slot);
  run.places[run.num_device] = block.value;
  enter(node, block);
  ++totals_.brought_back_total;
}

/// Forgets the last entry of a node without children.
void PrefixCache::remove_tail(NodeIdx node) {
  Node& run = tree_[node];
  const NodeIdx parent = run.parent;
  const BlockId place{run.places.back()};
  if (run.num_device == run.places.size()) {
    node_of_[place.value] = kNoNode;
    device_.drop(place);
    if (--run.num_device == 0) --tree_[parent].num_device_children;
  } else {
    host_.drop(place);
  }
  if (run.places.size() > 1) {
    tree_.remove_tail(node);
    refresh(node);
    return;
  }
  if (run.in_device_leaves) device_leaves_.erase({run.rank, node});
  if (run.in_host_leaves) host_leaves_.erase({run.rank, node});
  const bool was_below_root = tree_.is_root(parent);  // which may go with it
  tree_.remove_tail(node);
  if (!was_below_root) refresh(parent);
}

// --- nodes ------------------------------------------------------------------------------------

/// From the root's child down to `node`; empty if that is a root or none.
std::vector<NodeIdx> PrefixCache::path_to(NodeIdx node) const {
  std::vector<NodeIdx> path;
  for (; node != kNoNode && !tree_.is_root(node); node = tree_[node].parent) path.push_back(node);
  std::ranges::reverse(path);
  return path;
}

/// The node that holds exactly the first `num_blocks` blocks of `node`, cut off if need be.
NodeIdx PrefixCache::first_blocks(NodeIdx node, uint32_t num_blocks) {
  if (tree_[node].places.size() == num_blocks) return node;
  const NodeIdx top = tree_.split(node, num_blocks);
  for (uint32_t i = 0; i < tree_[top].num_device; ++i) node_of_[tree_[top].places[i]] = top;
  refresh(top);
  refresh(node);
  return top;
}

void PrefixCache::set_num_device(NodeIdx node, uint32_t num_device) {
  Node& run = tree_[node];
  const bool was_on_device = run.num_device > 0;
  run.num_device = num_device;
  if (was_on_device != (num_device > 0)) {
    Node& parent = tree_[run.parent];
    was_on_device ? --parent.num_device_children : ++parent.num_device_children;
    refresh(run.parent);
  }
  refresh(node);
}

void PrefixCache::set_rank(NodeIdx node, uint32_t uses, uint64_t age) {
  Node& run = tree_[node];
  if (std::exchange(run.in_device_leaves, false)) device_leaves_.erase({run.rank, node});
  if (std::exchange(run.in_host_leaves, false)) host_leaves_.erase({run.rank, node});
  run.uses = uses;
  run.rank = {age + uses, now_};
  refresh(node);
}

void PrefixCache::pin(NodeIdx node) {
  const Node& run = tree_[node];
  for (uint32_t i = 0; i < run.places.size(); ++i) {
    (i < run.num_device ? device_ : host_).share(BlockId{run.places[i]});
  }
  refresh(node);
}

void PrefixCache::unpin(NodeIdx node) {
  const Node& run = tree_[node];
  for (uint32_t i = 0; i < run.places.size(); ++i) {
    (i < run.num_device ? device_ : host_).release(BlockId{run.places[i]});
  }
  refresh(node);
}

/// Nobody references the last entry of the node.
bool PrefixCache::is_idle(const Node& node) const {
  const bool on_device = node.num_device == node.places.size();
  return (on_device ? device_ : host_).references(BlockId{node.places.back()}) == 0;
}

bool PrefixCache::is_device_leaf(const Node& node) const {
  return node.num_device > 0 && node.num_device_children == 0 &&
         device_.references(BlockId{node.places[node.num_device - 1]}) == 0;
}

bool PrefixCache::is_host_leaf(const Node& node) const {
  return node.places.size() > node.num_device && node.children.empty() && is_idle(node);
}

/// Brings the node's places in device_leaves_ and host_leaves_ up to date.
void PrefixCache::refresh(NodeIdx node) {
  Node& run = tree_[node];
  const auto update = [&](std::set<Leaf>& leaves, bool& is_in, bool belongs) {
    if (is_in == belongs) return;
    is_in = belongs;
    if (belongs) {
      leaves.insert({run.rank, node});
    } else {
      leaves.erase({run.rank, node});
    }
  };
  update(device_leaves_, run.in_device_leaves, is_device_leaf(run));
  update(host_leaves_, run.in_host_leaves, is_host_leaf(run));
}

// --- what is there -------------------------------------------------------------------

PrefixCacheStats PrefixCache::stats() const {
  PrefixCacheStats stats = totals_;
  stats.free_blocks = device_.num_free();
  stats.idle_blocks = device_.num_idle();
  stats.used_blocks = device_.num_blocks() - stats.free_blocks - stats.idle_blocks;
  stats.host_entries = host_.num_blocks() - host_.num_free();
  return stats;
}

bool PrefixCache::holds(const std::string& cache_namespace, std::span<const TokenId> tokens,
                        std::span<const BlockId> blocks) const {
  const Match found = match(cache_namespace, tokens);
  std::vector<BlockId> entries;
  for (const NodeIdx node : path_to(found.node)) {
    for (uint32_t i = 0; i < tree_[node].num_device; ++i) {
      entries.push_back(BlockId{tree_[node].places[i]});
    }
  }
  return found.num_tokens == tokens.size() && entries.size() >= blocks.size() &&
         std::equal(blocks.begin(), blocks.end(), entries.begin());
}

}  // namespace troupe::kvcache
