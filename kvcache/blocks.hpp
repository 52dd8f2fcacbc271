#pragma once

// The pool of KV blocks of one holder, by id only: the memory itself belongs to the shell. Blocks
// are counted references, so that later several requests can share a prefix.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.hpp"

namespace troupe::kvcache {

class BlockPool {
 public:
  /// @param num_blocks, block_tokens >= 1
  BlockPool(uint32_t num_blocks, uint32_t block_tokens);

  /// Blocks for `num_tokens` tokens, or nothing if too few are free.
  /// REQUIRES: the request holds none.
  std::optional<std::vector<BlockId>> reserve(RequestId request, uint32_t num_tokens);
  /// The block table of a request; empty if it holds none.
  [[nodiscard]] const std::vector<BlockId>& table(RequestId request) const;
  /// Gives a request's blocks back; harmless if it holds none.
  void release(RequestId request);

  [[nodiscard]] uint32_t num_blocks() const { return num_blocks_; }
  [[nodiscard]] uint32_t num_free() const;
  [[nodiscard]] uint32_t block_tokens() const { return block_tokens_; }
  [[nodiscard]] uint32_t blocks_for(uint32_t num_tokens) const;
  /// Blocks conserved, counts match owners: "" or the reason.
  [[nodiscard]] std::string check() const;

 private:
  uint32_t num_blocks_;
  uint32_t block_tokens_;
  std::vector<uint32_t> references_;  ///< [num_blocks] tables that name the block
  std::vector<BlockId> free_;         ///< a stack; every block with no reference, once
  std::map<RequestId, std::vector<BlockId>> tables_;
};

}  // namespace troupe::kvcache
