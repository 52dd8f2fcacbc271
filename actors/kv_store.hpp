#pragma once

// The memory behind a KV-cache holder's blocks and host slots. Attention reads it in place; the ids
// are given out by kvcache::Holder. Only the step that owns a block writes to it.

#include <cstddef>
#include <span>
#include <vector>

#include "base/check.hpp"
#include "base/ids.hpp"
#include "kvcache/holder.hpp"

namespace troupe::actors {

struct KvShape {
  size_t num_layers = 0;
  size_t num_blocks = 0;
  size_t block_tokens = 0;
  size_t kv_dim = 0;  ///< float32 per token and layer
  size_t num_host_slots = 0;
};

/// [num_blocks][num_layers][block_tokens][kv_dim] float32, and as many slots for the host tier.
/// Cost: all of it is reserved at construction; pages are touched when first written.
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
    return data_ + id.value * block_floats() + layer * shape_.block_tokens * shape_.kv_dim;
  }

  /// All layers of one block.
  [[nodiscard]] std::span<float> whole_block(BlockId id) const {
    return {whole(id), block_floats()};
  }
  /// Copies whole blocks, all layers, in order.
  void copy(const std::vector<kvcache::Copy>& copies) const;

 private:
  [[nodiscard]] size_t block_floats() const {
    return shape_.num_layers * shape_.block_tokens * shape_.kv_dim;
  }
  [[nodiscard]] float* whole(BlockId id) const { return block(0, id); }
  [[nodiscard]] float* whole(kvcache::HostSlot slot) const {
    CHECK_LT(slot.value, shape_.num_host_slots);
    return data_ + (shape_.num_blocks + slot.value) * block_floats();
  }

  KvShape shape_;
  float* data_ = nullptr;  ///< blocks, then host slots
};

}  // namespace troupe::actors
