#pragma once

// The radix prefix cache: which tokens' KV lies in which device block or host slot, who may go when
// room is needed, and the blocks of both tiers. Blocks in use are never taken away.
//
// An entry is one block of tokens; it is on the device or in a host slot, never both (KV never
// changes, so a copy in both places would only save a copy and cost a slot). The parent of an entry
// on the device is on the device. Whoever references an entry references all entries above it; so
// an idle entry has only idle ones below it, and every idle block can be had.
//
// Eviction takes the entry of lowest rank among those with nothing below them on the device: LFU
// with dynamic aging (Arlitt et al., "Evaluating content management techniques for Web proxy
// caches", 2000). value = age when last touched + uses, where age is the value of the last entry
// that was evicted and uses counts the requests that computed or found the entry, up to kMaxUses;
// equal values go by recency. So an entry found k times outlives about k turnovers of the cache by
// entries that nobody finds again (a scan of long prompts does not flush a shared one), and none
// stays for ever. Segmented LRU, the usual alternative, needs a share to be chosen and demotes
// inner nodes before leaves. Touching an entry touches all above it, so ranks never rise downwards.
//
// An evicted entry moves to a host slot if one is free or holds something of lower or equal rank,
// otherwise it is forgotten. It is forgotten, too, if computing it again costs less than copying it
// out and back (BlockCosts), unless deeper ones, which cost more to compute, lie there already and
// would be lost with it. As copies take time in which no step runs, a table that needs many is
// made in several turns. Costs: O(log nodes) per evicted node, O(1) per further block of it.

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/time.hpp"
#include "kvcache/blocks.hpp"
#include "kvcache/radix_tree.hpp"

namespace troupe::kvcache {

/// A slot of the host tier, as large as a block.
using HostSlot = Id<struct HostSlotTag, uint32_t>;

// Copies of whole blocks; the shell carries them out in order (the contract is in holder.hpp).
struct CopyToHost {
  BlockId from;
  HostSlot to;
};
struct CopyToDevice {
  HostSlot from;
  BlockId to;
};
struct CopyBlock {
  BlockId from;
  BlockId to;
};
using Copy = std::variant<CopyToHost, CopyToDevice, CopyBlock>;

/// What a block costs, as it was measured.
struct BlockCosts {
  Duration copy;            ///< between device and host, one way
  Duration compute;         ///< its rows, as the first block of a sequence
  Duration compute_deeper;  ///< more for each block before it, which its rows attend to
};

/// Blocks by state, and totals since the start.
struct PrefixCacheStats {
  uint32_t free_blocks = 0;
  uint32_t used_blocks = 0;         ///< referenced by requests
  uint32_t idle_blocks = 0;         ///< cached, referenced by nobody
  uint32_t host_entries = 0;        ///< slots in use
  uint64_t evicted_total = 0;       ///< entries that left the device for want of room
  uint64_t offloaded_total = 0;     ///< of these, to the host
  uint64_t brought_back_total = 0;  ///< from the host to the device
};

class PrefixCache {
 public:
  /// Of those that are not worth the copies, one of so many is copied all the same, so that what
  /// copies cost stays known.
  static constexpr uint32_t kMeasureOneOf = 64;
  /// More uses than this add no value: one burst of requests must not hold a prefix for long.
  static constexpr uint32_t kMaxUses = 4;
  using Match = RadixTree::Match;
  /// What a request got of a match and its further blocks.
  struct Taken {
    std::vector<BlockId> table;  ///< each referenced once by the request
    uint32_t num_shared = 0;     ///< leading blocks of the table that are entries
    uint32_t cached_len = 0;     ///< tokens whose KV is in the table once the copies are done
    uint32_t host_len = 0;       ///< of these, tokens that were in host slots
    std::vector<Copy> copies;
    /// False: with these copies more of the match lies on the device and more blocks are free, but
    /// the request has nothing yet; take again.
    bool complete = true;
  };

  /// @param num_host_slots may be 0
  PrefixCache(uint32_t num_blocks, uint32_t num_host_slots, uint32_t block_tokens);

  /// Before it is called, copies cost nothing.
  void set_costs(const BlockCosts& costs) { costs_ = costs; }

  /// Begins a new moment: what is touched from now on was used later than anything before.
  void tick() { ++now_; }

  [[nodiscard]] Match match(const std::string& cache_namespace,
                            std::span<const TokenId> tokens) const {
    return tree_.match(cache_namespace, tokens);
  }

  /// A table of `num_blocks` blocks: the whole blocks of the match, brought back from the host
  /// where they are there; a copy of the block whose beginning matches the rest; empty ones. Counts
  /// as a use when it is complete. Nothing if there are not enough blocks, even by evicting: then
  /// nothing was evicted.
  /// @param max_copies >= 2; so many or one less are made if more are needed
  /// REQUIRES: nothing has changed since match(); num_blocks blocks hold all tokens matched.
  std::optional<Taken> take(const Match& match, uint32_t num_blocks, uint32_t max_copies);
  /// More empty blocks, each referenced once, and the copies that make room for them.
  struct Allocated {
    std::vector<BlockId> blocks;
    std::vector<Copy> copies;
  };
  std::optional<Allocated> allocate(uint32_t num_blocks);

  /// Publishes `block`, which holds the KV of `tokens`; `before` are the entries of all blocks
  /// before it. If the cache has these tokens already, that entry stays.
  /// @param tokens 1 .. block_tokens; fewer than block_tokens: a tail, that may grow later
  /// @returns the block of the entry that holds these tokens, `block` or another one. For a tail
  ///          the answer means nothing: nothing is published below it.
  /// REQUIRES: `block` and `before` are referenced by the caller.
  BlockId publish(const std::string& cache_namespace, std::span<const BlockId> before,
                  std::span<const TokenId> tokens, BlockId block);

  /// Whether the block is an entry.
  [[nodiscard]] bool is_entry(BlockId block) const { return device_.is_kept(block); }
  /// Touches the entry of this block, number `index` of its sequence, and all above it. To be
  /// called before the last reference to what was published is given up.
  void touch(BlockId block, uint32_t index);
  /// One more reference to an entry.
  void share(BlockId block);
  /// One reference less to a block: an entry stays cached, anything else is gone.
  void release(BlockId block);

  [[nodiscard]] uint32_t block_tokens() const { return tree_.block_tokens(); }
  [[nodiscard]] uint32_t blocks_for(uint32_t num_tokens) const {
    return device_.blocks_for(num_tokens);
  }
  [[nodiscard]] PrefixCacheStats stats() const;
  /// Whether the entries of `blocks` hold these tokens in this namespace, from its root on.
  [[nodiscard]] bool holds(const std::string& cache_namespace, std::span<const TokenId> tokens,
                           std::span<const BlockId> blocks) const;
  /// @param owners [num_blocks] how often requests reference each block
  [[nodiscard]] std::string check(std::span<const uint32_t> owners) const;

 private:
  struct Leaf {
    Rank rank;
    NodeIdx node = kNoNode;
    friend auto operator<=>(const Leaf&, const Leaf&) = default;
  };
  using Node = RadixTree::Node;

  [[nodiscard]] bool has_room(uint32_t num_blocks) const;
  [[nodiscard]] bool is_idle(const Node& node) const;
  [[nodiscard]] bool is_device_leaf(const Node& node) const;
  [[nodiscard]] bool is_host_leaf(const Node& node) const;
  [[nodiscard]] std::vector<NodeIdx> path_to(NodeIdx node) const;
  BlockId new_block(std::vector<Copy>& copies);
  void evict(std::vector<Copy>& copies);
  bool host_pays(uint32_t index);
  std::optional<BlockId> host_slot_for(const Rank& rank);
  void bring_back_next(NodeIdx node, std::vector<Copy>& copies);
  BlockId adopt(NodeIdx node, uint32_t index, std::span<const TokenId> tokens, BlockId block);
  void enter(NodeIdx node, BlockId block);
  void remove_tail(NodeIdx node);
  NodeIdx first_blocks(NodeIdx node, uint32_t num_blocks);
  void set_num_device(NodeIdx node, uint32_t num_device);
  void set_rank(NodeIdx node, uint32_t uses, uint64_t age);
  void pin(NodeIdx node);
  void unpin(NodeIdx node);
  void refresh(NodeIdx node);

  RadixTree tree_;
  BlockPool device_, host_;
  std::vector<NodeIdx> node_of_;  ///< [num_blocks] of each entry on the device
  std::set<Leaf> device_leaves_;  ///< nodes whose last device block may be evicted
  std::set<Leaf> host_leaves_;    ///< nodes whose last place, a host slot, may be forgotten
  uint64_t age_ = 0;              ///< value of the last entry that was evicted, never falls
  uint64_t now_ = 0;
  BlockCosts costs_;
  uint32_t num_unpaid_ = 0;  ///< entries that were not worth the copies
  PrefixCacheStats totals_;
};

}  // namespace troupe::kvcache
