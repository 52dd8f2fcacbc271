#pragma once

// The memory behind a KV-cache holder's blocks and host slots. Attention reads it in place; the ids
// are given out by kvcache::Holder. Only the step that owns a block writes to it.

#include <cstddef>
#include <string>
#include <vector>

#include "base/check.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/tensor_view.hpp"
#include "kernels/array.hpp"
#include "kernels/memory.hpp"
#include "kernels/ops.hpp"
#include "kvcache/holder.hpp"

namespace troupe::actors {

struct KvShape {
  size_t num_layers = 0;
  size_t num_blocks = 0;
  size_t block_tokens = 0;
  size_t kv_dim = 0;  ///< elements per token and layer
  size_t num_host_slots = 0;
  DType dtype = DType::kF32;  ///< of the elements, or kBF16

  /// Of one token in one layer.
  [[nodiscard]] size_t row_bytes() const { return kv_dim * size_of(dtype); }
  [[nodiscard]] size_t block_bytes() const { return num_layers * block_tokens * row_bytes(); }
  [[nodiscard]] size_t blocks_bytes() const { return num_blocks * block_bytes(); }
  [[nodiscard]] size_t host_slots_bytes() const { return num_host_slots * block_bytes(); }
  /// Of blocks and host slots.
  [[nodiscard]] size_t size_bytes() const { return blocks_bytes() + host_slots_bytes(); }
};

/// What a node announces, "cpu-f32" or "cpu-f32+kv-bf16": KV in BF16 makes other tokens, and its
/// blocks mean nothing to a router that keeps float32.
std::string arithmetic_class(const kernels::Ops& ops, DType kv_dtype);

/// On a device.
struct KvOnDevice {
  kernels::OwnedMemory blocks;      ///< of blocks_bytes()
  kernels::OwnedMemory host_slots;  ///< of host_slots_bytes(), of allocate_on_host(); none: nullptr
};

/// @errors kResourceExhausted
Result<KvOnDevice> allocate_kv(const KvShape& shape, kernels::Memory& memory);

/// [num_blocks][num_layers][block_tokens][kv_dim] elements in the memory of a backend, and slots of
/// the same size in the host's for the host tier.
/// Cost: all of it is reserved at construction. If the memory is the host's, pages are touched when
/// first written.
class KvStore {
 public:
  /// @param memory outlives the object
  /// @param on_device of that memory, if it is not the host's
  KvStore(KvShape shape, kernels::Memory& memory, KvOnDevice on_device = {});
  ~KvStore();
  KvStore(const KvStore&) = delete;
  KvStore& operator=(const KvStore&) = delete;

  [[nodiscard]] const KvShape& shape() const { return shape_; }
  [[nodiscard]] size_t size_bytes() const { return shape_.size_bytes(); }
  /// That the blocks lie in.
  [[nodiscard]] kernels::Memory& memory() const { return memory_; }

  /// [kv_dim] of one layer: token number `slot` of one block. The others follow, so that slot 0 is
  /// where [block_tokens, kv_dim] begin.
  [[nodiscard]] void* row(LayerIdx layer, BlockId id, size_t slot) const {
    CHECK_LT(layer, shape_.num_layers);
    CHECK_LT(slot, shape_.block_tokens);
    return whole(id) + (layer * shape_.block_tokens + slot) * shape_.row_bytes();
  }

  [[nodiscard]] size_t block_bytes() const {
    return shape_.num_layers * shape_.block_tokens * shape_.row_bytes();
  }
  /// All layers of one block, to and from the host: block_bytes().
  void read_block(BlockId id, std::byte* to) const;
  void write_block(BlockId id, const std::byte* from) const;
  /// Copies whole blocks, all layers, in order.
  void copy(const std::vector<kvcache::Copy>& copies) const;
  /// One of them, not waited for. @param host_tier whose slots it goes to and comes from
  void begin_copy(const kvcache::CopyToHost& copy, const KvStore& host_tier) const;
  void begin_copy(const kvcache::CopyToDevice& copy, const KvStore& host_tier) const;
  void begin_copy(const kvcache::CopyBlock& copy, const KvStore& host_tier) const;

 private:
  [[nodiscard]] std::byte* whole(BlockId id) const {
    CHECK_LT(id.value, shape_.num_blocks);
    return blocks_ + id.value * block_bytes();
  }
  [[nodiscard]] std::byte* whole(kvcache::HostSlot slot) const {
    CHECK_LT(slot.value, shape_.num_host_slots);
    return slots_ + slot.value * block_bytes();
  }

  KvShape shape_;
  kernels::Memory& memory_;
  std::byte* mapped_ = nullptr;  ///< if the memory is the host's: blocks, then slots
  KvOnDevice on_device_;         ///< if it is not
  std::byte* blocks_ = nullptr;
  std::byte* slots_ = nullptr;
};

}  // namespace troupe::actors
