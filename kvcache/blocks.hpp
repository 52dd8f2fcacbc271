#pragma once

// A pool of KV blocks, by id only: the memory itself belongs to the shell. Each block is free, in
// use (somebody references it) or idle (the prefix cache keeps what it holds, nobody references
// it). The slots of the host tier are such a pool, too.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"

namespace troupe::kvcache {

class BlockPool {
 public:
  /// @param block_tokens >= 1
  BlockPool(uint32_t num_blocks, uint32_t block_tokens);

  /// A free block with one reference, or nothing if none is free.
  std::optional<BlockId> allocate();
  /// One more reference. REQUIRES: in use or idle.
  void share(BlockId block);
  /// One reference less: after the last one the block is idle if it is kept, else free.
  /// REQUIRES: in use.
  void release(BlockId block);
  /// The block outlives its references until drop(). REQUIRES: in use, not kept.
  void keep(BlockId block);
  /// Ends keep(): an idle block becomes free. REQUIRES: kept.
  void drop(BlockId block);

  [[nodiscard]] uint32_t num_blocks() const { return static_cast<uint32_t>(references_.size()); }
  [[nodiscard]] uint32_t block_tokens() const { return block_tokens_; }
  [[nodiscard]] uint32_t blocks_for(uint32_t num_tokens) const;
  [[nodiscard]] uint32_t num_free() const { return static_cast<uint32_t>(free_.size()); }
  [[nodiscard]] uint32_t num_idle() const { return num_idle_; }
  [[nodiscard]] uint32_t references(BlockId block) const { return references_[block.value]; }
  [[nodiscard]] bool is_kept(BlockId block) const { return kept_[block.value]; }

  /// Blocks conserved, counts match owners: "" or the reason.
  /// @param owners [num_blocks] how often each block is referenced
  [[nodiscard]] std::string check(std::span<const uint32_t> owners) const;

 private:
  uint32_t block_tokens_;
  std::vector<uint32_t> references_;  ///< [num_blocks]
  std::vector<bool> kept_;            ///< [num_blocks]
  std::vector<BlockId> free_;         ///< a stack; every block neither referenced nor kept, once
  uint32_t num_idle_ = 0;
};

}  // namespace troupe::kvcache
