// The batcher under random loads: a shell with a small block pool, whose messages travel in order
// but arrive whenever the seed says, and which follows every request's positions itself. Beside the
// batcher runs its slow twin, which must do the same.

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <set>

#include "base/random.hpp"
#include "scheduler/batcher.hpp"
#include "tests/scheduler/batcher_twin.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::scheduler {
namespace {

constexpr uint32_t kBlockTokens = 4;

uint32_t blocks_for(uint32_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

class RandomShell {
 public:
  RandomShell(uint64_t seed, BatcherOptions options, uint32_t pool_blocks)
      : seed_(seed),
        options_(options),
        batcher_(options),
        twin_(options),
        free_(pool_blocks),
        pool_(pool_blocks) {}

  uint64_t draw(uint64_t n) { return random_bits(seed_, draws_++) % n; }
  [[nodiscard]] size_t num_live() const { return lives_.size(); }
  [[nodiscard]] uint64_t num_finished() const { return num_finished_; }
  [[nodiscard]] uint64_t num_preempted() const { return batcher_.num_preempted(); }
  [[nodiscard]] uint64_t num_events() const { return num_events_; }
  /// Of the first prompt: steps in a row.
  [[nodiscard]] uint32_t longest_wait() const { return longest_wait_; }
  [[nodiscard]] uint64_t num_passed() const { return num_passed_; }

  void arrive() {
    const RequestId request{draw(60)};
    if (lives_.contains(request) || std::ranges::count(released_, request) != 0) return;
    const uint32_t most = std::min(pool_ * kBlockTokens, 100U);
    const auto max_context = static_cast<uint32_t>(2 + draw(most - 1));
    const auto num_known = static_cast<uint32_t>(1 + draw(max_context - 1));
    const auto wanted = static_cast<uint32_t>(1 + draw(max_context - num_known));
    const auto order = static_cast<int64_t>(draw(50));
    lives_[request] = {.place = {order, ++num_arrived_},
                       .num_known = num_known,
                       .ends_at = num_known + wanted,
                       .max_context = max_context};
    const bool scores = some_score() && draw(3) == 0;
    const auto num_scored = static_cast<uint32_t>(scores ? draw(num_known) : 0);
    tell(Arrived{request, num_known, max_context, order, num_scored});
  }
  void leave(RequestId request) {
    if (lives_.erase(request) == 0) return;
    if (step_) {
      released_.push_back(request);
    } else {
      to_holder_.push_back({.kind = Op::kRelease, .request = request});
    }
    tell(Left{request});
  }
  void leave_any() {
    if (lives_.empty()) return;
    leave(std::next(lives_.begin(), static_cast<int64_t>(draw(lives_.size())))->first);
  }
  void holder_acts() {
    if (to_holder_.empty()) return;
    const Op op = to_holder_.front();
    to_holder_.pop_front();
    const uint32_t held = held_.contains(op.request) ? held_[op.request] : 0;
    if (op.kind == Op::kRelease) {
      free_ += held;
      held_.erase(op.request);
      return;
    }
    if (op.kind == Op::kReserve) {
      ASSERT_EQ(held, 0U) << "asked twice";
      if (draw(10) == 0) {
        to_batcher_.emplace_back(BlocksPending{op.ask, op.request});
        to_batcher_.emplace_back(BlocksWake{op.request});
        return;
      }
    }
    const uint32_t more = blocks_for(op.num_tokens) - std::min(held, blocks_for(op.num_tokens));
    if (more > free_) {
      to_batcher_.emplace_back(BlocksRefused{op.ask, op.request});
      return;
    }
    free_ -= more;
    held_[op.request] = held + more;
    const uint32_t cached = op.kind == Op::kReserve ? static_cast<uint32_t>(draw(op.num_known)) : 0;
    to_batcher_.emplace_back(
        BlocksReserved{op.ask, op.request, (held + more) * kBlockTokens, cached});
  }
  void holder_answers() {
    if (to_batcher_.empty()) return;
    const BatcherEvent event = to_batcher_.front();
    to_batcher_.pop_front();
    if (const auto* granted = std::get_if<BlocksReserved>(&event)) {
      const auto life = lives_.find(granted->request);
      if (life != lives_.end() && life->second.ask == granted->ask) {
        Life& request = life->second;
        if (!request.runs) request.num_computed = granted->num_cached;
        request.runs = true;
        request.room = granted->num_tokens;
      }
    } else if (const auto* pending = std::get_if<BlocksPending>(&event)) {
      const auto life = lives_.find(pending->request);
      if (life != lives_.end() && life->second.ask == pending->ask) life->second.pending = true;
    } else if (const auto* wake = std::get_if<BlocksWake>(&event)) {
      const auto life = lives_.find(wake->request);
      if (life != lives_.end()) life->second.pending = false;
    }
    tell(event);
  }
  void finish_step() {
    if (!step_) return;
    const RunStep step = *std::exchange(step_, std::nullopt);
    for (const RequestId request : released_) {
      to_holder_.push_back({.kind = Op::kRelease, .request = request});
    }
    released_.clear();
    std::vector<RequestId> finished;
    std::set<RequestId> unsampled;
    bool only_decodes = true;
    for (const StepEntry& entry : step.entries) {
      const auto life = lives_.find(entry.request);
      // A request that left, perhaps to come back, has no part in this step any more.
      if (life == lives_.end() || !life->second.in_step) continue;
      only_decodes = only_decodes && life->second.decoding;
      life->second.num_computed += entry.count;
      life->second.in_step = false;
      if (entry.wants_token && draw(6) == 0) {
        --life->second.num_computed;
        life->second.lacks_mask = true;
        unsampled.insert(entry.request);
        continue;
      }
      life->second.decoding = entry.wants_token;
      if (entry.wants_token && ++life->second.num_known == life->second.ends_at) {
        finished.push_back(entry.request);
      }
    }
    num_finished_ += finished.size();
    for (const RequestId request : finished) leave(request);
    // Some take far longer than is agreed, so that others have to make up for them. Where only
    // those with prefill may, there is nothing to make up with.
    const bool steady = seed_ % 2 == 0 && only_decodes;
    const int64_t slower = draw(8) == 0 ? 50 : 1;
    const int64_t took_us = steady ? 100 : static_cast<int64_t>(draw(1000)) * slower;
    const auto scoring_us =
        some_score() ? static_cast<int64_t>(draw(static_cast<uint64_t>(took_us) + 1)) : 0;
    tell(StepDone{step.step, microseconds(took_us), unsampled, microseconds(scoring_us)});
  }
  /// That of a request that lacks it, as a rule.
  void mask_comes() {
    RequestId request{draw(60)};
    for (const auto& [id, life] : lives_) {
      if (life.lacks_mask && draw(4) != 0) request = id;
    }
    const auto life = lives_.find(request);
    if (life != lives_.end()) life->second.lacks_mask = false;
    tell(MaskReady{request});
  }

 private:
  struct Op {
    enum Kind : uint8_t { kReserve, kExtend, kRelease } kind = kReserve;
    RequestId request;
    AskId ask = 0;
    uint32_t num_tokens = 0;
    uint32_t num_known = 0;
  };
  struct Life {
    std::pair<int64_t, uint64_t> place;  ///< order, arrival
    uint32_t num_known = 0, ends_at = 0, max_context = 0, num_computed = 0, room = 0;
    AskId ask = 0;
    bool runs = false, pending = false, decoding = false, in_step = false, lacks_mask = false;

    [[nodiscard]] bool is_prompt() const { return runs && !decoding && !lacks_mask; }
    [[nodiscard]] bool could_decode() const {
      return runs && decoding && !lacks_mask && num_known < max_context && room >= num_known;
    }
  };

  void tell(const BatcherEvent& event) {
    ++num_events_;
    const auto effects = batcher_.handle(event);
    ASSERT_EQ(batcher_.check(), "");
    ASSERT_EQ(to_text(effects), to_text(twin_.handle(event)));
    for (const BatcherEffect& effect : effects) {
      std::visit([this](const auto& e) { perform(e); }, effect);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
  void perform(const Preempt& e) {
    ASSERT_FALSE(step_.has_value()) << "a step may read its blocks";
    Life& life = lives_.at(e.request);
    ASSERT_TRUE(life.runs);
    for (const auto& [id, other] : lives_) {
      ASSERT_TRUE(!other.runs || other.place <= life.place) << "it is not the last one";
    }
    life = {.place = life.place,
            .num_known = life.num_known,
            .ends_at = life.ends_at,
            .max_context = life.max_context};
    to_holder_.push_back({.kind = Op::kRelease, .request = e.request});
  }
  void perform(const ReserveBlocks& e) {
    Life& life = lives_.at(e.request);
    ASSERT_FALSE(life.runs);
    for (const auto& [id, other] : lives_) {
      ASSERT_TRUE(other.runs || other.pending || other.place >= life.place) << "it passes another";
    }
    ASSERT_GE(e.num_tokens, life.num_known);
    life.ask = e.ask;
    to_holder_.push_back({.kind = Op::kReserve,
                          .request = e.request,
                          .ask = e.ask,
                          .num_tokens = e.num_tokens,
                          .num_known = life.num_known});
  }
  void perform(const ExtendBlocks& e) {
    Life& life = lives_.at(e.request);
    ASSERT_TRUE(life.runs);
    ASSERT_GT(e.num_tokens, life.room);
    ASSERT_LT(e.num_tokens, life.max_context) << "the last token is never computed";
    life.ask = e.ask;
    to_holder_.push_back(
        {.kind = Op::kExtend, .request = e.request, .ask = e.ask, .num_tokens = e.num_tokens});
  }
  void perform(const RunStep& step) {
    ASSERT_FALSE(step_.has_value()) << "two steps at a time";
    ASSERT_FALSE(step.entries.empty());
    ASSERT_GT(step.step, last_step_);
    last_step_ = step.step;
    uint32_t num_tokens = 0;
    for (const StepEntry& entry : step.entries) {
      ASSERT_TRUE(lives_.contains(entry.request)) << "it left";
      Life& life = lives_[entry.request];
      ASSERT_TRUE(life.runs) << "it has no blocks";
      ASSERT_FALSE(life.in_step) << "twice in one step";
      ASSERT_FALSE(life.lacks_mask) << "its row would be computed for nothing";
      ASSERT_GT(entry.count, 0U);
      ASSERT_EQ(entry.first_position, life.num_computed) << "each position once, in order";
      const uint32_t end = entry.first_position + entry.count;
      ASSERT_LE(end, life.num_known);
      ASSERT_LE(end, life.room) << "beyond its blocks";
      ASSERT_EQ(entry.wants_token, end == life.num_known);
      life.in_step = true;
      num_tokens += entry.count;
    }
    ASSERT_LE(num_tokens, options_.max_step_tokens);
    ASSERT_LE(batcher_.num_running(), options_.max_running);
    ASSERT_NO_FATAL_FAILURE(expect_nobody_starves(step));
    step_ = step;
  }
  [[nodiscard]] bool some_score() const { return seed_ % 6 == 0 || seed_ % 6 == 5; }
  /// What batcher.hpp promises to those who could run.
  void expect_nobody_starves(const RunStep& step) {
    std::pair<RequestId, const Life*> first{};  // of the prompts
    for (const auto& [id, life] : lives_) {
      if (!life.is_prompt() || (first.second && first.second->place < life.place)) continue;
      first = {id, &life};
    }
    const auto& [id, prompt] = first;
    const auto entry = std::ranges::find(step.entries, id, &StepEntry::request);
    const bool gets_on = prompt != nullptr && prompt->in_step;
    num_waited_ = prompt == nullptr || gets_on ? 0 : num_waited_ + 1;
    longest_wait_ = std::max(longest_wait_, num_waited_);
    ASSERT_LE(num_waited_, Batcher::kMaxRepaying) << "request " << id.value << " starves";
    const bool decodes = std::ranges::any_of(
        step.entries, [&](const StepEntry& e) { return lives_.at(e.request).decoding; });
    // What rows cost, but for those that are scored: that nobody can see here.
    const auto cost = [&](const StepEntry& rows) {
      const auto attended = [&](uint64_t position) {
        const uint32_t span = options_.attention_span;
        return decodes && span > 0 ? position * (position - 1) / 2 / span : 0;
      };
      const uint64_t first = rows.first_position, end = first + rows.count;
      return rows.count + attended(end) - attended(first);
    };
    uint64_t all = 0;
    for (const StepEntry& other : step.entries) {
      all += lives_.at(other.request).decoding ? 0 : cost(other);
    }
    if (gets_on && !some_score() && !entry->wants_token) {
      const uint64_t one_more =
          cost({.first_position = entry->first_position, .count = entry->count + 1});
      ASSERT_GE(2 * (one_more - 1), all) << "less than its half";
    }
    for (const auto& [other, life] : lives_) {
      if (!life.could_decode() || life.in_step) continue;
      ++num_passed_;
      ASSERT_TRUE(gets_on && entry->wants_token && prompt->place < life.place)
          << "request " << other.value << " is left out";
    }
  }

  uint64_t seed_, draws_ = 0, num_finished_ = 0, num_arrived_ = 0, num_events_ = 0;
  uint64_t num_passed_ = 0;
  uint32_t num_waited_ = 0, longest_wait_ = 0;
  BatcherOptions options_;
  Batcher batcher_;
  BatcherTwin twin_;
  uint32_t free_, pool_;
  std::map<RequestId, Life> lives_;
  std::map<RequestId, uint32_t> held_;
  std::deque<Op> to_holder_;
  std::deque<BatcherEvent> to_batcher_;
  std::vector<RequestId> released_;  // when the step is done
  std::optional<RunStep> step_;
  StepId last_step_;
};

/// Of one seed and one set of options; a million in all. TROUPE_RANDOM_EVENTS makes it longer.
uint64_t num_events() {
  const char* wanted = std::getenv("TROUPE_RANDOM_EVENTS");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 50'000;
}

/// What those who run have to share.
enum class Scarce : uint8_t { kNothing, kBlocks, kTime };
struct Case {
  const char* name;
  Scarce scarce;
  BatcherOptions options;
  uint32_t pool_blocks = 15;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

class RandomBatcherTest : public ::testing::TestWithParam<Case> {};

TEST_P(RandomBatcherTest, ComputesEveryPositionOnceInOrderAndEndsEveryRequest) {
  const BatcherOptions& options = GetParam().options;
  uint32_t longest_wait = 0;
  uint64_t num_preempted = 0, num_passed = 0;
  const auto run = [&](uint64_t seed) {
    RandomShell shell(seed, options, GetParam().pool_blocks);
    const auto act = [&] {
      switch (shell.draw(16)) {
        case 0: return shell.arrive();
        case 1: return shell.draw(8) == 0 ? shell.leave_any() : shell.arrive();
        case 2:
        case 3:
        case 4: return shell.holder_acts();
        case 5:
        case 6:
        case 7: return shell.holder_answers();
        case 8: return shell.mask_comes();
        default: return shell.finish_step();
      }
    };
    while (shell.num_events() < num_events()) {
      ASSERT_NO_FATAL_FAILURE(act()) << "event " << shell.num_events();
    }
    EXPECT_GT(shell.num_finished(), 100U);
    longest_wait = std::max(longest_wait, shell.longest_wait());
    num_preempted += shell.num_preempted();
    num_passed += shell.num_passed();
    // Liveness: without arrivals all that is here comes to its end.
    for (int i = 0; i < 100'000 && shell.num_live() > 0; ++i) {
      ASSERT_NO_FATAL_FAILURE(shell.holder_acts());
      ASSERT_NO_FATAL_FAILURE(shell.holder_answers());
      ASSERT_NO_FATAL_FAILURE(shell.mask_comes());
      ASSERT_NO_FATAL_FAILURE(shell.finish_step());
    }
    EXPECT_EQ(shell.num_live(), 0U) << "somebody waits for ever";
  };
  for_each_seed(6, run, 1);
  if (!usual_seeds()) return;
  switch (GetParam().scarce) {
    case Scarce::kNothing: break;
    case Scarce::kBlocks:
      EXPECT_GE(num_preempted, 100U);
      EXPECT_GE(num_passed, 40U);
      break;
    case Scarce::kTime: EXPECT_EQ(longest_wait, Batcher::kMaxRepaying) << "they may wait longer";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Options, RandomBatcherTest,
    ::testing::Values(
        Case{"SmallSteps", Scarce::kBlocks, {.max_step_tokens = 8, .max_running = 3}},
        Case{"AllMayDecode", Scarce::kBlocks, {.max_step_tokens = 6, .max_running = 6}},
        Case{"OneAtATime", Scarce::kNothing, {.max_step_tokens = 1, .max_running = 1}},
        Case{"DeepRowsAreDear",
             Scarce::kBlocks,
             {.max_step_tokens = 32,
              .max_running = 6,
              .max_step_time = microseconds(300),
              .min_prefill_tokens = 4,
              .attention_span = 7}},
        Case{"LargeSteps", Scarce::kBlocks, {.max_step_tokens = 256, .max_running = 16}},
        Case{"PrefillMayCostNothing",
             Scarce::kTime,
             {.max_step_tokens = 16,
              .max_running = 8,
              .step = {.percent = 100, .target = {}},
              .min_prefill_tokens = 4},
             200}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace troupe::scheduler
