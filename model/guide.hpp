#pragma once

// Keeps the answers of requests to their grammars: which tokens sampling may choose next. Where an
// answer stands is a function of its token log, so any worker can take a request over; what is kept
// here only saves doing it again.

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/config.hpp"
#include "model/grammar.hpp"
#include "model/grammar_mask.hpp"
#include "model/grammar_state.hpp"
#include "model/grammar_vocabulary.hpp"

namespace troupe::model {

/// Where the answer of one request stands. Used by one Guides only; empty to begin with.
struct GuideState {
  std::shared_ptr<TokenMasker> masker;   ///< null: not compiled yet
  std::optional<GrammarState> position;  ///< nullopt: the grammar has not begun
  size_t num_taken = 0;                  ///< emitted tokens seen
  /// What mask() said of the token that follows them; nullopt: it has not been asked yet.
  std::optional<Result<std::vector<uint64_t>>> next;
};

/// The grammars of one worker. Requests with the same one share what is compiled. Not thread-safe.
class Guides {
 public:
  /// Compiled grammars kept for requests to come.
  static constexpr size_t kMaxKept = 16;

  /// @param vocabulary or why there is none; then every request gets that error
  explicit Guides(Result<std::shared_ptr<const Vocabulary>> vocabulary)
      : vocabulary_(std::move(vocabulary)) {}

  /// The tokens that may follow, as bits of a mask; an empty one allows all. Before the grammar
  /// begins: all but the end tokens, or all if it need not begin. Asked again with the same tokens,
  /// it gives the same answer, an error too, at once.
  /// @param emitted the answer so far; longer than at the last call, or the same
  /// @errors those of compile_grammar; kInvalidArgument: there is no vocabulary, the answer leaves
  ///         its grammar, or the grammar is too ambiguous to go on. Errors depend on the tokens:
  ///         whoever resumes the request ends it with the same one
  /// Cost: compiling once, then that of TokenMasker::mask and of GrammarState::advance for each new
  /// token; for all tokens of an answer together GrammarLimits::max_answer_work bounds it.
  Result<std::span<const uint64_t>> mask(const GrammarSpec& spec, std::span<const TokenId> emitted,
                                         GuideState& state);

 private:
  struct Kept {
    GrammarSpec spec;
    std::shared_ptr<TokenMasker> masker;
  };

  /// Compiles, unless that has been done, without measuring the automata of regexes: that is for
  /// whoever takes the request (GrammarLimits::max_automaton).
  Result<void> prepare(const GrammarSpec& spec, GuideState& state);
  Result<std::vector<uint64_t>> next_mask(const GrammarSpec& spec, std::span<const TokenId> emitted,
                                          GuideState& state);

  Result<std::shared_ptr<const Vocabulary>> vocabulary_;
  std::list<Kept> kept_;  ///< the last used first
};

/// What it takes to guide the answers of the model in a checkpoint directory: its tokenizer's
/// tokens and the end tokens of its generation_config.json.
/// @errors of both files; kInvalidArgument: there is no end token
Result<std::shared_ptr<const Vocabulary>> load_vocabulary(const std::string& directory,
                                                          const ModelConfig& config);

}  // namespace troupe::model
