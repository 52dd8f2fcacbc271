#pragma once

// What the routers' prefix caches probably hold, seen from the cluster: which prefixes were sent
// where, by chained hashes of chunks of tokens. A guess, kept small and without a message: routers
// evict what they like, and a wrong guess costs time, never a token. Pure.

#include <cstdint>
#include <list>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/ids.hpp"

namespace troupe::scheduler {

struct PrefixIndexOptions {
  uint32_t chunk_tokens = 32;  ///< a match is a multiple of this; >= 1
  /// Remembered; the least recently used go first. About 200 B each.
  uint32_t max_chunks = 262144;

  /// For routers whose caches hold so many tokens in all, 0: not known. What they cannot hold would
  /// be guessed wrongly.
  [[nodiscard]] static PrefixIndexOptions for_tokens(uint64_t cached_tokens);
};

class PrefixIndex {
 public:
  explicit PrefixIndex(PrefixIndexOptions options);
  /// Not copied: its parts point to each other.
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;
  PrefixIndex(PrefixIndex&&) = default;
  PrefixIndex& operator=(PrefixIndex&&) = default;

  struct Match {
    NodeId router;
    uint32_t num_tokens = 0;  ///< > 0
  };
  /// How much of the tokens each router probably has, in the order in which they got the first
  /// chunk; routers with nothing are left out.
  /// Cost: O(tokens + routers * log chunks of the tokens); 4,096 tokens in
  /// bench/results/scheduler.md.
  [[nodiscard]] std::vector<Match> match(const std::string& cache_namespace,
                                         std::span<const TokenId> tokens) const;
  /// The router computes, or has computed, these tokens.
  void add(NodeId router, const std::string& cache_namespace, std::span<const TokenId> tokens);
  /// Its cache is gone. Cost: O(chunks).
  void forget(NodeId router);

  [[nodiscard]] size_t num_chunks() const { return chunks_.size(); }
  [[nodiscard]] std::string check() const;

 private:
  /// Of a whole prefix: its hash stands for all tokens up to its end. Two prefixes of equal hash
  /// are taken for one, which is no worse than any other wrong guess.
  /// Invariant: who has a prefix has every shorter one, which was used no longer ago.
  struct Chunk {
    std::vector<NodeId> routers;  ///< few
    std::list<uint64_t>::iterator use;
  };
  [[nodiscard]] std::vector<uint64_t> hashes(const std::string& cache_namespace,
                                             std::span<const TokenId> tokens) const;
  void erase(std::unordered_map<uint64_t, Chunk>::iterator chunk);

  PrefixIndexOptions options_;
  std::unordered_map<uint64_t, Chunk> chunks_;  ///< by hash of the prefix
  std::list<uint64_t> uses_;                    ///< the most recently used first
};

}  // namespace troupe::scheduler
