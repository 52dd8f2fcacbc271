#include "scheduler/batcher.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.hpp"

namespace troupe::scheduler {
namespace {

/// After so many mixed steps one only decodes, so that its cost stays known.
constexpr uint32_t kMixedBetweenMeasures = 15;

}  // namespace

// Decoding is measured as soon as prefill meets it: until then its price is not known.
Batcher::Batcher(BatcherOptions options)
    : options_(options),
      num_mixed_(kMixedBetweenMeasures),
      cost_(options.step, options.attention_span) {
  CHECK_GE(options.max_running, 1U);
  // A request that decodes takes a row of each step: then nobody's token ever has to wait for one.
  CHECK_LE(options.max_running, options.max_step_tokens);
  CHECK_GE(options.step.percent, 100U);
  CHECK_GE(options.min_prefill_tokens, 1U);
  scored_row_ = std::max(1U, options.max_step_tokens / options.min_prefill_tokens);
}

std::vector<BatcherEffect> Batcher::handle(const BatcherEvent& event) {
  std::visit([this](const auto& e) { on(e); }, event);
  Effects effects;
  preempt_for_the_starved(effects);
  ask_for_room(effects);
  ask_for_next(effects);
  run_step(effects);
  return effects;
}

// --- events -------------------------------------------------------------------------------------

void Batcher::on(const Arrived& event) {
  CHECK_GE(event.num_known, 1U);
  CHECK_LT(event.num_known, event.max_context);
  const Place place{event.order, ++last_arrival_};
  if (!places_.try_emplace(event.request, place).second) return;
  waiting_[place] = {.request = event.request,
                     .num_known = event.num_known,
                     .max_context = event.max_context,
                     .scored_end = event.num_scored};
  askable_.insert(place);
}

void Batcher::on(const BlocksReserved& event) {
  if (ask_ && ask_->id == event.ask) {
    const Place place = std::exchange(ask_, std::nullopt)->place;
    const Waiting& waiting = waiting_.at(place);
    CHECK_LT(event.num_cached, waiting.num_known);
    CHECK_GE(event.num_tokens, waiting.num_known);
    const auto [at, is_new] =
        running_.insert_or_assign(place, Running{.request = waiting.request,
                                                 .num_known = waiting.num_known,
                                                 .max_context = waiting.max_context,
                                                 .scored_from = waiting.scored_from,
                                                 .scored_end = waiting.scored_end,
                                                 .num_computed = event.num_cached,
                                                 .num_room = event.num_tokens});
    CHECK(is_new);
    waiting_.erase(place);
    askable_.erase(place);
    return review_room(at);
  }
  const RunningAt at = find_running(event.request);
  if (at == running_.end() || at->second.ask != event.ask) return;  // of an earlier life
  CHECK_GE(event.num_tokens, at->second.num_room);
  at->second.num_room = event.num_tokens;
  at->second.ask = 0;
  at->second.retry = false;
  short_.erase(at->first);
  review_room(at);
}

void Batcher::on(const BlocksRefused& event) {
  if (ask_ && ask_->id == event.ask) {
    admission_closed_ = admission_closed_ || !ask_->retry;
    ask_.reset();
    return;
  }
  const RunningAt at = find_running(event.request);
  if (at == running_.end() || at->second.ask != event.ask) return;
  Running& running = at->second;
  running.ask = 0;
  if (std::exchange(running.retry, false)) {
    short_.erase(at->first);
    return review_room(at);
  }
  running.refused = true;
  ++num_refused_;
}

void Batcher::on(const BlocksPending& event) {
  if (!ask_ || ask_->id != event.ask) return;
  waiting_.at(ask_->place).pending = true;
  askable_.erase(ask_->place);
  ask_.reset();
}

void Batcher::on(const BlocksWake& event) {
  const auto place = places_.find(event.request);
  if (place == places_.end()) return;
  const auto waiting = waiting_.find(place->second);
  if (waiting == waiting_.end()) return;
  waiting->second.pending = false;
  askable_.insert(place->second);
}

void Batcher::on(const StepDone& event) {
  if (!step_ || step_->step != event.step) return;
  for (size_t i = 0; i < step_->entries.size(); ++i) {
    const StepEntry& entry = step_->entries[i];
    const RunningAt at = step_->requests[i];
    at->second.num_computed += entry.count;
    at->second.scored_from =
        std::clamp(at->second.num_computed, at->second.scored_from, at->second.scored_end);
    if (!entry.wants_token) continue;
    if (event.unsampled.contains(entry.request)) {
      --at->second.num_computed;
      at->second.unsampled = true;
      continue;
    }
    ++at->second.num_known;
    at->second.decoding = true;
    review_room(at);
  }
  cost_.learn(step_->shape, event.took, event.scoring);
  if (const auto price = cost_.scored_row()) {
    scored_row_ = static_cast<uint32_t>(
        std::clamp(std::round(*price), 1.0, static_cast<double>(options_.max_step_tokens)));
  }
  step_.reset();
  if (std::exchange(frees_at_step_end_, false)) blocks_freed();
}

void Batcher::on(const MaskReady& event) {
  const RunningAt at = find_running(event.request);
  if (at != running_.end()) at->second.unsampled = false;
}

void Batcher::on(const Left& event) {
  const auto found = places_.find(event.request);
  if (found == places_.end()) return;
  const Place place = found->second;
  places_.erase(found);
  const RunningAt at = running_.find(place);
  const bool ran = at != running_.end();
  const bool asked = ask_ && ask_->place == place;
  if (ran) {
    stop_running(at);
  } else {
    waiting_.erase(place);
    askable_.erase(place);
    if (asked) ask_.reset();  // what may still be granted is released by the shell
    admission_closed_ = false;
  }
  if (!ran && !asked) return;
  if (step_) {
    frees_at_step_end_ = true;
  } else {
    blocks_freed();
  }
}

void Batcher::stop_running(RunningAt at) {
  if (step_) {
    const auto in_step = std::ranges::find(step_->requests, at) - step_->requests.begin();
    if (in_step < std::ssize(step_->requests)) {
      step_->requests.erase(step_->requests.begin() + in_step);
      step_->entries.erase(step_->entries.begin() + in_step);
    }
  }
  num_refused_ -= at->second.refused ? 1 : 0;
  wanting_.erase(at->first);
  short_.erase(at->first);
  running_.erase(at);
}

void Batcher::review_room(RunningAt at) {
  const Running& running = at->second;
  if (running.ask == 0 && !running.refused && running.num_room < room_wanted(running)) {
    wanting_.insert(at->first);
  }
}

void Batcher::blocks_freed() {
  admission_closed_ = false;
  if (ask_) ask_->retry = true;
  for (auto place = short_.begin(); place != short_.end();) {
    const RunningAt at = running_.find(*place);
    at->second.retry = at->second.ask != 0;
    if (std::exchange(at->second.refused, false)) {
      place = short_.erase(place);
      review_room(at);
    } else {
      ++place;
    }
  }
  num_refused_ = 0;
}

// --- effects ------------------------------------------------------------------------------------

/// One request at a time, and only between steps: nothing reads its blocks then.
void Batcher::preempt_for_the_starved(Effects& effects) {
  if (step_ || num_refused_ == 0) return;
  const bool starved = std::ranges::any_of(short_, [&](const Place& place) {
    const Running& running = running_.at(place);
    return running.refused && running.num_room < running.num_known &&
           running.num_known < running.max_context;
  });
  if (!starved) return;
  const RunningAt victim = std::prev(running_.end());
  const auto& [place, running] = *victim;
  effects.emplace_back(Preempt{running.request});
  waiting_[place] = {.request = running.request,
                     .num_known = running.num_known,
                     .max_context = running.max_context,
                     .scored_from = running.scored_from,
                     .scored_end = running.scored_end};
  askable_.insert(place);
  stop_running(victim);
  ++num_preempted_;
  blocks_freed();
  admission_closed_ = true;  // the blocks are for those who run
}

void Batcher::ask_for_room(Effects& effects) {
  for (const Place& place : wanting_) {
    Running& running = running_.at(place);
    running.ask = ++last_ask_;
    effects.emplace_back(ExtendBlocks{running.ask, running.request, room_wanted(running)});
  }
  short_.merge(wanting_);
}

void Batcher::ask_for_next(Effects& effects) {
  if (ask_ || askable_.empty() || running_.size() >= options_.max_running) return;
  if (admission_closed_ && (step_ || !running_.empty())) return;
  ask_ = Ask{.id = ++last_ask_, .place = *askable_.begin()};
  const Waiting& next = waiting_.at(ask_->place);
  effects.emplace_back(
      ReserveBlocks{ask_->id, next.request,
                    std::max(next.num_known, std::min(next.num_known + 1, next.max_context - 1))});
}

void Batcher::run_step(Effects& effects) {
  if (step_) return;
  OutStep next;
  const auto add = [&](RunningAt at, uint32_t count) {
    const Running& request = at->second;
    const uint32_t remaining = request.num_known - request.num_computed;
    count = std::min(count, remaining);
    next.entries.push_back({.request = request.request,
                            .first_position = request.num_computed,
                            .count = count,
                            .wants_token = count == remaining});
    next.requests.push_back(at);
    if (!request.decoding) {
      const uint32_t first = std::max(request.num_computed, request.scored_from);
      const uint32_t end = std::min(request.num_computed + count, request.scored_end);
      next.shape.num_scored += end - std::min(first, end);
      next.shape.prefill_tokens += count;
      next.shape.prefill_depth += next.entries.back().depth();
    }
  };
  std::vector<RunningAt> decoding, prefilling;
  for (auto at = running_.begin(); at != running_.end(); ++at) {
    const Running& request = at->second;
    if (request.unsampled) continue;
    if (!request.decoding) {
      prefilling.push_back(at);
      continue;
    }
    const bool full = request.num_known >= request.max_context;  // it is about to leave
    if (!full && request.num_room >= request.num_known) decoding.push_back(at);
  }
  const bool mixes = !decoding.empty() && !prefilling.empty();
  if (mixes) {
    const auto num_near = std::ranges::count_if(prefilling, [&](RunningAt at) {
      return cost_left(at->second) <= options_.max_step_tokens;
    });
    next.shape.crowd = static_cast<double>(num_near) / static_cast<double>(decoding.size());
  }
  const auto num_decoding = static_cast<uint32_t>(decoding.size());
  // What prefill may cost beside all of those who decode, in rows.
  const bool measures = num_mixed_ >= kMixedBetweenMeasures;
  uint32_t rows = options_.max_step_tokens - num_decoding;
  if (num_decoding > 0) {
    rows = measures ? 0 : std::min(rows, rows_beside(num_decoding, next.shape.crowd));
  } else if (!prefilling.empty()) {
    rows = rows_alone(prefilling);
  }
  Shares shares = prefill_shares(prefilling, rows, num_decoding > 0);
  if (num_decoding > 0) {
    const uint32_t most = std::max(rows, shares.cost);
    next.shape.dear = most > cost_.rows_beside(num_decoding, next.shape.crowd).value_or(most);
  }
  if (mixes && !measures) {
    const RunningAt first = prefilling.front();
    const uint32_t left = first->second.num_known - first->second.num_computed;
    const uint64_t cost = cost_left(first->second);
    const auto later =
        std::ranges::find_if(decoding, [&](RunningAt at) { return at->first > first->first; });
    const auto num_before = static_cast<uint32_t>(later - decoding.begin());
    const uint64_t most = cost_.rows_instead(num_decoding, next.shape.crowd).value_or(0);
    // Those who decode and come later in order than the first prompt wait for it if a step without
    // them ends it and one with them does not.
    if (later != decoding.end() && shares.rows[0] < left &&
        cost <= std::min<uint64_t>(most, options_.max_step_tokens - num_before)) {
      next.shape.num_passed = num_decoding - num_before;
      decoding.erase(later, decoding.end());
      prefilling.resize(1);
      shares.rows = {left};
    }
  }
  // Decode before prefill, so that a long prompt delays nobody's next token by more than its share.
  for (const RunningAt at : decoding) add(at, 1);
  next.shape.num_decoding = static_cast<uint32_t>(decoding.size());
  for (size_t i = 0; i < prefilling.size(); ++i) {
    if (shares.rows[i] > 0) add(prefilling[i], shares.rows[i]);
  }
  if (next.entries.empty()) return;
  const bool only_decodes = next.shape.prefill_tokens == 0;
  num_repaying_ = mixes && only_decodes ? num_repaying_ + 1 : 0;
  if (only_decodes) num_mixed_ = 0;
  if (mixes && !only_decodes) ++num_mixed_;
  next.step = last_step_ = StepId{last_step_.value + 1};
  effects.emplace_back(RunStep{next.step, next.entries});
  step_ = std::move(next);
}

uint32_t Batcher::rows_alone(const std::vector<RunningAt>& prefilling) const {
  const uint64_t most = options_.max_step_tokens;
  uint64_t rows = std::min(most, cost_.rows_alone(options_.max_step_time).value_or(most));
  if (const uint64_t span = options_.attention_span; span > 0) {
    uint64_t deepest = 0;
    for (const RunningAt at : prefilling) {
      deepest = std::max<uint64_t>(deepest, at->second.num_computed);
    }
    rows = rows * span / (span + deepest);  // as many as cost what those would at the start
  }
  rows = std::max<uint64_t>(rows, options_.min_prefill_tokens);
  return static_cast<uint32_t>(std::min(rows, most));
}

uint32_t Batcher::rows_beside(uint32_t num_decoding, double crowd) const {
  const uint64_t least = options_.min_prefill_tokens;
  const uint64_t rows = cost_.rows_beside(num_decoding, crowd).value_or(least);
  if (rows >= least)
    return static_cast<uint32_t>(std::min<uint64_t>(rows, options_.max_step_tokens));
  if (cost_.overdrawn() && num_repaying_ < kMaxRepaying) return 0;
  return cost_.dear_rows(options_.min_prefill_tokens, num_decoding, crowd);
}

Batcher::Shares Batcher::prefill_shares(const std::vector<RunningAt>& prefilling, uint32_t rows,
                                        bool counts_depth) const {
  Shares shares{std::vector<uint32_t>(prefilling.size())};
  /// The first that it has not got yet.
  const auto next = [&](size_t i) { return prefilling[i]->second.num_computed + shares.rows[i]; };
  const auto left = [&](size_t i) {
    return cost_of(prefilling[i]->second, next(i), prefilling[i]->second.num_known, counts_depth);
  };
  const auto give = [&](size_t i, uint64_t most) {
    uint64_t given = 0;
    while (next(i) < prefilling[i]->second.num_known) {
      const uint64_t row = cost_of(prefilling[i]->second, next(i), next(i) + 1, counts_depth);
      if (given + row > most) break;
      given += row;
      ++shares.rows[i];
    }
    shares.cost += static_cast<uint32_t>(given);
    return given;
  };
  if (rows == 0 || prefilling.empty()) return shares;
  const Running& first = prefilling[0]->second;
  const uint64_t first_row =
      cost_of(first, first.num_computed, first.num_computed + 1, counts_depth);
  if (first_row > rows) {
    give(0, first_row);
    return shares;
  }
  // The half of the shortest ones, if the first row of the first prompt fits beside it.
  if (prefilling.size() > 1 && first_row <= rows - rows / 2) {
    std::vector<size_t> shortest(prefilling.size());
    std::iota(shortest.begin(), shortest.end(), size_t{0});
    std::ranges::stable_sort(shortest, {}, left);
    uint64_t half = rows / 2;
    for (const size_t i : shortest) half -= give(i, half);
  }
  for (size_t i = 0; i < prefilling.size(); ++i) give(i, rows - shares.cost);
  return shares;
}

uint64_t Batcher::cost_of(const Running& running, uint32_t first, uint32_t end,
                          bool counts_depth) const {
  const uint32_t scored_end = std::min(end, running.scored_end);
  const uint64_t num_scored =
      scored_end - std::min(scored_end, std::max(first, running.scored_from));
  uint64_t cost = (end - first) + num_scored * (scored_row_ - 1);
  if (counts_depth && options_.attention_span > 0) {
    // What all rows before a position attend to.
    const auto attended = [&](uint64_t position) {
      return position * (position - 1) / 2 / options_.attention_span;
    };
    cost += attended(end) - attended(first);
  }
  return cost;
}

// --- views --------------------------------------------------------------------------------------

Batcher::RunningAt Batcher::find_running(RequestId request) {
  const auto place = places_.find(request);
  return place == places_.end() ? running_.end() : running_.find(place->second);
}

uint32_t Batcher::room_wanted(const Running& running) {
  // One position ahead of the next, so that the answer comes while a step runs. The last token of a
  // full context is never computed.
  return std::min(running.num_known + 1, running.max_context - 1);
}

std::string Batcher::check() const {
  if (running_.size() > options_.max_running) return "more requests run than allowed";
  if (num_repaying_ > kMaxRepaying) return "prompts have waited for more steps than they may";
  if (places_.size() != waiting_.size() + running_.size()) return "a request is lost or twice here";
  bool can_run = false;
  for (const auto& [place, waiting] : waiting_) {
    const std::string who = "request " + std::to_string(waiting.request.value);
    const auto found = places_.find(waiting.request);
    if (found == places_.end() || found->second != place) return who + " waits in another place";
    if (askable_.contains(place) == waiting.pending) return who + " is pending and askable";
  }
  size_t num_refused = 0;
  for (const auto& [place, running] : running_) {
    const std::string who = "request " + std::to_string(running.request.value);
    num_refused += running.refused ? 1 : 0;
    if (wanting_.contains(place)) return who + " was not asked for";
    if (short_.contains(place) != (running.ask != 0 || running.refused)) {
      return who + " is wrongly among those short of room";
    }
    if (running.num_room < room_wanted(running) && !short_.contains(place)) {
      return who + " lacks room that nobody asks for";
    }
    const auto found = places_.find(running.request);
    if (found == places_.end() || found->second != place) return who + " runs in another place";
    if (running.num_computed >= running.num_known || running.num_known > running.max_context ||
        running.num_computed > running.num_room) {
      return who + " has computed " + std::to_string(running.num_computed) + " of " +
             std::to_string(running.num_known) + " known tokens, room " +
             std::to_string(running.num_room) + ", at most " + std::to_string(running.max_context);
    }
    can_run = can_run || (!running.unsampled && running.num_known < running.max_context &&
                          (!running.decoding || running.num_room >= running.num_known));
  }
  if (num_refused != num_refused_) return "the refused are counted wrongly";
  if (askable_.size() > waiting_.size()) return "somebody is asked for who does not wait";
  if (can_run && !step_) return "a request could run, but no step is out";
  if (ask_ && !askable_.contains(ask_->place)) return "the request asked for does not wait";
  if (!ask_ && !askable_.empty() && running_.empty() && !step_) return "nobody is asked for";
  if (step_) {
    uint64_t num_tokens = 0;
    if (step_->entries.size() != step_->requests.size()) return "the step's requests are confused";
    for (size_t i = 0; i < step_->entries.size(); ++i) {
      const StepEntry& entry = step_->entries[i];
      const auto place = places_.find(entry.request);
      const auto running = place == places_.end() ? running_.end() : running_.find(place->second);
      if (running == running_.end()) return "the step names a request that does not run";
      if (running != step_->requests[i]) return "the step's entry is of another request";
      const Running& request = running->second;
      if (request.num_computed != entry.first_position) return "the step leaves a gap or repeats";
      if (entry.first_position + entry.count > request.num_room) return "the step lacks blocks";
      num_tokens += entry.count;
    }
    if (num_tokens > options_.max_step_tokens) return "the step exceeds its budget";
  }
  return "";
}

}  // namespace troupe::scheduler
