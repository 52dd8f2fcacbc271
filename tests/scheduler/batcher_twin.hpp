#pragma once

// The batcher's rules as plainly as they can be put: one list of requests in order, looked through
// from the start for every question. Slow, and with nothing that could fall out of step with it.

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "scheduler/batcher.hpp"

namespace troupe::scheduler {

class BatcherTwin {
 public:
  explicit BatcherTwin(BatcherOptions options)
      : options_(options),
        cost_(options.step, options.attention_span),
        scored_row_(std::max(1U, options.max_step_tokens / options.min_prefill_tokens)) {}

  std::vector<BatcherEffect> handle(const BatcherEvent& event) {
    effects_.clear();
    std::visit([this](const auto& e) { on(e); }, event);
    preempt();
    for (Request& r : requests_) {
      if (!r.runs || r.ask != 0 || r.refused || r.room >= wanted_room(r)) continue;
      r.ask = ++last_ask_;
      effects_.emplace_back(ExtendBlocks{r.ask, r.id, wanted_room(r)});
    }
    reserve();
    if (!out_) run();
    return effects_;
  }

 private:
  struct Request {
    RequestId id;
    int64_t order = 0;
    uint32_t known = 0, max_context = 0, computed = 0, room = 0;
    uint32_t num_scored = 0, scored = 0;  ///< rows to be scored, and those that are
    AskId ask = 0;
    bool runs = false, pending = false, decoding = false, refused = false, retry = false;
    bool unsampled = false;
    std::optional<StepEntry> in_step;
  };

  static uint32_t wanted_room(const Request& r) { return std::min(r.known + 1, r.max_context - 1); }
  Request* find(RequestId id) {
    const auto at = std::ranges::find(requests_, id, &Request::id);
    return at == requests_.end() ? nullptr : &*at;
  }
  Request* asked(RequestId id, AskId ask) {
    Request* r = find(id);
    return r != nullptr && r->ask == ask ? r : nullptr;
  }
  [[nodiscard]] auto num_running() const {
    return std::ranges::count_if(requests_, &Request::runs);
  }

  void on(const Arrived& e) {
    if (find(e.request) != nullptr) return;
    const auto after = std::ranges::find_if(
        requests_, [&](const Request& other) { return other.order > e.order; });
    requests_.insert(after, {.id = e.request,
                             .order = e.order,
                             .known = e.num_known,
                             .max_context = e.max_context,
                             .num_scored = e.num_scored});
  }
  void on(const BlocksReserved& e) {
    Request* r = asked(e.request, e.ask);
    if (r == nullptr) return;
    if (!r->runs) r->computed = e.num_cached;
    r->runs = true;
    r->room = e.num_tokens;
    r->ask = 0;
    r->retry = false;
  }
  void on(const BlocksRefused& e) {
    Request* r = asked(e.request, e.ask);
    if (r == nullptr) return;
    const bool retry = std::exchange(r->retry, false);
    r->ask = 0;
    if (r->runs) {
      r->refused = !retry;
    } else if (!retry) {
      closed_ = true;
    }
  }
  void on(const BlocksPending& e) {
    Request* r = asked(e.request, e.ask);
    if (r == nullptr || r->runs) return;
    r->pending = true;
    r->ask = 0;
    r->retry = false;
  }
  void on(const BlocksWake& e) {
    if (Request* r = find(e.request); r != nullptr) r->pending = false;
  }
  void on(const StepDone& e) {
    if (!out_ || last_step_ != e.step) return;
    for (Request& r : requests_) {
      if (!r.in_step) continue;
      r.computed += r.in_step->count;
      r.scored = std::max(r.scored, std::min(r.computed, r.num_scored));
      r.unsampled = r.in_step->wants_token && e.unsampled.contains(r.id);
      if (r.unsampled) {
        --r.computed;
      } else if (r.in_step->wants_token) {
        ++r.known;
        r.decoding = true;
      }
      r.in_step.reset();
    }
    cost_.learn(shape_, e.took, e.scoring);
    if (cost_.scored_row()) {
      scored_row_ = static_cast<uint32_t>(
          std::lround(std::clamp<double>(*cost_.scored_row(), 1, options_.max_step_tokens)));
    }
    out_ = false;
    if (std::exchange(frees_at_end_, false)) freed();
  }
  void on(const MaskReady& e) {
    if (Request* r = find(e.request); r != nullptr) r->unsampled = false;
  }
  void on(const Left& e) {
    const Request* r = find(e.request);
    if (r == nullptr) return;
    const bool may_hold = r->runs || r->ask != 0;
    if (!r->runs) closed_ = false;
    std::erase_if(requests_, [&](const Request& other) { return other.id == e.request; });
    if (!may_hold) return;
    if (out_) {
      frees_at_end_ = true;
    } else {
      freed();
    }
  }

  void freed() {
    closed_ = false;
    for (Request& r : requests_) {
      r.refused = false;
      r.retry = r.ask != 0;
    }
  }
  void preempt() {
    if (out_) return;
    const bool starved = std::ranges::any_of(requests_, [](const Request& r) {
      return r.runs && r.refused && r.room < r.known && r.known < r.max_context;
    });
    if (!starved) return;
    const auto last = std::ranges::find_if(requests_.rbegin(), requests_.rend(), &Request::runs);
    effects_.emplace_back(Preempt{last->id});
    *last = {.id = last->id,
             .order = last->order,
             .known = last->known,
             .max_context = last->max_context,
             .num_scored = last->num_scored,
             .scored = last->scored};
    freed();
    closed_ = true;
  }
  void reserve() {
    const bool asking =
        std::ranges::any_of(requests_, [](const Request& r) { return !r.runs && r.ask != 0; });
    if (asking || num_running() >= int64_t{options_.max_running}) return;
    if (closed_ && (out_ || num_running() > 0)) return;
    const auto next =
        std::ranges::find_if(requests_, [](const Request& r) { return !r.runs && !r.pending; });
    if (next == requests_.end()) return;
    next->ask = ++last_ask_;
    effects_.emplace_back(
        ReserveBlocks{next->ask, next->id, std::max(next->known, wanted_room(*next))});
  }
  [[nodiscard]] uint32_t rows_beside(uint32_t num_decoding) const {
    const uint64_t least = options_.min_prefill_tokens;
    const uint64_t affordable = cost_.rows_beside(num_decoding, shape_.crowd).value_or(least);
    if (affordable < least && cost_.overdrawn() && num_repaying_ < 15) return 0;
    if (affordable < least) {
      return cost_.dear_rows(options_.min_prefill_tokens, num_decoding, shape_.crowd);
    }
    return static_cast<uint32_t>(std::min<uint64_t>(affordable, options_.max_step_tokens));
  }
  [[nodiscard]] uint32_t cost(const Request& r, uint32_t first, uint32_t end, bool beside) const {
    uint32_t sum = 0;
    uint64_t depth = 0;  // of all rows up to this one
    for (uint32_t p = 0; p < end; ++p) {
      const uint64_t before = options_.attention_span == 0 ? 0 : depth / options_.attention_span;
      depth += p;
      if (p < first) continue;
      sum += p >= r.scored && p < r.num_scored ? scored_row_ : 1;
      if (beside && options_.attention_span > 0) {
        sum += static_cast<uint32_t>(depth / options_.attention_span - before);
      }
    }
    return sum;
  }
  [[nodiscard]] uint32_t cost_left(const Request& r) const {
    return cost(r, r.computed, r.known, true);
  }
  /// Row by row: half of what they may cost to the request with the least left, then the rest to
  /// the first in order; whose next row costs too much is passed over.
  std::map<Request*, uint32_t> shares_of(uint32_t rows, const std::vector<Request*>& prefilling,
                                         bool beside) {
    std::map<Request*, uint32_t> shares;
    uint32_t spent = 0;
    const auto give_rows = [&](uint32_t most, bool to_the_shortest) {
      for (;;) {
        Request* next = nullptr;
        uint32_t least = 0;
        for (Request* r : prefilling) {
          const uint32_t at = r->computed + shares[r];
          if (at == r->known || spent + cost(*r, at, at + 1, beside) > most) continue;
          const uint32_t left = cost(*r, at, r->known, beside);
          if (next != nullptr && (!to_the_shortest || left >= least)) continue;
          next = r;
          least = left;
        }
        if (next == nullptr) return;
        const uint32_t at = next->computed + shares[next]++;
        spent += cost(*next, at, at + 1, beside);
      }
    };
    if (rows > 0 && !prefilling.empty()) {
      const uint32_t at = prefilling[0]->computed;
      const uint32_t first_row = cost(*prefilling[0], at, at + 1, beside);
      if (first_row > rows) {
        shares[prefilling[0]] = 1;
        spent = first_row;
      } else {
        if (first_row + rows / 2 <= rows) give_rows(rows / 2, true);
        give_rows(rows, false);
      }
    }
    spent_ = spent;
    return shares;
  }
  void run() {
    RunStep step{StepId{last_step_.value + 1}, {}};
    uint32_t budget = options_.max_step_tokens;
    const auto add = [&](Request& r, uint32_t most) {
      const uint32_t count = std::min(most, r.known - r.computed);
      r.in_step = StepEntry{r.id, r.computed, count, count == r.known - r.computed};
      step.entries.push_back(*r.in_step);
      budget -= count;
      for (uint32_t p = r.computed; p < r.computed + count; ++p) {
        shape_.num_scored += p >= r.scored && p < r.num_scored ? 1 : 0;
        shape_.prefill_depth += r.decoding ? 0 : p;
      }
      return count;
    };
    std::vector<Request*> decoding, prefilling;
    for (Request& r : requests_) {
      if (!r.runs || r.unsampled) continue;
      if (!r.decoding) prefilling.push_back(&r);
      if (r.decoding && r.known < r.max_context && r.room >= r.known) decoding.push_back(&r);
    }
    const auto num_decoding = static_cast<uint32_t>(decoding.size());
    const bool mixes = !decoding.empty() && !prefilling.empty();
    shape_ = {};
    if (mixes) {
      double num_near = 0;
      for (const Request* r : prefilling) num_near += cost_left(*r) <= options_.max_step_tokens;
      shape_.crowd = num_near / static_cast<double>(decoding.size());
    }
    uint32_t prefill = budget - num_decoding;
    if (num_decoding > 0) {
      prefill = num_mixed_ >= 15 ? 0 : std::min(prefill, rows_beside(num_decoding));
    } else {
      uint32_t deepest = 0;
      for (const Request* r : prefilling) deepest = std::max(deepest, r->computed);
      uint64_t affordable =
          std::min<uint64_t>(budget, cost_.rows_alone(options_.max_step_time).value_or(budget));
      const uint64_t span = options_.attention_span;
      if (span > 0) affordable = affordable * span / (span + deepest);
      const uint64_t least = std::min(prefill, options_.min_prefill_tokens);
      prefill = static_cast<uint32_t>(std::clamp<uint64_t>(affordable, least, prefill));
    }
    auto shares = shares_of(prefill, prefilling, num_decoding > 0);
    if (num_decoding > 0) {
      shape_.dear = cost_.rows_beside(num_decoding, shape_.crowd).value_or(UINT64_MAX) <
                    std::max(prefill, spent_);
    }
    if (mixes && num_mixed_ < 15 && decoding.back() > prefilling[0]) {  // by place
      Request* first = prefilling[0];
      const uint32_t left = first->known - first->computed;
      const uint64_t instead = cost_.rows_instead(num_decoding, shape_.crowd).value_or(0);
      const uint64_t room =
          budget - std::ranges::count_if(decoding, [&](const Request* r) { return r < first; });
      if (shares[first] < left && cost_left(*first) <= std::min(instead, room)) {
        std::erase_if(decoding, [&](const Request* r) { return r > first; });
        shape_.num_passed = num_decoding - static_cast<uint32_t>(decoding.size());
        shares = {{first, left}};
      }
    }
    for (Request* r : decoding) add(*r, 1);
    shape_.num_decoding = static_cast<uint32_t>(decoding.size());
    for (Request* r : prefilling) {
      if (shares[r] > 0) shape_.prefill_tokens += add(*r, shares[r]);
    }
    if (step.entries.empty()) return;
    const bool only_decodes = shape_.prefill_tokens == 0;
    num_mixed_ = only_decodes ? 0 : num_mixed_ + (mixes ? 1 : 0);
    num_repaying_ = mixes && only_decodes ? num_repaying_ + 1 : 0;
    last_step_ = step.step;
    out_ = true;
    effects_.emplace_back(std::move(step));
  }

  BatcherOptions options_;
  std::vector<Request> requests_;  ///< by order, equal ones by arrival
  std::vector<BatcherEffect> effects_;
  bool out_ = false, closed_ = false, frees_at_end_ = false;
  StepShape shape_;
  StepCost cost_;
  uint32_t scored_row_, spent_ = 0;
  StepId last_step_;
  AskId last_ask_ = 0;
  uint32_t num_mixed_ = 15, num_repaying_ = 0;
};

/// For comparing and for messages: "preempt 3; extend #7 3 to 12; step 4: 3@8+1! 5@0+6".
inline std::string to_text(const std::vector<BatcherEffect>& effects) {
  const auto n = [](auto value) { return std::to_string(value); };
  struct Text {
    decltype(n) num;
    std::string operator()(const Preempt& e) const { return "preempt " + num(e.request.value); }
    std::string operator()(const ReserveBlocks& e) const {
      return "reserve #" + num(e.ask) + " " + num(e.request.value) + " to " + num(e.num_tokens);
    }
    std::string operator()(const ExtendBlocks& e) const {
      return "extend #" + num(e.ask) + " " + num(e.request.value) + " to " + num(e.num_tokens);
    }
    std::string operator()(const RunStep& e) const {
      std::string text = "step " + num(e.step.value) + ":";
      for (const StepEntry& entry : e.entries) {
        text += " " + num(entry.request.value) + "@" + num(entry.first_position) + "+" +
                num(entry.count) + (entry.wants_token ? "!" : "");
      }
      return text;
    }
  };
  std::string text;
  for (const BatcherEffect& effect : effects) text += std::visit(Text{n}, effect) + "; ";
  return text;
}

}  // namespace troupe::scheduler
