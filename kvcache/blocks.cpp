#include "kvcache/blocks.hpp"

#include "base/check.hpp"

namespace troupe::kvcache {

BlockPool::BlockPool(uint32_t num_blocks, uint32_t block_tokens)
    : num_blocks_(num_blocks), block_tokens_(block_tokens), references_(num_blocks, 0) {
  CHECK_GE(num_blocks, 1U);
  CHECK_GE(block_tokens, 1U);
  free_.reserve(num_blocks);
  for (uint32_t block = num_blocks; block > 0; --block) free_.push_back(BlockId{block - 1});
}

uint32_t BlockPool::num_free() const { return static_cast<uint32_t>(free_.size()); }

uint32_t BlockPool::blocks_for(uint32_t num_tokens) const {
  return num_tokens / block_tokens_ + (num_tokens % block_tokens_ != 0 ? 1 : 0);
}

std::optional<std::vector<BlockId>> BlockPool::reserve(RequestId request, uint32_t num_tokens) {
  CHECK(!tables_.contains(request));
  const uint32_t needed = blocks_for(num_tokens);
  if (needed > num_free()) return std::nullopt;
  std::vector<BlockId> blocks(free_.rbegin(), free_.rbegin() + needed);
  free_.resize(free_.size() - needed);
  for (const BlockId block : blocks) ++references_[block.value];
  if (needed > 0) tables_.emplace(request, blocks);
  return blocks;
}

const std::vector<BlockId>& BlockPool::table(RequestId request) const {
  static const std::vector<BlockId> kNone;
  const auto found = tables_.find(request);
  return found == tables_.end() ? kNone : found->second;
}

void BlockPool::release(RequestId request) {
  const auto found = tables_.find(request);
  if (found == tables_.end()) return;
  // Backwards, so that the same blocks come out in the same order next time.
  for (auto block = found->second.rbegin(); block != found->second.rend(); ++block) {
    if (--references_[block->value] == 0) free_.push_back(*block);
  }
  tables_.erase(found);
}

std::string BlockPool::check() const {
  std::vector<uint32_t> named(num_blocks_, 0);
  for (const auto& [request, blocks] : tables_) {
    if (blocks.empty()) return "request " + std::to_string(request.value) + " has an empty table";
    for (const BlockId block : blocks) {
      if (block.value >= num_blocks_) {
        return "block " + std::to_string(block.value) + " is not of this pool";
      }
      ++named[block.value];
    }
  }
  std::vector<bool> is_free(num_blocks_, false);
  for (const BlockId block : free_) {
    if (block.value >= num_blocks_ || is_free[block.value]) {
      return "free block " + std::to_string(block.value) + " is listed twice or unknown";
    }
    is_free[block.value] = true;
  }
  for (uint32_t block = 0; block < num_blocks_; ++block) {
    if (named[block] != references_[block]) {
      return "block " + std::to_string(block) + " counts " + std::to_string(references_[block]) +
             " references, tables name it " + std::to_string(named[block]) + " times";
    }
    if (is_free[block] != (references_[block] == 0)) {
      return "block " + std::to_string(block) + " is both free and in use, or neither";
    }
  }
  return "";
}

}  // namespace troupe::kvcache
