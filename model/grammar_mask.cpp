#include "model/grammar_mask.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <string>
#include <utility>

#include "base/check.hpp"

namespace troupe::model {

TokenMasker::TokenMasker(std::shared_ptr<const Grammar> grammar,
                         std::shared_ptr<const Vocabulary> vocabulary, MaskLimits limits)
    : grammar_(std::move(grammar)),
      vocabulary_(std::move(vocabulary)),
      limits_(limits),
      machine_(*grammar_) {
  forget();
}

void TokenMasker::forget() {
  table_.clear();
  steps_.assign(1, Step{});
  work_.assign(1, 0);
  transitions_.clear();
  shared_.clear();
  visited_.clear();
  masks_.clear();
  mask_bytes_ = 0;
}

TokenMasker::StateId TokenMasker::intern(ThreadSetPtr threads) {
  if (!threads) return kDead;
  const uint32_t number = table_.intern(std::move(threads));
  if (table_.size() > visited_.size()) {
    transitions_.resize(table_.size() * grammar_->num_classes, kUnknown);
    shared_.emplace_back();
    visited_.push_back(0);
    masks_.emplace_back();
  }
  return number + 1;
}

/// The step that a byte takes, counted against the bound of this walk.
Result<TokenMasker::StepId> TokenMasker::step(StateId from, uint8_t byte) {
  const size_t at = size_t{from - 1} * grammar_->num_classes + grammar_->classes[byte];
  if (transitions_[at] == kUnknown) transitions_[at] = TRY(find_step(from, byte));
  if (steps_[transitions_[at]].last_walk != num_walks_) TRY(count(transitions_[at]));
  return transitions_[at];
}

Result<TokenMasker::StepId> TokenMasker::find_step(StateId from, uint8_t byte) {
  const ThreadSetPtr state = table_[from - 1];
  const std::vector<Thread>& threads = state->threads;
  if (threads.size() > kMaxSharedThreads) return take_step(*state, byte);
  std::bitset<kMaxSharedThreads> moving;
  for (size_t i = 0; i < threads.size(); ++i) {
    moving[i] = grammar_->sets[grammar_->code[threads[i].address].target][byte];
  }
  if (moving.none()) return kNowhere;
  for (const auto& [moved, step] : shared_[from - 1]) {
    if (moved == moving) return step;
  }
  const StepId taken = TRY(take_step(*state, byte));
  shared_[from - 1].emplace_back(moving, taken);
  return taken;
}

Result<TokenMasker::StepId> TokenMasker::take_step(const ThreadSet& from, uint8_t byte) {
  const size_t before = machine_.work();
  const StateId to = intern(TRY(machine_.step(from, byte)));
  steps_.push_back({.to = to});
  work_.push_back(static_cast<uint32_t>(machine_.work() - before));
  return static_cast<StepId>(steps_.size() - 1);
}

/// Counts a step, whether or not an earlier walk has met it: the bound must not depend on what is
/// kept.
Result<void> TokenMasker::count(StepId step) {
  steps_[step].last_walk = num_walks_;
  return count(steps_[step].to, work_[step] / GrammarMachine::kWorkOfAState);
}

/// Counts `size`, and the state if this walk has not met it.
Result<void> TokenMasker::count(StateId state, size_t size) {
  if (state != kDead && visited_[state - 1] != num_walks_) {
    visited_[state - 1] = num_walks_;
    ++size;
    for (const Thread& thread : table_[state - 1]->threads) {
      size += 1 + thread.below->threads.size();
    }
  }
  walk_size_ += size;
  if (walk_size_ > limits_.max_walk) {
    return Error{Code::kResourceExhausted,
                 "the grammar is too ambiguous here: the next tokens lead to more than " +
                     std::to_string(limits_.max_walk) + " states, threads and their work"};
  }
  return {};
}

/// Whether every plain character leads back to the state (see Vocabulary).
Result<bool> TokenMasker::loops_on_plain(StateId state) {
  struct Range {
    unsigned first, last;
  };
  // The bytes of characters of each kind (Unicode 16, table 3-7).
  static const std::vector<std::vector<Range>> kCharacters = {
      {{0x20, 0x21}},
      {{0x23, 0x5B}},
      {{0x5D, 0x7F}},
      {{0xC2, 0xDF}, {0x80, 0xBF}},
      {{0xE0, 0xE0}, {0xA0, 0xBF}, {0x80, 0xBF}},
      {{0xE1, 0xEC}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xED, 0xED}, {0x80, 0x9F}, {0x80, 0xBF}},
      {{0xEE, 0xEF}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xF0, 0xF0}, {0x90, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xF1, 0xF3}, {0x80, 0xBF}, {0x80, 0xBF}, {0x80, 0xBF}},
      {{0xF4, 0xF4}, {0x80, 0x8F}, {0x80, 0xBF}, {0x80, 0xBF}}};
  for (const auto& ranges : kCharacters) {
    std::vector<StateId> states{state};
    for (const Range& range : ranges) {
      std::vector<StateId> after;
      for (const StateId from : states) {
        for (unsigned byte = range.first; byte <= range.last; ++byte) {
          const StateId to = steps_[TRY(step(from, static_cast<uint8_t>(byte)))].to;
          if (to == kDead) return false;
          if (std::find(after.begin(), after.end(), to) == after.end()) after.push_back(to);
        }
      }
      states = std::move(after);
    }
    if (states.size() != 1 || states[0] != state) return false;
  }
  return true;
}

Result<TokenMasker::Mask> TokenMasker::walk(StateId from) {
  Mask mask{std::vector<uint64_t>(vocabulary_->num_words()), 0};
  ++num_walks_;
  walk_size_ = 0;
  TRY(count(from, 0));
  // Inside a string most tokens are plain text: they need no walk.
  const bool skips_plain = TRY(loops_on_plain(from));
  if (skips_plain) {
    std::copy(vocabulary_->plain_tokens().begin(), vocabulary_->plain_tokens().end(),
              mask.bits.begin());
  }
  const auto allow = [&](TokenId token) { mask.bits[token / 64] |= uint64_t{1} << token % 64; };
  std::array<StateId, Vocabulary::kMaxTokenBytes + 1> path;  // state after each byte of the prefix
  path[0] = from;
  const std::span<const Vocabulary::Node> nodes = vocabulary_->nodes();
  for (uint32_t i = 0; i < nodes.size();) {
    const Vocabulary::Node& node = nodes[i];
    if (skips_plain && node.is_plain) {
      i = node.next;
      continue;
    }
    const StateId last = path[node.depth - 1];
    StepId step_id =
        transitions_[size_t{last - 1} * grammar_->num_classes + grammar_->classes[node.byte]];
    if (step_id == kUnknown || steps_[step_id].last_walk != num_walks_) {
      step_id = TRY(step(last, node.byte));
    }
    const StateId state = steps_[step_id].to;
    if (state == kDead) {
      i = node.next;
      continue;
    }
    path[node.depth] = state;
    if (node.token >= 0) allow(node.token);
    ++i;
  }
  if (table_[from - 1]->accepting) {
    for (const TokenId end : vocabulary_->end_tokens()) allow(end);
  }
  for (const uint64_t word : mask.bits) mask.num_allowed += std::popcount(word);
  return mask;
}

Result<size_t> TokenMasker::mask(const GrammarState& state, std::span<uint64_t> bits) {
  CHECK(state.grammar() == grammar_);
  CHECK_EQ(bits.size(), vocabulary_->num_words());
  if (state.finished()) {
    std::fill(bits.begin(), bits.end(), 0);
    return size_t{0};
  }
  const size_t bytes_of_mask = bits.size_bytes();
  if (table_.size() > limits_.max_states || mask_bytes_ + bytes_of_mask > limits_.max_mask_bytes) {
    forget();
  }
  const StateId from = intern(state.threads());
  if (!masks_[from - 1]) {
    Mask found = TRY(walk(from));  // may move masks_
    masks_[from - 1] = std::move(found);
    mask_bytes_ += bytes_of_mask;
  }
  const Mask& found = *masks_[from - 1];
  std::copy(found.bits.begin(), found.bits.end(), bits.begin());
  return found.num_allowed;
}

}  // namespace troupe::model
