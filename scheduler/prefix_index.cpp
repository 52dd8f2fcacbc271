#include "scheduler/prefix_index.hpp"

#include <algorithm>
#include <array>

#include "base/check.hpp"

namespace troupe::scheduler {
namespace {

/// One round of a multiply-and-fold hash: the order of the values matters, and every bit of them
/// reaches the result.
uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash + value) * 0x9E3779B97F4A7C15;  // 2^64 / golden ratio, odd
  return hash ^ (hash >> 29);
}

}  // namespace

PrefixIndexOptions PrefixIndexOptions::for_tokens(uint64_t cached_tokens) {
  PrefixIndexOptions options;
  if (cached_tokens == 0) return options;
  options.max_chunks = static_cast<uint32_t>(
      std::clamp<uint64_t>(cached_tokens / options.chunk_tokens, 1, options.max_chunks));
  return options;
}

PrefixIndex::PrefixIndex(PrefixIndexOptions options) : options_(options) {
  CHECK_GE(options.chunk_tokens, 1U);
  CHECK_GE(options.max_chunks, 1U);
}

std::vector<uint64_t> PrefixIndex::hashes(const std::string& cache_namespace,
                                          std::span<const TokenId> tokens) const {
  std::vector<uint64_t> chain;
  chain.reserve(tokens.size() / options_.chunk_tokens);
  uint64_t hash = std::hash<std::string>()(cache_namespace);
  while (tokens.size() >= options_.chunk_tokens) {
    // A round waits for the one before: chunks by themselves, and four rounds side by side.
    std::array<uint64_t, 4> parts{1, 2, 3, 4};
    for (size_t i = 0; i < options_.chunk_tokens; ++i) {
      parts[i % 4] = mix(parts[i % 4], static_cast<uint32_t>(tokens[i]));
    }
    for (const uint64_t part : parts) hash = mix(hash, part);
    chain.push_back(hash);
    tokens = tokens.subspan(options_.chunk_tokens);
  }
  return chain;
}

std::vector<PrefixIndex::Match> PrefixIndex::match(const std::string& cache_namespace,
                                                   std::span<const TokenId> tokens) const {
  const std::vector<uint64_t> chain = hashes(cache_namespace, tokens);
  std::vector<Match> matches;
  const auto first = chain.empty() ? chunks_.end() : chunks_.find(chain.front());
  if (first == chunks_.end()) return matches;
  for (const NodeId router : first->second.routers) {
    const auto has = [&](uint64_t hash) {
      const auto chunk = chunks_.find(hash);
      return chunk != chunks_.end() && std::ranges::count(chunk->second.routers, router) > 0;
    };
    const auto num_chunks = std::ranges::partition_point(chain, has) - chain.begin();
    matches.push_back({router, static_cast<uint32_t>(num_chunks) * options_.chunk_tokens});
  }
  return matches;
}

void PrefixIndex::add(NodeId router, const std::string& cache_namespace,
                      std::span<const TokenId> tokens) {
  // From the end, so that of one prompt its start was used last and goes last.
  const std::vector<uint64_t> chain = hashes(cache_namespace, tokens);
  for (auto hash = chain.rbegin(); hash != chain.rend(); ++hash) {
    const auto [at, is_new] = chunks_.try_emplace(*hash);
    if (is_new) {
      uses_.push_front(*hash);
      at->second.use = uses_.begin();
    } else {
      uses_.splice(uses_.begin(), uses_, at->second.use);
    }
    auto& routers = at->second.routers;
    if (std::ranges::find(routers, router) == routers.end()) routers.push_back(router);
  }
  while (chunks_.size() > options_.max_chunks) erase(chunks_.find(uses_.back()));
}

void PrefixIndex::forget(NodeId router) {
  for (auto at = chunks_.begin(); at != chunks_.end();) {
    const auto chunk = at++;
    if (std::erase(chunk->second.routers, router) > 0 && chunk->second.routers.empty()) {
      erase(chunk);
    }
  }
}

void PrefixIndex::erase(std::unordered_map<uint64_t, Chunk>::iterator chunk) {
  uses_.erase(chunk->second.use);
  chunks_.erase(chunk);
}

std::string PrefixIndex::check() const {
  if (uses_.size() != chunks_.size()) return "a chunk of a prefix is used by nobody, or twice";
  if (chunks_.size() > options_.max_chunks) return "the prefix index exceeds its bound";
  for (auto use = uses_.begin(); use != uses_.end(); ++use) {
    const auto chunk = chunks_.find(*use);
    if (chunk == chunks_.end() || chunk->second.use != use) return "a use has no chunk";
    if (chunk->second.routers.empty()) return "a chunk is on no router";
  }
  return "";
}

}  // namespace troupe::scheduler
