#include "kvcache/blocks.hpp"

#include "base/check.hpp"

namespace troupe::kvcache {

BlockPool::BlockPool(uint32_t num_blocks, uint32_t block_tokens)
    : block_tokens_(block_tokens), references_(num_blocks, 0), kept_(num_blocks, false) {
  CHECK_GE(block_tokens, 1U);
  free_.reserve(num_blocks);
  for (uint32_t block = num_blocks; block > 0; --block) free_.push_back(BlockId{block - 1});
}

std::optional<BlockId> BlockPool::allocate() {
  if (free_.empty()) return std::nullopt;
  const BlockId block = free_.back();
  free_.pop_back();
  references_[block.value] = 1;
  return block;
}

void BlockPool::share(BlockId block) {
  if (references_[block.value]++ > 0) return;
  CHECK(kept_[block.value]);
  --num_idle_;
}

void BlockPool::release(BlockId block) {
  CHECK_GE(references_[block.value], 1U);
  if (--references_[block.value] > 0) return;
  if (kept_[block.value]) {
    ++num_idle_;
  } else {
    free_.push_back(block);
  }
}

void BlockPool::keep(BlockId block) {
  CHECK(references_[block.value] > 0 && !kept_[block.value]);
  kept_[block.value] = true;
}

void BlockPool::drop(BlockId block) {
  CHECK(kept_[block.value]);
  kept_[block.value] = false;
  if (references_[block.value] > 0) return;
  --num_idle_;
  free_.push_back(block);
}

uint32_t BlockPool::blocks_for(uint32_t num_tokens) const {
  return num_tokens / block_tokens_ + (num_tokens % block_tokens_ != 0 ? 1 : 0);
}

std::string BlockPool::check(std::span<const uint32_t> owners) const {
  std::vector<bool> is_free(num_blocks(), false);
  for (const BlockId block : free_) {
    if (block.value >= num_blocks() || is_free[block.value]) {
      return "free block " + std::to_string(block.value) + " is listed twice or unknown";
    }
    is_free[block.value] = true;
  }
  uint32_t num_idle = 0;
  for (uint32_t block = 0; block < num_blocks(); ++block) {
    const bool in_use = references_[block] > 0;
    if (owners[block] != references_[block]) {
      return "block " + std::to_string(block) + " counts " + std::to_string(references_[block]) +
             " references and has " + std::to_string(owners[block]) + " owners";
    }
    if (is_free[block] == (in_use || kept_[block])) {
      return "block " + std::to_string(block) + " is both free and in use, or neither";
    }
    if (kept_[block] && !in_use) ++num_idle;
  }
  return num_idle == num_idle_ ? "" : "the count of idle blocks is wrong";
}

}  // namespace troupe::kvcache
