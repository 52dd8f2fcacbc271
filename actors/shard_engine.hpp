#pragma once

// What an expert shard computes on its executor: it holds experts in the backend's memory, and
// answers dispatches with one row for each assignment. What comes from routers and goes to them is
// on the host. Used by one job at a time, but for load_ahead(); knows no actors.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "actors/expert_compute.hpp"
#include "base/result.hpp"
#include "experts/placement.hpp"
#include "kernels/array.hpp"
#include "kernels/backend.hpp"
#include "model/weights.hpp"
#include "transport/frame.hpp"

namespace troupe::actors {

class ShardEngine {
 public:
  using Keys = std::vector<experts::ExpertKey>;  ///< ascending

  /// @param checkpoint, backend outlive the engine
  /// @param max_batch_rows of compute(), for which a device needs room
  /// @param num_threads that load()
  ShardEngine(const model::Checkpoint& checkpoint, const kernels::Backend& backend,
              uint32_t max_batch_rows, size_t num_threads = 1)
      : checkpoint_(checkpoint),
        backend_(backend),
        ops_(*backend.ops),
        memory_(*backend.memory),
        max_batch_rows_(max_batch_rows),
        num_threads_(num_threads),
        scratch_{memory_} {}

  /// Lets go of all but these.
  void keep(const Keys& held);
  /// Whether there is memory for experts beside those held: on the host for those that cannot be
  /// mapped, on a device for all, and for activations of the largest batch.
  /// @errors kResourceExhausted, naming sizes and what to do
  [[nodiscard]] Result<void> check_room(const Keys& missing) const;
  /// Holds these and no others, and takes memory for the largest batch on a device. @errors those
  /// of check_room(), before any is loaded; those of the checkpoint and of kernels::PlacedWeights;
  /// kResourceExhausted if others took that memory meanwhile
  Result<void> load(const Keys& held);

  /// Maps experts and reads a byte of each of their pages, so that nobody who computes waits for a
  /// disk. May run while other jobs do. @errors those of the checkpoint
  [[nodiscard]] Result<ExpertTable> load_ahead(const Keys& missing) const;
  /// Takes experts out of `loaded` and holds them, too: all of them in the host's memory, one on a
  /// device, since whoever waits to be computed waits for the copy. With the last one memory for
  /// the largest batch.
  /// @errors as load(); without room for that batch smaller ones take theirs when they come
  Result<void> take_some(ExpertTable& loaded);

  /// Of some dispatches, [assignments, hidden] each. A device that fails ends the process.
  /// REQUIRES: experts of this layer that are held; rows of the model's width
  /// Cost: beside the experts a copy of all rows and results, unless it is one dispatch by
  /// ascending expert, as they come. The results of a batch share their memory.
  std::vector<std::shared_ptr<const transport::Buffer>> compute(
      LayerIdx layer, std::span<const transport::Frame* const> dispatches);

 private:
  /// The dispatches' rows, one after the other, where the backend computes.
  const float* rows_of(std::span<const transport::Frame* const> dispatches, size_t num_rows);
  Result<void> hold(const experts::ExpertKey& key, const model::ExpertWeights& loaded);
  /// That the largest batch takes beside what is allocated already.
  [[nodiscard]] uint64_t activation_bytes_to_come(const Keys& missing) const;
  /// Experts of a row at most, with those held and these.
  [[nodiscard]] uint64_t experts_per_row(const Keys& missing) const;
  /// On a device, for the largest batch of the experts held.
  Result<void> make_room();

  const model::Checkpoint& checkpoint_;
  const kernels::Backend& backend_;
  kernels::Ops& ops_;
  kernels::Memory& memory_;
  uint32_t max_batch_rows_;
  size_t num_threads_;
  ExpertTable table_;  ///< in memory_
  ExpertScratch scratch_;
  std::vector<ExpertTask> tasks_;
  kernels::Array rows_;                          ///< of several dispatches, or on a device
  kernels::Array results_;                       ///< on a device
  kernels::Array rows_staged_, results_staged_;  ///< the same on the host, for a device
};

}  // namespace troupe::actors
