#include "cluster/memory_needs.hpp"

#include <cstddef>

#include "base/memory_room.hpp"
#include "base/rounded_size.hpp"

namespace troupe::cluster {
namespace {

uint64_t sum(const MemoryNeeds& needs, uint64_t NodeMemory::*part) {
  uint64_t bytes = 0;
  for (const NodeMemory& node : needs.nodes) bytes += node.*part;
  return bytes;
}

std::string line_of(const NodeMemory& node) {
  std::string parts;
  const auto part = [&](const char* what, uint64_t bytes) {
    if (bytes == 0) return;
    parts += (parts.empty() ? "" : ", ") + (what + (" " + rounded_size(bytes)));
  };
  part("KV blocks", node.kv_blocks);
  part("host tier", node.kv_host_blocks);
  part("copies of weights", node.copies);
  return "\n  " + node.node + ": " + rounded_size(node.total()) +
         (parts.empty() ? "" : " (" + parts + ")");
}

}  // namespace

uint64_t MemoryNeeds::total() const {
  uint64_t bytes = 0;
  for (const NodeMemory& node : nodes) bytes += node.total();
  return bytes;
}

std::string how_to_need_less(const ClusterConfig& config, const MemoryNeeds& needs) {
  const auto matter = [&](uint64_t bytes) { return bytes > 0 && bytes >= needs.total() / 10; };
  const uint64_t blocks = sum(needs, &NodeMemory::kv_blocks);
  const uint64_t host_blocks = sum(needs, &NodeMemory::kv_host_blocks);
  std::vector<std::string> ways;
  if (matter(blocks)) ways.emplace_back("lower limits.kv_blocks");
  if (matter(host_blocks)) ways.emplace_back("lower limits.kv_host_blocks");
  if (matter(blocks + host_blocks) && config.kv_dtype == DType::kF32) {
    ways.emplace_back("set limits.kv_dtype: bf16");
  }
  if (matter(sum(needs, &NodeMemory::copies))) {
    ways.emplace_back("serve weights that `troupe quantize` wrote, which need few copies");
  }
  if (needs.nodes.size() > 1) ways.emplace_back("run fewer nodes on this machine");
  std::string text;
  for (size_t i = 0; i < ways.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < ways.size() ? ", " : " or ") + ways[i];
  }
  return text;
}

Result<void> check_memory_needs(const ClusterConfig& config, const MemoryNeeds& needs,
                                const Result<uint64_t>& available) {
  auto fits = check_memory_room("the nodes of this machine together need", needs.total(), available,
                                how_to_need_less(config, needs));
  if (fits.ok()) return {};
  Error error = std::move(fits).error();
  for (const NodeMemory& node : needs.nodes) error.message += line_of(node);
  error.message += "\nMapped weights (" + rounded_size(needs.mapped) +
                   ", once for all nodes) are not counted: they lie in the page cache.";
  return error;
}

}  // namespace troupe::cluster
