#pragma once

// What must hold of a program before it may run, so that running it needs no such checks: no
// endless loop without input, no dead end, a bounded stack.

#include <cstdint>
#include <span>
#include <string>

#include "base/result.hpp"
#include "model/grammar.hpp"
#include "model/grammar_program.hpp"

namespace troupe::model {

/// A rule's first instruction, and how messages call it.
struct RuleAddress {
  uint32_t address;
  std::string name;
};

/// Fills `levels` and proves the invariants of Grammar.
/// @errors kInvalidArgument naming the rule
Result<void> check_grammar(Grammar& grammar, std::span<const RuleAddress> rules);

/// Follows the machine through every state that some text leads to.
/// @param size of the automata of this spec so far (states, the threads in them, and a sixteenth of
///        the instructions it took to find them), to which this one's is added
/// @errors kInvalidArgument: `size` exceeds max_automaton, so the regex could be too slow to run
Result<void> check_automaton(const Grammar& grammar, const GrammarLimits& limits, size_t& size);

}  // namespace troupe::model
