#pragma once

// The memory behind a KV-cache holder's blocks. Attention reads it in place; the ids of the blocks
// are given out by kvcache::BlockPool. Only the step that owns a block writes to it.

#include <cstddef>
#include <vector>

#include "base/check.hpp"
#include "base/ids.hpp"

namespace troupe::actors {

struct KvShape {
  size_t num_layers = 0;
  size_t num_blocks = 0;
  size_t block_tokens = 0;
  size_t kv_dim = 0;  ///< float32 per token and layer
};

/// [num_blocks][num_layers][block_tokens][kv_dim] float32. Cost: all of it is reserved at
/// construction; pages are touched when first written.
class KvStore {
 public:
  explicit KvStore(KvShape shape);
  ~KvStore();
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  [[nodiscard]] const KvShape& shape() const { return shape_; }
  [[nodiscard]] size_t size_bytes() const;

  /// [block_tokens, kv_dim] of one layer in one block.
  [[nodiscard]] float* block(LayerIdx layer, BlockId id) const {
    CHECK_LT(layer, shape_.num_layers);
    CHECK_LT(id.value, shape_.num_blocks);
    return data_ + (id.value * shape_.num_layers + layer) * shape_.block_tokens * shape_.kv_dim;
  }

 private:
  KvShape shape_;
  float* data_ = nullptr;
};

}  // namespace troupe::actors
