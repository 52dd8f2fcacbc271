#pragma once

// The devices that compute a router together, each its heads of attention (tensor parallelism), or
// the single one. What is split are outputs, never a sum, and what was computed is gathered as it
// is, so the bits are those of one device (docs/decisions/0007). The latent KV is one head for all:
// every rank holds all of it.

#include <memory>
#include <span>
#include <vector>

#include "actors/forward.hpp"
#include "actors/kv_store.hpp"
#include "actors/placed_weights.hpp"
#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "kernels/thread_pool.hpp"
#include "model/config.hpp"

namespace troupe::actors {

/// What one of them holds.
struct Rank {
  const kernels::Backend& backend;
  std::shared_ptr<const PlacedRouter> weights;
  KvStore kv;  ///< only that of rank 0 has slots of the host tier
};

/// One for each device of a backend, in its order. Used by one thread at a time.
class Ranks {
 public:
  /// Has each device's part of the weights there. @param backend outlives the object, as `config`
  /// @errors those of check_limits() and check_devices(); kUnsupported if the weights' format
  ///         cannot be cut for so many; kResourceExhausted if a device has no room for the weights
  ///         or the KV, or the host none for its tier; its own
  static Result<std::unique_ptr<Ranks>> load(
      const model::ModelConfig& config, const std::shared_ptr<const model::RouterWeights>& weights,
      const kernels::Backend& backend, const KvShape& kv);

  [[nodiscard]] size_t count() const { return ranks_.size(); }
  [[nodiscard]] Rank& operator[](size_t rank) { return *ranks_[rank]; }

  /// task(k) for each rank k at the same time, the first one in the calling thread; returns when
  /// all are done. REQUIRES: not called from a task of any kernels::ThreadPool
  template <class Task>
  void for_each(const Task& task) {
    if (threads_ == nullptr) return task(0);
    threads_->parallel_for(count(), task);
  }

  [[nodiscard]] size_t block_bytes() const { return ranks_[0]->kv.block_bytes(); }
  /// Of one rank, in the host tier and the blocks.
  [[nodiscard]] size_t kv_bytes() const { return ranks_[0]->kv.size_bytes(); }
  /// As those of KvStore. Blocks go to all ranks and come from the first, where they are the same.
  void read_block(BlockId id, std::byte* to) const { ranks_[0]->kv.read_block(id, to); }
  void write_block(BlockId id, const std::byte* from) const;
  void copy_blocks(const std::vector<kvcache::Copy>& copies) const;

 private:
  Ranks() = default;

  std::vector<std::unique_ptr<Rank>> ranks_;
  std::unique_ptr<kernels::ThreadPool> threads_;  ///< one for each rank; null if there is one
};

/// A Forward on each rank, in lockstep: every call returns when all have done it. The first one
/// gives the chosen experts, the rows of exchanges and the logits.
class ParallelForward {
 public:
  /// All arguments outlive the object.
  ParallelForward(const model::ModelConfig& config, Ranks& ranks, AttentionForm form,
                  ExchangeRows exchange_rows);

  // As those of Forward.
  Result<void> make_room(size_t num_rows, size_t num_logits, size_t num_others);
  void begin(std::span<const StepSequence> sequences);
  Forward::Status advance();
  void compute_shared();
  [[nodiscard]] Rows logits() const { return forwards_[0].logits(); }
  Rows logits_of(uint32_t first_row, uint32_t count) {
    return forwards_[0].logits_of(first_row, count);
  }
  std::vector<const float*> on_host(std::span<const float* const> rows) {
    return forwards_[0].on_host(rows);
  }

  /// That of one rank, for exchange() and provide(). The rows of exchanges of others than the first
  /// lie in place.
  [[nodiscard]] Forward& of(size_t rank) { return forwards_[rank]; }

 private:
  Ranks& ranks_;
  std::vector<Forward> forwards_;
  std::vector<StepSequence> without_logits_;
};

}  // namespace troupe::actors
