#include "model/grammar_state.hpp"

#include <string>
#include <utility>

#include "base/check.hpp"

namespace troupe::model {

GrammarState::GrammarState(std::shared_ptr<const Grammar> grammar) : grammar_(std::move(grammar)) {
  auto start = GrammarMachine(*grammar_).start();
  CHECK(start.ok());  // compile_grammar() has tried it
  threads_ = std::move(*start);
}

Result<void> GrammarState::advance(const Vocabulary& vocabulary, TokenId token) {
  GrammarMachine machine(*grammar_);
  return advance(vocabulary, token, machine);
}

Result<void> GrammarState::advance(std::string_view bytes) {
  GrammarMachine machine(*grammar_);
  return advance(bytes, machine);
}

Result<void> GrammarState::advance(const Vocabulary& vocabulary, TokenId token,
                                   GrammarMachine& machine) {
  const auto not_allowed = [&] {
    return Error{Code::kInvalidArgument,
                 "token " + std::to_string(token) + " does not continue the grammar"};
  };
  if (finished_) return not_allowed();
  if (vocabulary.is_end(token)) {
    if (!complete()) return not_allowed();
    finished_ = true;
    return {};
  }
  const std::string_view bytes = vocabulary.token_bytes(token);
  if (bytes.empty()) return not_allowed();
  auto advanced = advance(bytes, machine);
  if (!advanced.ok())
    return std::move(advanced).error().with_context("token " + std::to_string(token));
  return {};
}

Result<void> GrammarState::advance(std::string_view bytes, GrammarMachine& machine) {
  const size_t before = machine.work();
  ThreadSetPtr threads = threads_;
  for (size_t i = 0; i < bytes.size(); ++i) {
    threads = TRY(machine.step(*threads, static_cast<unsigned char>(bytes[i])));
    if (!threads) {
      return Error{Code::kInvalidArgument,
                   "byte " + std::to_string(i) + " does not continue the grammar"};
    }
    const uint64_t allowed =
        grammar_->max_answer_work + grammar_->work_per_byte * (num_bytes_ + i + 1);
    if (work_ + (machine.work() - before) > allowed) {
      return Error{Code::kResourceExhausted,
                   "the grammar is too ambiguous for so long an answer: following it takes more "
                   "than " +
                       std::to_string(grammar_->max_answer_work) + " steps, and " +
                       std::to_string(grammar_->work_per_byte) + " for each byte"};
    }
  }
  threads_ = std::move(threads);
  work_ += machine.work() - before;
  num_bytes_ += bytes.size();
  return {};
}

}  // namespace troupe::model
