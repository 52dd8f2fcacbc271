#include "actors/router_engine.hpp"

#include <algorithm>
#include <utility>

#include "actors/step_work.hpp"
#include "base/check.hpp"
#include "base/row_sampling.hpp"
#include "model/row_sampling.hpp"

namespace troupe::actors {
namespace {

constexpr size_t kRowsCopiedAtOnce = 64;  // into frames, by a thread

uint32_t num_prompt_logprobs(const StepPart& part) {
  return part.sampling.num_prompt_logprobs.value_or(0);
}

/// Tokens before the one that is wanted.
uint64_t position_of(const StepPart& part) { return part.first_position + part.tokens.size(); }

}  // namespace

Result<std::shared_ptr<RouterEngine>> RouterEngine::make(
    const model::ModelConfig& config, const std::shared_ptr<const model::RouterWeights>& weights,
    const kernels::Backend& backend, kernels::ThreadPool& pool, KvShape kv, AttentionForm form,
    const LargestStep& largest) {
  auto ranks = Ranks::load(config, weights, backend, kv);
  if (!ranks.ok()) return no_room_for_router("weights and KV blocks", std::move(ranks).error());
  std::shared_ptr<RouterEngine> engine(
      new RouterEngine(config, std::move(*ranks), backend, pool, form));
  if (backend.memory->is_host()) return engine;
  if (auto room = engine->make_room(largest); !room.ok()) {
    return no_room_for_router("activations of the largest step", std::move(room).error());
  }
  return engine;
}

RouterEngine::RouterEngine(const model::ModelConfig& config, std::unique_ptr<Ranks> ranks,
                           const kernels::Backend& backend, kernels::ThreadPool& pool,
                           AttentionForm form)
    : config_(config),
      memory_(*backend.memory),
      sampler_(backend.sampler.get()),
      ranks_(std::move(ranks)),
      pool_(pool),
      attention_span_(actors::attention_span(config, form)) {
  lanes_.reserve(kLanes);
  for (uint32_t i = 0; i < kLanes; ++i) {
    lanes_.push_back({.forward = ParallelForward(config, *ranks_, form, ExchangeRows::kOnHost),
                      .results = std::vector<Results>(ranks_->count())});
  }
}

Result<void> RouterEngine::make_room(const LargestStep& largest) {
  for (uint32_t i = 0; i < kLanes; ++i) {
    const uint32_t num_rows = most_rows_of_lane(largest, i);
    if (num_rows == 0) continue;
    Lane& lane = lanes_[i];
    TRY(lane.forward.make_room(num_rows, std::min(largest.num_logits, num_rows),
                               std::min(kScoredAtOnce, num_rows)));
    if (!config_.has_moe_layer()) continue;
    for (size_t k = 0; k < lane.results.size(); ++k) {
      const size_t count = size_t{num_rows} * config_.num_experts_per_tok * config_.hidden_size;
      kernels::Memory& memory = (*ranks_)[k].kv.memory();
      TRY(lane.results[k].staged.reserve_on_host<float>(memory, count));
      TRY(lane.results[k].copies.reserve<float>(memory, count));
    }
  }
  return {};
}

void RouterEngine::set_epoch(std::shared_ptr<const experts::Placement> placement,
                             transport::FrameHeader prototype) {
  placement_ = std::move(placement);
  prototype_ = std::move(prototype);
}

Segment RouterEngine::begin(uint32_t lane_index, StepId step, std::vector<StepPart> parts) {
  Lane& lane = lanes_[lane_index];
  lane.step = step;
  lane.parts = std::move(parts);
  std::vector<StepSequence> sequences;
  sequences.reserve(lane.parts.size());
  for (const StepPart& part : lane.parts) {
    sequences.push_back({.tokens = part.tokens,
                         .first_position = part.first_position,
                         .block_table = part.block_table,
                         .num_logits = part.wants_token ? 1U : 0U});
  }
  lane.forward.begin(sequences);
  return advance(lane);
}

void RouterEngine::compute_meanwhile(uint32_t lane_index) {
  lanes_[lane_index].forward.compute_shared();
}

Segment RouterEngine::resume(uint32_t lane_index, const experts::DispatchPlan& plan,
                             const std::vector<GatheredFrame>& answers) {
  Lane& lane = lanes_[lane_index];
  ranks_->for_each([&](size_t rank) { provide(lane, rank, plan, answers); });
  return advance(lane);
}

void RouterEngine::provide(Lane& lane, size_t rank, const experts::DispatchPlan& plan,
                           const std::vector<GatheredFrame>& answers) {
  kernels::Memory& memory = (*ranks_)[rank].kv.memory();
  const size_t hidden = config_.hidden_size;
  Results& results = lane.results[rank];
  results.rows.assign(plan.num_results, nullptr);
  const size_t count = plan.num_results * hidden;
  float* staged = nullptr;
  float* copies = nullptr;
  if (!memory.is_host()) {
    staged = results.staged.room_on_host<float>(memory, count);
    copies = results.copies.room<float>(memory, count);
  }
  for (const GatheredFrame& answer : answers) {
    const uint32_t num_rows = answer.frame.header.num_rows;
    const float* rows = answer.frame.payload->floats();
    if (!memory.is_host()) {
      const size_t first = answer.first_result * hidden;
      std::copy_n(rows, num_rows * hidden, staged + first);
      rows = copies + first;
    }
    for (uint32_t r = 0; r < num_rows; ++r) {
      results.rows[answer.first_result + r] = rows + r * hidden;
    }
  }
  if (!memory.is_host()) memory.copy_in(copies, staged, count * sizeof(float));
  results.expert_rows.clear();
  for (const uint32_t row : plan.slot_row) results.expert_rows.push_back(results.rows[row]);
  lane.forward.of(rank).provide(results.expert_rows);
}

Segment RouterEngine::advance(Lane& lane) {
  Segment segment;
  segment.status = lane.forward.advance();
  if (segment.status == Forward::Status::kExchange) {
    const Exchange exchange = lane.forward.of(0).exchange();
    const size_t hidden = config_.hidden_size;
    segment.plan = experts::plan_dispatch(exchange.layer, exchange.topk_idx,
                                          static_cast<uint32_t>(exchange.rows.rows), exchange.topk,
                                          *placement_);
    std::vector<std::pair<const float*, float*>> copies;
    for (const experts::ShardDispatch& dispatch : segment.plan.shards) {
      transport::Frame frame{.header = prototype_};
      frame.header.step = lane.step;
      frame.header.layer = exchange.layer;
      frame.header.num_rows = static_cast<uint32_t>(dispatch.rows.size());
      frame.header.hidden = static_cast<uint32_t>(hidden);
      frame.header.assignments.reserve(dispatch.assignments.size());
      for (const experts::PlannedAssignment& work : dispatch.assignments) {
        frame.header.assignments.push_back({.row = work.row, .expert = work.expert});
      }
      auto payload = transport::Buffer::allocate(dispatch.rows.size() * hidden * sizeof(float));
      for (size_t i = 0; i < dispatch.rows.size(); ++i) {
        copies.emplace_back(exchange.rows.row(dispatch.rows[i]), payload->floats() + i * hidden);
      }
      frame.payload = std::move(payload);
      segment.frames.push_back(std::move(frame));
    }
    pool_.parallel_for((copies.size() + kRowsCopiedAtOnce - 1) / kRowsCopiedAtOnce, [&](size_t i) {
      const size_t last = std::min(copies.size(), (i + 1) * kRowsCopiedAtOnce);
      for (size_t r = i * kRowsCopiedAtOnce; r < last; ++r) {
        std::copy_n(copies[r].first, hidden, copies[r].second);
      }
    });
    segment.has_work_meanwhile = config_.num_shared_experts > 0;
    return segment;
  }
  segment.output = sample(lane);
  return segment;
}

StepOutput RouterEngine::sample(Lane& lane) {
  StepOutput output;
  std::vector<RowToChoose> rows;
  std::vector<size_t> places;  // of rows among those that want a token
  const Rows logits = lane.forward.logits();
  for (const StepPart& part : lane.parts) {
    if (!part.wants_token) continue;
    const size_t place = output.sampled.size();
    output.sampled.emplace_back();
    std::span<const uint64_t> mask;
    if (part.mask) {
      const NextMask::Made* made = part.mask->get();
      if (made == nullptr) continue;
      if (!made->ok()) {
        output.sampled.back() = made->error();
        continue;
      }
      mask = made->value();
    }
    rows.push_back({.part = &part, .logits = logits.row(place), .mask = mask});
    places.push_back(place);
  }
  CHECK_EQ(output.sampled.size(), logits.rows);
  choose(lane.forward, rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    model::SampledToken& token = *rows[i].out;
    if (token.token < 0) {
      output.sampled[places[i]] = model::no_token_error(token.token);
    } else {
      output.sampled[places[i]] = std::move(token);
    }
  }
  return output;
}

void RouterEngine::choose(ParallelForward& forward, std::vector<RowToChoose>& rows) {
  if (sampler_ != nullptr) choose_on_device(rows);
  std::vector<RowToChoose*> left;
  std::vector<const float*> logits;
  for (RowToChoose& row : rows) {
    if (row.out) continue;
    left.push_back(&row);
    logits.push_back(row.logits);
  }
  logits = forward.on_host(logits);
  pool_.parallel_for(left.size(), [&](size_t i) {
    RowToChoose& row = *left[i];
    const std::span<const float> of{logits[i], config_.vocab_size};
    row.out = row.scored ? model::score(of, *row.scored, num_prompt_logprobs(*row.part))
                         : model::sample(of, row.part->sampling, position_of(*row.part),
                                         *row.part->history, row.mask);
  });
}

void RouterEngine::choose_on_device(std::vector<RowToChoose>& rows) {
  std::vector<std::optional<RowQuestion>> questions(rows.size());
  pool_.parallel_for(rows.size(), [&](size_t i) {
    const RowToChoose& row = rows[i];
    questions[i] = row.scored
                       ? model::question_about(*row.scored, num_prompt_logprobs(*row.part))
                       : model::question_of(config_.vocab_size, row.part->sampling,
                                            position_of(*row.part), *row.part->history, row.mask);
  });
  const auto sums = std::ranges::count_if(questions, [](const auto& q) { return q && q->sums(); });
  const bool few_sums = static_cast<size_t>(sums) <= pool_.num_threads();
  std::vector<size_t> of;  // the rows asked about
  std::vector<kernels::AskedRow> asked;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!questions[i] || (few_sums && questions[i]->sums())) continue;
    of.push_back(i);
    asked.push_back({.logits = rows[i].logits, .question = &*questions[i]});
  }
  if (asked.empty()) return;
  sampler_->ask(asked, config_.vocab_size);
  finish_or_end(memory_);
  for (size_t i = 0; i < of.size(); ++i) {
    RowToChoose& row = rows[of[i]];
    const RowQuestion& question = *questions[of[i]];
    const AnsweredRow answer = sampler_->answer(i);
    row.out = row.scored ? model::conclude_score(question, answer)
                         : model::conclude(row.part->sampling, question, answer);
  }
}

std::vector<model::SampledToken> RouterEngine::score(uint32_t lane_index) {
  Lane& lane = lanes_[lane_index];
  std::vector<model::SampledToken> scored;
  uint32_t first_row = 0;
  for (const StepPart& part : lane.parts) {
    const auto num_scored = static_cast<uint32_t>(part.scored.size());
    for (uint32_t i = 0; i < num_scored; i += kScoredAtOnce) {
      const Rows logits = lane.forward.logits_of(first_row + part.first_scored + i,
                                                 std::min(kScoredAtOnce, num_scored - i));
      std::vector<RowToChoose> rows;
      for (size_t r = 0; r < logits.rows; ++r) {
        rows.push_back({.part = &part, .logits = logits.row(r), .scored = part.scored[i + r]});
      }
      choose(lane.forward, rows);
      for (RowToChoose& row : rows) scored.push_back(*std::move(row.out));
    }
    first_row += static_cast<uint32_t>(part.tokens.size());
  }
  return scored;
}

}  // namespace troupe::actors
