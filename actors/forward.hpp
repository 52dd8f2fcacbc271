#pragma once

// The order of operations in one step of the model, cut where token rows leave for the experts.
//
// A step is: begin(), then advance() until it says kDone. At each kExchange the caller sends the
// rows of exchange() to whoever holds the chosen experts, may call compute_shared() meanwhile, and
// hands the experts' rows to provide(). There is no actor, thread or clock in here: the router's
// actor runs the pieces on its executor, `troupe generate` in one loop; both give the same bits.
//
// Of several devices that compute a router together each runs a Forward (actors/ranks.hpp), over
// the weights of its heads and outputs; what the others computed is gathered twice in a layer.
//
// Everything is computed in the memory of the KV store, the host's or a device's. The host is given
// the chosen experts and, if they are to be sent, the rows of an exchange, and logits if it asks
// for them; it waits for the backend once in each advance(). A device that fails ends the process
// (finish_or_end()).

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "actors/kv_store.hpp"
#include "actors/placed_weights.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "base/tensor_view.hpp"
#include "kernels/array.hpp"
#include "kernels/collective.hpp"
#include "kernels/memory.hpp"
#include "kernels/ops.hpp"
#include "model/config.hpp"

namespace troupe::actors {

/// Which of MLA's two equal forms a model run uses; they round differently, so it never changes
/// within a cluster.
enum class AttentionForm : uint8_t { kAbsorbed, kExpanded };

/// Where the rows of an exchange are wanted: where they were computed, or on the host, to be sent.
enum class ExchangeRows : uint8_t { kInPlace, kOnHost };

/// What the kernels call it.
kernels::GateMethod gate_method(model::TopkMethod method);

/// Some consecutive tokens of one sequence.
struct StepSequence {
  std::span<const TokenId> tokens;
  uint32_t first_position = 0;
  std::span<const BlockId> block_table;  ///< covers first_position + tokens.size() positions
  /// Rows of `tokens` whose logits are wanted, counted from its end: 0 none, 1 the last...
  uint32_t num_logits = 0;
};

/// What the experts must compute for one MoE layer.
struct Exchange {
  LayerIdx layer = 0;
  /// [num_rows, hidden], after the second norm, where ExchangeRows says, until the next advance()
  ConstRows rows;
  std::span<const ExpertIdx> topk_idx;  ///< [num_rows, topk], on the host
  uint32_t topk = 0;
};

/// Steps of more rows take a device longer to compute than the host to launch
/// (Memory::begin_section).
inline constexpr uint32_t kFewRows = 256;

class Forward {
 public:
  enum class Status : uint8_t { kExchange, kDone };

  /// All arguments outlive the object. @param weights lie in the memory of `kv`, which is that of
  /// `ops`. @param collective of the device, whose part of the weights they are; nullptr: all of
  /// them are here
  Forward(const model::ModelConfig& config, const PlacedRouter& weights, kernels::Ops& ops,
          KvStore& kv, AttentionForm form, ExchangeRows exchange_rows,
          kernels::Collective* collective = nullptr);

  /// Takes the memory of steps of at most so many rows, so that none of those allocates; on_host()
  /// of either logits included.
  /// @param num_logits of begin(); @param num_others of logits_of()
  /// @errors kResourceExhausted; what was taken stays
  Result<void> make_room(size_t num_rows, size_t num_logits, size_t num_others);

  /// Starts a step over these sequences' tokens. Token ids are below vocab_size.
  void begin(std::span<const StepSequence> sequences);

  /// Computes up to the next MoE layer's gate, or to the logits.
  Status advance();

  /// REQUIRES: advance() returned kExchange.
  [[nodiscard]] Exchange exchange();
  /// The shared expert of the layer at hand; advance() calls it if the caller has not.
  void compute_shared();
  /// What the experts gave, [num_rows * topk] rows of [hidden] in the backend's memory. They and
  /// the span must stay until the next advance() returns.
  void provide(std::span<const float* const> expert_rows);

  /// [sum of num_logits, vocab], in the order of the sequences and their tokens, in the backend's
  /// memory. REQUIRES: advance() returned kDone.
  [[nodiscard]] Rows logits() const { return logits_; }
  /// [count, vocab]: of any rows of the step, which are all its tokens in order; likewise, but not
  /// waited for. Valid until it is called again.
  Rows logits_of(uint32_t first_row, uint32_t count);
  /// Where rows of logits are on the host: there already, or copied, one behind the other, and
  /// waited for. Valid until it is called again.
  std::vector<const float*> on_host(std::span<const float* const> rows);

  [[nodiscard]] uint32_t num_rows() const { return num_rows_; }

 private:
  /// The step's rows of one sequence.
  struct RowRun {
    uint32_t first = 0;
    uint32_t count = 0;
    std::span<const BlockId> block_table;
  };

  using AttentionWeights = model::AttentionWeightsOf<const float*>;
  using LayerWeights = model::LayerWeightsOf<const float*>;

  Rows rows(kernels::Array& buffer, size_t cols);
  Rows gather(const Rows& part, kernels::Array& whole);
  void begin_section(uint32_t number);
  void attention(const AttentionWeights& weights);
  void attend_absorbed(const AttentionWeights& weights);
  void attend_expanded(const AttentionWeights& weights);
  void write_kv(const Rows& kv);
  void gate(const LayerWeights& weights);
  std::span<ExpertIdx> chosen();  ///< [num_rows * topk], on the host
  void combine();
  Rows head(std::span<const uint32_t> rows, kernels::Array& logits);
  void finish();

  const model::ModelConfig& config_;
  const PlacedRouter& weights_;
  kernels::Ops& ops_;
  KvStore& kv_;
  kernels::Memory& memory_;
  AttentionForm form_;
  bool copies_rows_;  ///< those of exchanges, to the host
  kernels::Collective* collective_;
  size_t num_ranks_ = 1;
  size_t num_heads_ = 0;  ///< that are computed here
  std::vector<float> inv_freq_;
  float rope_magnitude_;
  float softmax_scale_;

  // One step's state.
  uint32_t num_rows_ = 0;
  LayerIdx layer_ = 0;
  bool awaiting_ = false;  ///< at a MoE layer's exchange
  bool shared_done_ = false;
  std::vector<TokenId> tokens_;
  std::vector<uint32_t> positions_;
  std::vector<RowRun> runs_;
  std::vector<uint32_t> logit_rows_;
  kernels::Array hidden_, normed_, q_a_, q_, kv_rows_, q_latent_, q_rope_, o_latent_, heads_,
      update_, all_heads_, part_of_update_, gathered_, gate_logits_, topk_idx_, topk_weight_,
      shared_, head_in_;
  kernels::Array chosen_, normed_on_host_;  ///< copies on the host of topk_idx_ and normed_
  kernels::Array logits_of_sequences_, logits_of_others_;
  kernels::Array logits_on_host_;
  Rows logits_;
  std::vector<kernels::AttentionRow> attention_rows_;
  std::vector<const void*> block_pointers_;
  std::vector<void*> kv_places_;  ///< of the rows
  std::vector<const float*> head_rows_;
  std::vector<void*> head_places_;
  std::vector<kernels::GemmParams> products_;
  std::span<const float* const> expert_rows_;
};

}  // namespace troupe::actors
