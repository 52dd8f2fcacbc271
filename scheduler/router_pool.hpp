#pragma once

// The routers that are up and what the cluster has given them, for choosing where a request runs:
// the router where it takes the least work before its first token, that is the tokens that are not
// cached there and those of other requests before them, plus a price for each request that decodes
// there. A router whose KV blocks would not hold it is not chosen while something runs there. Pure.

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"
#include "scheduler/prefix_index.hpp"

namespace troupe::scheduler {

struct RouterPoolOptions {
  uint32_t max_running = 16;  ///< on one router at a time; >= 1
  /// KV positions of one router; 0: as many as anybody wants.
  uint64_t kv_tokens = 0;
  /// What a request that decodes costs a new one, in tokens of prefill.
  uint32_t running_cost = 64;
  uint32_t min_fetch_tokens = 256;  ///< `much more`
  /// `Clearly sooner` is by a quarter of the work before the first token and so many tokens of it.
  uint32_t min_gain_tokens = 256;
  PrefixIndexOptions index;
};

/// What one request takes of a router, from its start there to its end.
struct RouterShare {
  NodeId router;
  uint32_t num_prefill = 0;          ///< tokens before its first token; 0 once that came
  uint64_t num_kv = 0;               ///< KV positions that it does not share
  uint32_t num_guessed = 0;          ///< tokens that were taken for cached at its start
  std::optional<NodeId> fetch_from;  ///< a router, drained or not, with much more of its KV
};

/// Requests that are not before another one on its router, though they run there: they are to have
/// their first token later.
struct Behind {
  uint32_t num_running = 0;
  uint64_t num_prefill = 0;
};

class RouterPool {
 public:
  explicit RouterPool(RouterPoolOptions options);

  void up(NodeId router, Instant now);
  /// Its requests have left before. It may come up again, with its cache.
  void down(NodeId router);
  /// Its process ended, and its cache with it.
  void forget(NodeId router) { index_.forget(router); }
  void drain(NodeId router, bool drained);
  void heard(NodeId router, Instant now);

  [[nodiscard]] bool empty() const { return routers_.empty(); }
  [[nodiscard]] size_t size() const { return routers_.size(); }
  [[nodiscard]] bool is_up(NodeId router) const { return routers_.contains(router); }
  [[nodiscard]] Instant last_heard(NodeId router) const { return routers_.at(router).last_heard; }
  [[nodiscard]] bool any_undrained() const;
  [[nodiscard]] bool is_drained(NodeId router) const { return routers_.at(router).drained; }
  /// Somebody has a place, whatever the request; its blocks may still be too few.
  [[nodiscard]] bool any_place(std::optional<NodeId> except = {}) const;

  /// Where a request that knows these tokens should run now, with what it would take there; nothing
  /// if it had better wait. `except`: not there. `leaving`: as if this share had left already.
  [[nodiscard]] std::optional<RouterShare> choose(const std::string& cache_namespace,
                                                  std::span<const TokenId> known,
                                                  std::optional<NodeId> except = {},
                                                  const RouterShare* leaving = nullptr) const;

  /// Of tokens that a request knows so many are probably cached where most of them are, whoever has
  /// a place. Not the last one, which is computed in any case. Cost: hashes of the tokens.
  [[nodiscard]] uint32_t most_cached(const std::string& cache_namespace,
                                     std::span<const TokenId> known) const;

  /// A request that waits on this router, with such others behind it, might begin clearly sooner
  /// where there is a place, were all of it cached there. Cost: O(routers), no hashing.
  [[nodiscard]] bool any_sooner(NodeId router, const Behind& behind) const;
  /// Where a request that has not begun would do so clearly sooner; nothing if nowhere. There it
  /// is taken for the last one. What it was to compute on its router is not taken to be there.
  [[nodiscard]] std::optional<RouterShare> choose_sooner(const RouterShare& waits,
                                                         const Behind& behind,
                                                         const std::string& cache_namespace,
                                                         std::span<const TokenId> known) const;

  /// The router is taken to have these tokens from now on, also if the request leaves before it has
  /// computed them: then a later one that begins with them may be sent there and computes them
  /// anew.
  void start(const RouterShare& share, const std::string& cache_namespace,
             std::span<const TokenId> known);
  /// Tokens came; with the first ones here it is known how many were cached.
  void emitted(RouterShare& share, uint64_t num_tokens, uint32_t num_cached);
  /// The router has computed these tokens: a conversation may go on from here.
  void computed(NodeId router, const std::string& cache_namespace, std::span<const TokenId> tokens);
  void leave(const RouterShare& share);

  /// Routers whose requests want more KV than there is: the last ones wait there for nothing.
  [[nodiscard]] std::vector<NodeId> overcommitted() const;

  /// @param shares of all requests that run
  [[nodiscard]] std::string check(const std::vector<RouterShare>& shares) const;

 private:
  struct Router {
    uint32_t num_running = 0;
    uint64_t num_prefill = 0;  ///< sums over the shares
    uint64_t num_kv = 0;
    bool drained = false;
    Instant last_heard;
  };

  static void leave(Router& router, const RouterShare& share);
  /// Work before the first token of a request, with its own prefill.
  [[nodiscard]] uint64_t work(uint64_t num_prefill, uint64_t num_others) const {
    return num_prefill + options_.running_cost * num_others;
  }
  /// @param there work before its first token on another router
  [[nodiscard]] bool is_sooner(uint64_t there, const Router& than, const Behind& behind) const;

  RouterPoolOptions options_;
  std::map<NodeId, Router> routers_;
  PrefixIndex index_;
};

}  // namespace troupe::scheduler
