#pragma once

// The whole model in one process: router and all experts, no actors. `troupe generate`, `logits`,
// `eval`, `bench local` and the tests that compare a cluster with one process run it.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actors/expert_compute.hpp"
#include "actors/ranks.hpp"
#include "actors/step_work.hpp"
#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "model/guide.hpp"
#include "model/sampling.hpp"
#include "model/weights.hpp"
#include "scheduler/request.hpp"

namespace troupe::actors {

struct LocalModelOptions {
  size_t num_threads = 1;
  std::vector<uint32_t> cpus = {};  ///< that the threads are pinned to, as in kernels::ThreadPool
  AttentionForm form = AttentionForm::kAbsorbed;
  DType kv_dtype = DType::kF32;  ///< or kBF16
  uint32_t max_context = 0;      ///< tokens of one sequence; 0: up to the model's maximum
  uint32_t num_sequences = 1;    ///< of so many tokens; more than one are for step() alone
  uint32_t chunk_tokens = 256;   ///< prefill goes through in chunks of this many
  /// Bytes of memory for what is not mapped; none: what there is when the model is loaded.
  std::optional<uint64_t> available_memory = {};
  /// For requests with a grammar, or why there is none.
  Result<std::shared_ptr<const model::Vocabulary>> vocabulary =
      Error{Code::kUnsupported, "no vocabulary was loaded"};
};

class LocalModel {
 public:
  /// @errors those of the checkpoint and of Ranks::load(); kResourceExhausted if a device has no
  /// room for the weights or the KV, or memory none for what is not mapped: copies of weights, and
  /// the KV of max_context if that is set
  /// @param backend none: this machine's CPUs. A device that fails in a step ends the process. Of
  /// several devices each holds and computes all experts: what is split is the router.
  static Result<std::unique_ptr<LocalModel>> load(const model::Checkpoint& checkpoint,
                                                  const LocalModelOptions& options,
                                                  kernels::Backend backend = {});

  /// Runs tokens from position 0 and hands over each position's logits, [vocab], in order.
  /// @errors kInvalidArgument for token ids outside the vocabulary or too many tokens.
  Result<void> logits(std::span<const TokenId> tokens,
                      const std::function<void(uint32_t position, std::span<const float>)>& visit);

  /// Generates as a cluster would; `on_token` returns false to stop early.
  Result<scheduler::FinishReason> generate(
      const scheduler::RequestSpec& spec,
      const std::function<bool(const model::SampledToken&)>& on_token);

  /// One step over some sequences, as a router would run it. Valid until the next step: the logits
  /// that they ask for, as Forward::logits(), on the host.
  /// REQUIRES: token ids are in the vocabulary; earlier positions were computed.
  ConstRows step(std::span<const StepSequence> sequences);
  /// The KV blocks of one sequence, enough for max_context.
  /// REQUIRES: sequence < num_sequences
  [[nodiscard]] std::span<const BlockId> block_table(uint32_t sequence) const;
  /// Gives sequence `to` a copy of the KV of sequence `from`, up to that many positions.
  void copy_kv(uint32_t from, uint32_t to, uint32_t num_positions);
  /// What the last step had to read and compute at least.
  [[nodiscard]] const StepWork& last_work() const { return work_; }
  /// So that no step waits for the disk.
  void read_weights();

  [[nodiscard]] const model::ModelConfig& config() const { return checkpoint_.config(); }
  [[nodiscard]] const char* target() const { return backend_.ops->target(); }
  /// What it computes with, between two steps.
  [[nodiscard]] kernels::ThreadPool& pool() { return pool_; }
  [[nodiscard]] kernels::Ops& ops() { return *backend_.ops; }
  [[nodiscard]] kernels::Backend& backend() { return backend_; }

 private:
  /// What a rank computes experts with.
  struct Experts {
    ExpertTable table;
    ExpertScratch scratch;
    kernels::Array results = {};
    std::vector<const float*> rows = {};  ///< of the results, by slot
  };

  [[nodiscard]] Result<void> check_memory() const;
  [[nodiscard]] Result<void> load_experts();
  [[nodiscard]] KvShape kv_shape() const;
  LocalModel(model::Checkpoint checkpoint, const LocalModelOptions& options,
             kernels::Backend backend);
  Result<void> check_tokens(std::span<const TokenId> tokens, size_t num_more) const;
  /// One step over one sequence; logits for the last `num_logits` tokens.
  ConstRows step(std::span<const TokenId> tokens, uint32_t first_position, uint32_t num_logits);
  [[nodiscard]] size_t max_context() const;
  [[nodiscard]] size_t blocks_per_sequence() const;

  model::Checkpoint checkpoint_;
  LocalModelOptions options_;
  kernels::ThreadPool pool_;
  kernels::Backend backend_;
  std::shared_ptr<const model::RouterWeights> weights_;  ///< as the checkpoint has them
  std::unique_ptr<Ranks> ranks_;
  std::vector<Experts> experts_;  ///< by rank
  std::unique_ptr<ParallelForward> forward_;
  std::vector<BlockId> block_ids_;  ///< of all sequences, one after the other
  experts::Placement placement_;    ///< all experts here
  std::vector<ExpertTask> tasks_;
  StepWork work_;
  model::Guides guides_;
};

}  // namespace troupe::actors
