#pragma once

// The whole model in one process: router and all experts, no actors. `troupe generate`, `logits`,
// `eval` and the tests that compare a cluster with one process run it.

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "actors/expert_compute.hpp"
#include "actors/forward.hpp"
#include "base/result.hpp"
#include "kernels/backend.hpp"
#include "model/guide.hpp"
#include "model/sampling.hpp"
#include "model/weights.hpp"
#include "scheduler/request.hpp"

namespace troupe::actors {

struct LocalModelOptions {
  size_t num_threads = 1;
  AttentionForm form = AttentionForm::kAbsorbed;
  uint32_t max_context = 0;     ///< tokens of one sequence; 0: the model's maximum
  uint32_t chunk_tokens = 256;  ///< prefill goes through in chunks of this many
  /// For requests with a grammar, or why there is none.
  Result<std::shared_ptr<const model::Vocabulary>> vocabulary =
      Error{Code::kUnsupported, "no vocabulary was loaded"};
};

class LocalModel {
 public:
  /// @errors those of the checkpoint.
  static Result<std::unique_ptr<LocalModel>> load(const model::Checkpoint& checkpoint,
                                                  const LocalModelOptions& options);

  /// Runs tokens from position 0 and hands over each position's logits, [vocab], in order.
  /// @errors kInvalidArgument for token ids outside the vocabulary or too many tokens.
  Result<void> logits(std::span<const TokenId> tokens,
                      const std::function<void(uint32_t position, std::span<const float>)>& visit);

  /// Generates as a cluster would; `on_token` returns false to stop early.
  Result<scheduler::FinishReason> generate(
      const scheduler::RequestSpec& spec,
      const std::function<bool(const model::SampledToken&)>& on_token);

  [[nodiscard]] const model::ModelConfig& config() const { return checkpoint_.config(); }
  [[nodiscard]] const char* target() const { return ops_->target(); }

 private:
  LocalModel(model::Checkpoint checkpoint, const LocalModelOptions& options);
  Result<void> check_tokens(std::span<const TokenId> tokens, size_t num_more) const;
  /// One step over one sequence; logits for the last `num_logits` tokens.
  ConstRows step(std::span<const TokenId> tokens, uint32_t first_position, uint32_t num_logits);

  model::Checkpoint checkpoint_;
  LocalModelOptions options_;
  kernels::ThreadPool pool_;
  std::unique_ptr<kernels::Ops> ops_;
  std::shared_ptr<const model::RouterWeights> weights_;
  ExpertTable experts_;
  std::unique_ptr<KvStore> kv_;
  std::unique_ptr<Forward> forward_;
  std::vector<BlockId> block_table_;
  ExpertScratch scratch_;
  std::vector<ExpertTask> tasks_;
  std::vector<float> expert_rows_;
  std::vector<uint32_t> slot_row_;
  model::Guides guides_;
};

}  // namespace troupe::actors
