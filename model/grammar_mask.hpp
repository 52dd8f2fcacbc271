#pragma once

// Which tokens may come next. The machine's states are numbered as they are met and their
// transitions kept, so that walking the vocabulary is table look-ups: a deterministic automaton
// built where texts go. The mask of a state is kept too: coming back to it costs a copy.

#include <bitset>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "model/grammar_machine.hpp"
#include "model/grammar_program.hpp"
#include "model/grammar_state.hpp"
#include "model/grammar_vocabulary.hpp"

namespace troupe::model {

/// Bounds of what a TokenMasker keeps and does.
struct MaskLimits {
  /// What one walk of the vocabulary may meet: states, threads in them, frames right below those,
  /// and each GrammarMachine::kWorkOfAState of work. JSON meets some hundreds.
  uint32_t max_walk = 65'536;
  uint32_t max_states = 8'192;              ///< kept; all are dropped when there are more
  size_t max_mask_bytes = size_t{4} << 20;  ///< of masks kept, likewise
};

/// Masks for one grammar and one vocabulary. What it returns depends on its arguments only, never
/// on what it keeps. Not thread-safe.
class TokenMasker {
 public:
  TokenMasker(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const Vocabulary> vocabulary,
              MaskLimits limits = {});

  [[nodiscard]] const std::shared_ptr<const Grammar>& grammar() const { return grammar_; }
  /// Words of a mask.
  [[nodiscard]] size_t num_words() const { return vocabulary_->num_words(); }

  /// Sets the bits of the tokens that GrammarState::advance() takes and clears the others. End
  /// tokens are allowed exactly when the text is complete; none is once it is finished.
  /// @param state of this grammar
  /// @param bits [num_words()], token t is bit t % 64 of word t / 64
  /// @returns the number of allowed tokens. 1: it is forced. 0 for a text that is not finished only
  ///          if the vocabulary has no token for some single byte.
  /// @errors kResourceExhausted: the grammar is so ambiguous here that max_walk is exceeded
  /// Cost: bench/results/grammar.md; bounded by the vocabulary and max_walk.
  Result<size_t> mask(const GrammarState& state, std::span<uint64_t> bits);

  /// Goes on by one token, in the scratch memory that masks are made in.
  /// @errors as GrammarState::advance
  Result<void> advance(GrammarState& state, TokenId token) {
    return state.advance(*vocabulary_, token, machine_);
  }

 private:
  /// Numbers of states: as in table_, plus 1.
  using StateId = uint32_t;
  static constexpr StateId kDead = 0;
  using StepId = uint32_t;  // index of steps_
  static constexpr StepId kUnknown = UINT32_MAX;
  static constexpr StepId kNowhere = 0;
  static constexpr size_t kMaxSharedThreads = 64;  // of states whose steps are shared
  struct Step {
    StateId to = kDead;
    uint32_t last_walk = 0;  // the last walk that met it
  };
  /// The steps out of a state, by which of its threads move: many classes of bytes move the same.
  using SharedSteps = std::vector<std::pair<std::bitset<kMaxSharedThreads>, StepId>>;
  struct Mask {
    std::vector<uint64_t> bits;
    size_t num_allowed;
  };

  void forget();
  StateId intern(ThreadSetPtr threads);
  Result<StepId> step(StateId from, uint8_t byte);
  Result<StepId> find_step(StateId from, uint8_t byte);
  Result<StepId> take_step(const ThreadSet& from, uint8_t byte);
  Result<bool> loops_on_plain(StateId state);
  Result<void> count(StepId step);
  Result<void> count(StateId state, size_t size);
  Result<Mask> walk(StateId from);

  std::shared_ptr<const Grammar> grammar_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  MaskLimits limits_;
  GrammarMachine machine_;
  ThreadSetTable table_;
  std::vector<Step> steps_;                 // the first one leads nowhere
  std::vector<uint32_t> work_;              // [step] that it took the machine
  std::vector<StepId> transitions_;         // [state, class]
  std::vector<SharedSteps> shared_;         // [state]
  std::vector<uint32_t> visited_;           // [state] the last walk that met it
  std::vector<std::optional<Mask>> masks_;  // [state]
  size_t mask_bytes_ = 0;
  uint32_t num_walks_ = 0;
  size_t walk_size_ = 0;
};

}  // namespace troupe::model
