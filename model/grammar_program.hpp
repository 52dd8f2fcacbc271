#pragma once

// A compiled grammar: instructions of a nondeterministic machine with a call stack. Rules are
// subroutines, so a grammar may recurse; repetitions carry a count on the stack, so that {1,5000}
// costs no 5000 copies.

#include <array>
#include <bitset>
#include <cstdint>
#include <limits>
#include <vector>

namespace troupe::model {

using ByteSet = std::bitset<256>;

inline constexpr uint32_t kUnlimited = std::numeric_limits<uint32_t>::max();

struct Instruction {
  enum class Op : uint8_t {
    kAccept,  ///< the text is complete; only at address 0
    kBytes,   ///< consumes a byte of set `target`, goes on with the next instruction
    kSplit,   ///< goes on with the next instruction and at `target`
    kJump,    ///< goes on at `target`
    kCall,    ///< runs the rule at `target`, then goes on with the next instruction
    kRepeat,  ///< runs the subroutine at `target` min to max times, then goes on
    kReturn,  ///< ends a rule or the subroutine of a repetition
  };
  Op op = Op::kReturn;
  bool deeper = false;  ///< kCall: counts as a level of nesting
  uint32_t target = 0;
  uint32_t min = 0, max = 0;  ///< kRepeat; max may be kUnlimited
};

/// Invariants (grammar_check.hpp proves them): no rule can call itself without consuming a byte or
/// without a level of nesting; the text can be completed from every instruction at a nesting of
/// `max_depth - levels[address]` or less.
struct Grammar {
  std::vector<Instruction> code;     // [0] is kAccept
  std::vector<ByteSet> sets;         // none of them empty
  std::vector<uint16_t> levels;      // [code] nesting that a way from here to kReturn needs
  std::array<uint8_t, 256> classes;  // bytes that no set tells apart share one
  uint32_t num_classes = 0;          // at most 256
  uint32_t start = 0;                // address of the root rule
  uint32_t max_depth = 0;
  uint64_t max_answer_work = 0;  // GrammarLimits
  uint64_t work_per_byte = 0;    // GrammarLimits
};

}  // namespace troupe::model
