#pragma once

// Running a grammar's program. A state of the machine is a set of threads, each with a stack of
// return addresses; stacks share their lower parts, and threads at the same instruction share one
// stack whose frames are sets (a graph-structured stack). So ambiguity costs width, not copies: an
// anyOf within an anyOf within ... has as many threads as places in the grammar, not 2^depth.
//
// States are immutable values, free to be copied and read by any number of threads of the process.
// A step tells sets apart by their hashes, never by their addresses: what it does, and how much
// work that is, depends on the state's value alone, however the state came about. (Sets whose 64
// bits collided would make one grammar stricter than it is, everywhere alike.)

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "model/grammar_program.hpp"

namespace troupe::model {

struct ThreadSet;
using ThreadSetPtr = std::shared_ptr<const ThreadSet>;

/// An instruction and where its rule returns to. In a state: a kBytes that waits for its byte. In a
/// frame: the instruction behind a call, or a kRepeat with the number of rounds begun.
struct Thread {
  uint32_t address = 0;
  uint32_t count = 0;
  uint32_t depth = 0;  ///< nesting of its rule
  ThreadSetPtr below;  ///< null only at kAccept
};

/// Invariant: sorted by (address, count, depth) and no two equal in them; the hash covers all that
/// operator== compares.
struct ThreadSet {
  std::vector<Thread> threads;
  uint64_t hash = 0;
  bool accepting = false;  ///< of a state: the text is complete
};

/// Equal in every frame. Cost: O(frames), and O(threads) where lower parts are shared.
bool equal(const ThreadSet& a, const ThreadSet& b);

/// Not thread-safe: it keeps scratch memory between steps.
class GrammarMachine {
 public:
  /// @param grammar has to outlive the machine
  explicit GrammarMachine(const Grammar& grammar) : grammar_(&grammar) {}

  /// The state before the first byte.
  Result<ThreadSetPtr> start();

  /// The state after one more byte; null if no text of the grammar goes on like this.
  /// @errors kResourceExhausted: the grammar is so ambiguous here that the step would take more
  ///         work than kMaxStepWork
  Result<ThreadSetPtr> step(const ThreadSet& state, unsigned char byte);

  /// Work so far, in steps: instructions run, frames returned to and merged.
  [[nodiscard]] size_t work() const { return work_; }

  /// The slowest that we know takes 13 ms (bench/results/grammar.md).
  static constexpr size_t kMaxStepWork = 32'768;
  /// Counts like one state where the size of an automaton is bounded: a step may take a hundred
  /// and keep one thread.
  static constexpr size_t kWorkOfAState = 16;

 private:
  /// A thread within a step: it borrows its stack from the old state, from a frame, or from kept_.
  struct Runner {
    uint32_t address, count, depth;
    const ThreadSetPtr* below;
  };
  /// What the closure has seen, emptied in O(1).
  class Seen {
   public:
    bool insert(const Runner& runner);  // false: it was there
    void clear();

   private:
    struct Slot {
      uint64_t round = 0;
      uint64_t place = 0;  // address and count
      uint64_t depth = 0;
      uint64_t below = 0;  // hash
    };
    void grow();
    std::vector<Slot> slots_{64};
    uint64_t round_ = 1;
    size_t size_ = 0;
  };

  /// A way into a subroutine: the frame to return to, or, of a call that ends its rule, the stack
  /// `frame.below` that it leaves to it.
  struct Call {
    uint32_t address, depth;
    bool is_tail;
    Thread frame;
  };

  void follow(const Runner& runner);
  void run(const Runner& runner);
  void enter_subroutines();
  Result<ThreadSetPtr> finish();
  std::vector<Thread> grouped(std::vector<Thread> threads);
  ThreadSetPtr merge(std::vector<ThreadSetPtr> sets);

  const Grammar* grammar_;
  std::vector<Runner> todo_, waiting_;
  Seen seen_;
  std::vector<Call> calls_;        // not entered yet
  std::deque<ThreadSetPtr> kept_;  // stacks made in this step; elements do not move
  std::map<std::vector<uint64_t>, ThreadSetPtr> merged_;  // by the hashes of the parts
  bool accepting_ = false;
  size_t step_work_ = 0, work_ = 0;
};

/// Numbers states by value.
class ThreadSetTable {
 public:
  /// The number of this state; equal states share one. Numbers count from 0.
  uint32_t intern(ThreadSetPtr state);
  const ThreadSetPtr& operator[](uint32_t number) const { return states_[number]; }
  [[nodiscard]] size_t size() const { return states_.size(); }
  void clear();

 private:
  std::vector<ThreadSetPtr> states_;
  std::unordered_multimap<uint64_t, uint32_t> by_hash_;
};

}  // namespace troupe::model
