#include "model/grammar_machine.hpp"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>

#include "base/check.hpp"

namespace troupe::model {
namespace {

using Op = Instruction::Op;

uint64_t mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9E3779B97F4A7C15U;  // 2^64 over the golden ratio
  return hash ^ (hash >> 29);
}

uint64_t hash_of(const ThreadSetPtr& set) { return set ? set->hash : 0; }

auto key(const Thread& thread) { return std::tie(thread.address, thread.count, thread.depth); }

ThreadSetPtr make_set(std::vector<Thread> threads, bool accepting) {
  uint64_t hash = mix(threads.size(), accepting ? 1 : 0);
  for (const Thread& thread : threads) {
    hash = mix(hash, uint64_t{thread.address} << 32 | thread.count);
    hash = mix(hash, thread.depth);
    hash = mix(hash, hash_of(thread.below));
  }
  return std::make_shared<const ThreadSet>(ThreadSet{std::move(threads), hash, accepting});
}

/// What has been found equal already: sets that are shared are compared once.
using Proven = std::unordered_map<const ThreadSet*, const ThreadSet*>;

bool equal(const ThreadSet& a, const ThreadSet& b, Proven& proven) {
  if (&a == &b) return true;
  if (a.hash != b.hash || a.accepting != b.accepting || a.threads.size() != b.threads.size()) {
    return false;
  }
  if (const auto at = proven.find(&a); at != proven.end() && at->second == &b) return true;
  for (size_t i = 0; i < a.threads.size(); ++i) {
    const Thread& left = a.threads[i];
    const Thread& right = b.threads[i];
    if (key(left) != key(right)) return false;
    if (left.below == right.below) continue;
    if (!left.below || !right.below || !equal(*left.below, *right.below, proven)) return false;
  }
  proven[&a] = &b;
  return true;
}

}  // namespace

bool equal(const ThreadSet& a, const ThreadSet& b) {
  Proven proven;
  return equal(a, b, proven);
}

bool GrammarMachine::Seen::insert(const Runner& runner) {
  if (size_ * 2 >= slots_.size()) grow();
  const uint64_t place = uint64_t{runner.address} << 32 | runner.count;
  const uint64_t below = hash_of(*runner.below);
  uint64_t at = mix(mix(place, runner.depth), below);
  for (;; ++at) {
    Slot& slot = slots_[at & (slots_.size() - 1)];
    if (slot.round != round_) {
      slot = {round_, place, runner.depth, below};
      ++size_;
      return true;
    }
    if (slot.place == place && slot.depth == runner.depth && slot.below == below) return false;
  }
}

void GrammarMachine::Seen::clear() {
  ++round_;
  size_ = 0;
}

void GrammarMachine::Seen::grow() {
  std::vector<Slot> old(slots_.size() * 2);
  old.swap(slots_);
  for (const Slot& slot : old) {
    if (slot.round != round_) continue;
    uint64_t at = mix(mix(slot.place, slot.depth), slot.below);
    while (slots_[at & (slots_.size() - 1)].round == round_) ++at;
    slots_[at & (slots_.size() - 1)] = slot;
  }
}

/// Adds a thread to the closure, unless its rule cannot be completed at this depth.
void GrammarMachine::follow(const Runner& runner) {
  if (runner.depth + grammar_->levels[runner.address] > grammar_->max_depth) return;
  if (seen_.insert(runner)) todo_.push_back(runner);
}

void GrammarMachine::run(const Runner& runner) {
  const Instruction& instruction = grammar_->code[runner.address];
  const auto at = [&](uint32_t address) { return Runner{address, 0, runner.depth, runner.below}; };
  const uint32_t next = runner.address + 1;
  switch (instruction.op) {
    case Op::kAccept: accepting_ = true; break;
    case Op::kBytes: waiting_.push_back(runner); break;
    case Op::kSplit:
      follow(at(instruction.target));
      follow(at(next));
      break;
    case Op::kJump: follow(at(instruction.target)); break;
    case Op::kCall: {
      const uint32_t depth = runner.depth + (instruction.deeper ? 1 : 0);
      if (depth + grammar_->levels[instruction.target] > grammar_->max_depth) break;
      const bool is_tail = grammar_->code[next].op == Op::kReturn;
      calls_.push_back(
          {instruction.target, depth, is_tail, {next, 0, runner.depth, *runner.below}});
      break;
    }
    case Op::kRepeat: {
      if (runner.count >= instruction.min) follow(at(next));
      if (runner.count >= instruction.max) break;
      // Without a maximum the rounds beyond the minimum need no telling apart.
      const bool counts = instruction.max != kUnlimited || runner.count < instruction.min;
      const uint32_t count = runner.count + (counts ? 1 : 0);
      calls_.push_back({instruction.target,
                        runner.depth,
                        false,
                        {runner.address, count, runner.depth, *runner.below}});
      break;
    }
    case Op::kReturn:
      step_work_ += (*runner.below)->threads.size() - 1;  // the first is this instruction's
      for (const Thread& frame : (*runner.below)->threads) {
        follow({frame.address, frame.count, frame.depth, &frame.below});
      }
      break;
  }
}

/// Enters each subroutine once for all that call it by now, with one stack.
void GrammarMachine::enter_subroutines() {
  const auto place = [](const Call& call) { return std::pair(call.address, call.depth); };
  std::sort(calls_.begin(), calls_.end(),
            [&](const Call& a, const Call& b) { return place(a) < place(b); });
  for (size_t i = 0; i < calls_.size();) {
    const auto [address, depth] = place(calls_[i]);
    std::vector<Thread> frames;
    std::vector<ThreadSetPtr> tails;
    for (; i < calls_.size() && place(calls_[i]) == std::pair(address, depth); ++i) {
      Call& call = calls_[i];
      if (call.is_tail) {
        tails.push_back(std::move(call.frame.below));
      } else {
        frames.push_back(std::move(call.frame));
      }
    }
    if (!frames.empty()) tails.push_back(make_set(grouped(std::move(frames)), false));
    kept_.push_back(tails.size() == 1 ? std::move(tails[0]) : merge(std::move(tails)));
    follow({address, 0, depth, &kept_.back()});
  }
  calls_.clear();
}

Result<ThreadSetPtr> GrammarMachine::finish() {
  while (!todo_.empty() && step_work_ <= kMaxStepWork) {
    for (; !todo_.empty() && step_work_ <= kMaxStepWork; ++step_work_) {
      const Runner runner = todo_.back();
      todo_.pop_back();
      run(runner);
    }
    if (todo_.empty()) enter_subroutines();
  }
  std::vector<Thread> threads;
  if (todo_.empty()) {
    threads.reserve(waiting_.size());
    for (const Runner& runner : waiting_) {
      threads.push_back({runner.address, runner.count, runner.depth, *runner.below});
    }
    threads = grouped(std::move(threads));
  }
  const bool accepting = std::exchange(accepting_, false);
  const bool overflow = step_work_ > kMaxStepWork;
  work_ += std::exchange(step_work_, 0);
  todo_.clear();
  calls_.clear();
  waiting_.clear();
  seen_.clear();
  kept_.clear();
  merged_.clear();
  if (overflow) {
    return Error{Code::kResourceExhausted,
                 "the grammar is too ambiguous here: a byte takes more than " +
                     std::to_string(kMaxStepWork) + " steps"};
  }
  if (threads.empty() && !accepting) return ThreadSetPtr();
  return make_set(std::move(threads), accepting);
}

Result<ThreadSetPtr> GrammarMachine::start() {
  follow({grammar_->start, 0, 0, &kept_.emplace_back(make_set({Thread{}}, false))});
  return finish();
}

Result<ThreadSetPtr> GrammarMachine::step(const ThreadSet& state, unsigned char byte) {
  for (const Thread& thread : state.threads) {
    if (!grammar_->sets[grammar_->code[thread.address].target][byte]) continue;
    follow({thread.address + 1, 0, thread.depth, &thread.below});
  }
  if (todo_.empty()) return ThreadSetPtr();
  return finish();
}

/// Sorts; threads of the same place become one whose stack is all of theirs.
std::vector<Thread> GrammarMachine::grouped(std::vector<Thread> threads) {
  step_work_ += threads.size();
  std::sort(threads.begin(), threads.end(),
            [](const Thread& a, const Thread& b) { return key(a) < key(b); });
  size_t num_groups = 0;
  for (size_t i = 0; i < threads.size(); ++num_groups) {
    const size_t begin = i++;
    while (i < threads.size() && key(threads[i]) == key(threads[begin])) ++i;
    if (i - begin > 1) {
      std::vector<ThreadSetPtr> below;
      for (size_t j = begin; j < i; ++j) below.push_back(threads[j].below);
      threads[begin].below = merge(std::move(below));
    }
    if (num_groups != begin) threads[num_groups] = std::move(threads[begin]);
  }
  threads.resize(num_groups);
  return threads;
}

/// The set of all threads of these sets.
ThreadSetPtr GrammarMachine::merge(std::vector<ThreadSetPtr> sets) {
  const auto less = [](const auto& a, const auto& b) { return hash_of(a) < hash_of(b); };
  const auto same = [](const auto& a, const auto& b) { return hash_of(a) == hash_of(b); };
  std::sort(sets.begin(), sets.end(), less);
  sets.erase(std::unique(sets.begin(), sets.end(), same), sets.end());
  // Where it gets too much work the step fails, whatever this returns.
  if (sets.size() == 1 || step_work_ > kMaxStepWork) return sets.front();
  std::vector<uint64_t> parts;
  parts.reserve(sets.size());
  for (const ThreadSetPtr& set : sets) parts.push_back(hash_of(set));
  if (const auto found = merged_.find(parts); found != merged_.end()) return found->second;
  std::vector<Thread> threads;
  for (const ThreadSetPtr& set : sets) {
    CHECK(set);  // threads without a frame below are at kAccept, which is there once
    if (step_work_ + threads.size() > kMaxStepWork) break;
    threads.insert(threads.end(), set->threads.begin(), set->threads.end());
  }
  ThreadSetPtr merged = make_set(grouped(std::move(threads)), false);
  merged_.emplace(std::move(parts), merged);
  return merged;
}

uint32_t ThreadSetTable::intern(ThreadSetPtr state) {
  const auto [first, last] = by_hash_.equal_range(state->hash);
  for (auto at = first; at != last; ++at) {
    if (equal(*states_[at->second], *state)) return at->second;
  }
  const auto number = static_cast<uint32_t>(states_.size());
  by_hash_.emplace(state->hash, number);
  states_.push_back(std::move(state));
  return number;
}

void ThreadSetTable::clear() {
  states_.clear();
  by_hash_.clear();
}

}  // namespace troupe::model
