#pragma once

// What nodes of one machine take of its memory, and whether all of them fit. Each node checks for
// itself when it loads (apps/node.cpp, actors/shard_engine.hpp), but those that start at the same
// time do not see what the others are about to take. Pure; actors/memory_of_nodes.hpp knows
// what a configuration's nodes need.

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cluster/config.hpp"

namespace troupe::cluster {

/// Bytes of the host's memory that a node has to itself.
struct NodeMemory {
  std::string node;
  uint64_t kv_blocks = 0;  ///< 0 on a GPU, which has them
  uint64_t kv_host_blocks = 0;
  /// Of weights that cannot be multiplied where the file is mapped. A router on a GPU makes them
  /// too, on their way there.
  uint64_t copies = 0;

  [[nodiscard]] uint64_t total() const { return kv_blocks + kv_host_blocks + copies; }
};

struct MemoryNeeds {
  std::vector<NodeMemory> nodes;
  /// Weights that nodes compute with in the page cache. All share it, so what several nodes map is
  /// here once. It is not part of total(): the kernel can drop pages of files and read them again.
  uint64_t mapped = 0;

  [[nodiscard]] uint64_t total() const;
};

/// "lower limits.kv_blocks, ... or ...": the ways in which these nodes would need less. Parts below
/// a tenth of their needs are not worth one.
std::string how_to_need_less(const ClusterConfig& config, const MemoryNeeds& needs);

/// Refuses nodes that do not fit together. Where it is not known what is available, nothing is
/// refused.
/// @errors kResourceExhausted: what they need, what there is and what to do; then a line for each
///         node
Result<void> check_memory_needs(const ClusterConfig& config, const MemoryNeeds& needs,
                                const Result<uint64_t>& available);

}  // namespace troupe::cluster
