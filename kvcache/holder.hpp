#pragma once

// A KV-cache holder's core: gives a router's requests their block tables, finds what of a prompt is
// cached, and lets requests that need the same blocks wait for the one that computes them.
// Pure: handle(event) -> effects; block and slot ids only. The shell owns the memory: a block is
// [num_layers][block_tokens][kv_lora_rank + qk_rope_head_dim], MLA's latent and its rotated key, so
// a token takes layers x (kv_lora_rank + qk_rope_head_dim) x bytes: 27 x 576 x 4 = 62,208 bytes for
// V2-Lite in float32, 61 x 576 x 2 = 70,272 for V3 in BF16 (a block of 16 tokens: 1.07 MiB).
//
// What the shell must keep, so that a table holds what it claims:
//  1. Copies go to the executor that runs the steps, in the order of the effects, each within the
//     list of its effect in order. A step that uses a table is submitted after the copies of the
//     Granted or Extended that gave it. As the executor runs jobs in order, a block that is copied
//     away, taken and written again later in that order is read before it is overwritten.
//  2. Computed is told when the step that computed these positions has ended. KV at a position
//     never changes once it is computed; positions that are not computed are nobody's, so a copy
//     that meets a running step may copy anything there.
//  3. Release is told when no step that uses the table is running or will follow. A request has at
//     most one life at a time: everything about it between Granted and Release belongs to that
//     table.
//  4. Only the owner writes to its table, and only at positions >= cached_len: whole blocks before
//     that are shared.
//
// A request whose next block is just being computed by another one of the same namespace is not
// refused but Pending: it should not start, as it would compute the same. Wake says that the other
// one has published what they share, or left; the caller then sends Reserve again, with the tokens
// known by then. Waiting requests hold nothing, and running ones never wait, so waits end.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "kvcache/prefix_cache.hpp"

namespace troupe::kvcache {

/// Ids from here on are guests: transfers that read or fill a table (transfers.hpp), not requests.
/// They count in no statistics.
inline constexpr RequestId kFirstGuest{uint64_t{1} << 63};
constexpr bool is_guest(RequestId request) { return request >= kFirstGuest; }

struct HolderOptions {
  uint32_t num_blocks = 0;  ///< >= 1, on the device
  uint32_t num_host_slots = 0;
  uint32_t block_tokens = 16;  ///< >= 1
  /// A Reserve does no more copies at once, so that no step waits long for them; >= 2.
  uint32_t max_copies = 32;
  /// When what a copy takes is known: as many as take so long, but 8 at least.
  Duration copies_target = milliseconds(5);
};

// --- events -----------------------------------------------------------------------------------
/// A request wants to run, for the first time or after it was preempted: `tokens` are known, and it
/// needs room for `num_tokens`. Answered with Granted, Refused, Pending or CopiesFirst; ignored if
/// it runs.
/// REQUIRES: 1 <= tokens.size() <= num_tokens, or cached_only
struct Reserve {
  RequestId request;
  std::string cache_namespace;  ///< made of tenant and cache_salt; namespaces share nothing
  std::vector<TokenId> tokens;
  uint32_t num_tokens = 0;
  /// It only reads: the table has the whole blocks of `tokens` that are cached and no others, so
  /// nobody waits for it, nor it for anybody. It is neither extended nor told as Computed.
  bool cached_only = false;
};
/// A running request needs room for `num_tokens` in all. Answered with Extended or Refused. At most
/// one copy for each further block.
struct Extend {
  RequestId request;
  uint32_t num_tokens = 0;
};
/// KV of `tokens` at `first_position` and after is computed. Publishes full blocks, and the last
/// one as far as it goes (tell less often if that is not wanted: at the end of the prefill and
/// before Release, say). What was told before is ignored. REQUIRES: no gap, room in the table, and
/// the tokens that the request was reserved with.
struct Computed {
  RequestId request;
  uint32_t first_position = 0;
  std::vector<TokenId> tokens;
};
/// Finished, cancelled or preempted, running or waiting: all the same. What it published stays
/// cached until room is needed. Frees blocks: a request that was refused may be lucky now.
struct Release {
  RequestId request;
};
/// From now on blocks cost so much.
struct CostsMeasured {
  BlockCosts costs;
};
using HolderEvent = std::variant<Reserve, Extend, Computed, Release, CostsMeasured>;

// --- effects ----------------------------------------------------------------------------------
/// The request runs. The KV of its first `cached_len` tokens is in `table` once the copies are
/// done; less than its known tokens, because the last one must be computed to get logits.
struct Granted {
  RequestId request;
  std::vector<BlockId> table;  ///< ceil(num_tokens / block_tokens) blocks; of cached_only above
  uint32_t cached_len = 0;
  std::vector<Copy> copies;
};
/// The table goes on with these blocks; none if it had the room.
struct Extended {
  RequestId request;
  std::vector<BlockId> blocks;
  std::vector<Copy> copies;
};
/// There are not enough blocks, even if all idle ones were evicted. Nothing changed.
struct Refused {
  RequestId request;
};
/// More has to be copied than fits between two steps: this is a part of it, and the request holds
/// nothing yet. Send `again` a step later, unless it was released; each time less is left to copy,
/// but for what others take meanwhile.
struct CopiesFirst {
  Reserve again;
  std::vector<Copy> copies;
};
/// `computing` is about to compute the next block. Nothing changed; Wake follows, unless the
/// request is released or reserved again before.
struct Pending {
  RequestId request;
  RequestId computing;
};
/// Reserve again.
struct Wake {
  RequestId request;
};
using HolderEffect = std::variant<Granted, Extended, Refused, CopiesFirst, Pending, Wake>;

struct HolderStats {
  PrefixCacheStats cache;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint64_t queried_tokens_total = 0;   ///< looked up for granted requests, guests excepted
  uint64_t hit_tokens_total = 0;       ///< of these, cached
  uint64_t host_hit_tokens_total = 0;  ///< of these, in host slots
  uint64_t pending_total = 0;          ///< guests excepted
  uint64_t refused_total = 0;          ///< guests excepted
};

class Holder {
 public:
  explicit Holder(HolderOptions options);

  [[nodiscard]] std::vector<HolderEffect> handle(const HolderEvent& event);

  /// The cached_len that Reserve would grant if there is room; changes nothing. For choosing
  /// routers.
  [[nodiscard]] uint32_t match_len(const std::string& cache_namespace,
                                   std::span<const TokenId> tokens) const;
  [[nodiscard]] HolderStats stats() const;
  /// Blocks conserved, references equal owners, no block in two places, no namespace crossed, the
  /// tree well-formed: "" or the reason.
  [[nodiscard]] std::string check() const;

 private:
  friend struct HolderDamage;  ///< of tests: a defect for check() to find

  struct Waiter {
    RequestId request;
    uint32_t num_tokens = 0;  ///< wakes when so many are computed
  };
  /// A request with a table.
  struct Running {
    std::string cache_namespace;
    std::vector<TokenId> tokens;  ///< known: at least the computed ones
    uint32_t num_computed = 0;
    std::vector<BlockId> table;
    /// The entries of its full computed blocks. Mostly table[i]; another block where somebody else
    /// published the same tokens first: then it references both.
    std::vector<BlockId> entries;
    std::vector<Waiter> waiters;  ///< by arrival
  };
  using Effects = std::vector<HolderEffect>;

  void on(const Reserve& event, Effects& effects);
  void on(const Extend& event, Effects& effects);
  void on(const Computed& event, Effects& effects);
  void on(const Release& event, Effects& effects);
  void on(const CostsMeasured& event, Effects& effects);

  [[nodiscard]] std::optional<RequestId> computing(const Reserve& event, uint32_t num_cached) const;
  void publish(Running& request);
  void stop_waiting(RequestId request);

  Duration copies_target_;
  uint32_t max_copies_;
  PrefixCache cache_;
  std::map<RequestId, Running> running_;
  std::map<RequestId, RequestId> waiting_;  ///< for whom; each is among the waiters of that one
  HolderStats totals_;
};

}  // namespace troupe::kvcache
