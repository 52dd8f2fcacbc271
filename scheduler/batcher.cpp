#include "scheduler/batcher.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"

namespace troupe::scheduler {

Batcher::Batcher(BatcherOptions options) : options_(options) {
  CHECK_GE(options.max_step_tokens, 1U);
  CHECK_GE(options.max_running, 1U);
}

std::vector<BatcherEffect> Batcher::handle(const BatcherEvent& event) {
  if (const auto* arrival = std::get_if<Arrived>(&event)) {
    arrived(*arrival);
  } else if (const auto* reserved = std::get_if<BlocksReserved>(&event)) {
    answered(reserved->request, true);
  } else if (const auto* refused = std::get_if<BlocksRefused>(&event)) {
    answered(refused->request, false);
  } else if (const auto* done = std::get_if<StepDone>(&event)) {
    step_done(done->step);
  } else {
    left(std::get<Left>(event).request);
  }
  std::vector<BatcherEffect> effects;
  if (auto ask = next_ask()) effects.emplace_back(*ask);
  if (auto step = next_step()) effects.emplace_back(*std::move(step));
  return effects;
}

void Batcher::arrived(const Arrived& event) {
  CHECK_GE(event.num_known, 1U);
  CHECK_LT(event.num_known, event.max_context);
  const bool waits = std::ranges::count(waiting_, event.request, &Waiting::request) != 0;
  if (waits || find_running(event.request) != nullptr) return;
  waiting_.push_back({event.request, event.num_known, event.max_context});
}

void Batcher::answered(RequestId request, bool reserved) {
  if (!ask_ || ask_->request != request) return;
  const Ask ask = *std::exchange(ask_, std::nullopt);
  if (ask.abandoned) return;  // the shell releases the blocks: it has seen Left
  if (!reserved) {
    front_refused_ = !ask.retry;
    return;
  }
  const Waiting& front = waiting_.front();
  running_.push_back(
      {.request = request, .num_known = front.num_known, .max_context = front.max_context});
  waiting_.pop_front();
}

void Batcher::step_done(StepId step) {
  if (!step_ || step_->step != step) return;
  for (const StepEntry& entry : step_->entries) {
    Running& request = *find_running(entry.request);
    request.num_computed += entry.count;
    if (entry.wants_token) {
      ++request.num_known;
      request.decoding = true;
    }
  }
  step_.reset();
  if (std::exchange(frees_at_step_end_, false)) blocks_freed();
}

void Batcher::blocks_freed() {
  front_refused_ = false;
  if (ask_) ask_->retry = true;
}

void Batcher::left(RequestId request) {
  if (find_running(request) != nullptr) {
    std::erase_if(running_, [&](const Running& other) { return other.request == request; });
    if (step_) {
      std::erase_if(step_->entries,
                    [&](const StepEntry& entry) { return entry.request == request; });
    }
    if (step_) {
      frees_at_step_end_ = true;
    } else {
      blocks_freed();
    }
    return;
  }
  const auto waiting = std::ranges::find(waiting_, request, &Waiting::request);
  if (waiting == waiting_.end()) return;
  if (waiting == waiting_.begin()) {
    front_refused_ = false;
    if (ask_ && ask_->request == request) {
      ask_->abandoned = true;
      frees_at_step_end_ = step_.has_value();
    }
  }
  waiting_.erase(waiting);
}

std::optional<ReserveBlocks> Batcher::next_ask() {
  if (ask_ || front_refused_ || waiting_.empty()) return std::nullopt;
  if (running_.size() >= options_.max_running) return std::nullopt;
  ask_ = Ask{.request = waiting_.front().request};
  return ReserveBlocks{waiting_.front().request, waiting_.front().max_context};
}

std::optional<RunStep> Batcher::next_step() {
  if (step_) return std::nullopt;
  RunStep next{.step = StepId{last_step_.value + 1}, .entries = {}};
  uint32_t budget = options_.max_step_tokens;
  const auto add = [&](const Running& request) {
    if (request.num_known >= request.max_context) return;  // full: it is about to leave
    const uint32_t remaining = request.num_known - request.num_computed;
    const uint32_t count = std::min(remaining, budget);
    if (count == 0) return;
    next.entries.push_back({.request = request.request,
                            .first_position = request.num_computed,
                            .count = count,
                            .wants_token = count == remaining});
    budget -= count;
  };
  // Decode before prefill, so that a long prompt delays nobody's next token. All who decode fit:
  // a prefill needs a free row to come to its end, so they are never more than the budget.
  for (const Running& request : running_) {
    if (request.decoding) add(request);
  }
  for (const Running& request : running_) {
    if (!request.decoding) add(request);
  }
  if (next.entries.empty()) return std::nullopt;
  last_step_ = next.step;
  step_ = next;
  return next;
}

Batcher::Running* Batcher::find_running(RequestId request) {
  const auto found = std::ranges::find(running_, request, &Running::request);
  return found == running_.end() ? nullptr : &*found;
}

size_t Batcher::num_waiting() const { return waiting_.size(); }
size_t Batcher::num_running() const { return running_.size(); }

std::string Batcher::check() const {
  if (running_.size() > options_.max_running) return "more requests run than allowed";
  std::vector<RequestId> all;
  bool has_work = false;
  for (const Waiting& waiting : waiting_) all.push_back(waiting.request);
  for (const Running& running : running_) {
    all.push_back(running.request);
    if (running.num_computed >= running.num_known || running.num_known > running.max_context) {
      return "request " + std::to_string(running.request.value) + " has computed " +
             std::to_string(running.num_computed) + " of " + std::to_string(running.num_known) +
             " known tokens, at most " + std::to_string(running.max_context);
    }
    has_work = has_work || running.num_known < running.max_context;
  }
  std::ranges::sort(all);
  if (std::ranges::adjacent_find(all) != all.end()) return "a request is here twice";
  if (has_work && !step_) return "requests could run, but no step is out";
  if (step_) {
    uint64_t num_tokens = 0;
    for (const StepEntry& entry : step_->entries) {
      const auto running = std::ranges::find(running_, entry.request, &Running::request);
      if (running == running_.end()) return "the step names a request that does not run";
      if (running->num_computed != entry.first_position) return "the step leaves a gap or repeats";
      num_tokens += entry.count;
    }
    if (num_tokens > options_.max_step_tokens) return "the step exceeds its budget";
  }
  return "";
}

}  // namespace troupe::scheduler
