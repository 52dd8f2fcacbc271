#pragma once

// Where an answer stands in its grammar. A state is a value and a pure function of the grammar and
// the tokens so far: any worker can make it again from a request's token log.

#include <memory>
#include <string_view>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/grammar.hpp"
#include "model/grammar_machine.hpp"
#include "model/grammar_vocabulary.hpp"

namespace troupe::model {

/// Cheap to copy: two shared pointers, two counts and a flag.
class GrammarState {
 public:
  /// Before the first token.
  explicit GrammarState(std::shared_ptr<const Grammar> grammar);

  /// Goes on by one token of `vocabulary`; about 1 us, many times that where the grammar is
  /// ambiguous. An end token finishes the text.
  /// @param machine of this grammar: its scratch memory is worth keeping between tokens
  /// @errors leave the state as it was: kInvalidArgument where the token is not allowed;
  ///         kResourceExhausted as GrammarMachine::step, or beyond GrammarLimits::max_answer_work
  Result<void> advance(const Vocabulary& vocabulary, TokenId token, GrammarMachine& machine);
  Result<void> advance(const Vocabulary& vocabulary, TokenId token);

  /// Goes on by some bytes.
  /// @errors as the others
  Result<void> advance(std::string_view bytes, GrammarMachine& machine);
  Result<void> advance(std::string_view bytes);

  /// The text so far is one of the grammar's; it may still be the beginning of others.
  [[nodiscard]] bool complete() const { return threads_->accepting; }
  /// An end token has come: nothing follows.
  [[nodiscard]] bool finished() const { return finished_; }

  [[nodiscard]] const std::shared_ptr<const Grammar>& grammar() const { return grammar_; }
  [[nodiscard]] const ThreadSetPtr& threads() const { return threads_; }

  /// Equal states allow the same texts to follow. The one whose way took more work may sooner
  /// exceed GrammarLimits::max_answer_work.
  friend bool operator==(const GrammarState& a, const GrammarState& b) {
    return a.grammar_ == b.grammar_ && a.finished_ == b.finished_ &&
           equal(*a.threads_, *b.threads_);
  }

 private:
  std::shared_ptr<const Grammar> grammar_;
  ThreadSetPtr threads_;
  uint64_t work_ = 0;
  uint64_t num_bytes_ = 0;
  bool finished_ = false;
};

}  // namespace troupe::model
