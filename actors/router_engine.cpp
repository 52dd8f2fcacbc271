#include "actors/router_engine.hpp"

#include <algorithm>
#include <utility>

#include "actors/step_work.hpp"
#include "base/check.hpp"

namespace troupe::actors {
namespace {

constexpr uint32_t kScoredAtOnce = 32;    // bounds the memory for logits
constexpr size_t kRowsCopiedAtOnce = 64;  // into frames, by a thread

std::optional<Result<model::SampledToken>> next_token(const StepPart& part,
                                                      std::span<const float> logits) {
  std::span<const uint64_t> mask;
  if (part.mask) {
    const NextMask::Made* made = part.mask->get();
    if (made == nullptr) return std::nullopt;
    if (!made->ok()) return made->error();
    mask = made->value();
  }
  const model::SampledToken token = model::sample(
      logits, part.sampling, part.first_position + part.tokens.size(), *part.history, mask);
  if (token.token < 0) return model::no_token_error(token.token);
  return token;
}

}  // namespace

Result<std::shared_ptr<RouterEngine>> RouterEngine::make(
    const model::ModelConfig& config, const std::shared_ptr<const model::RouterWeights>& weights,
    const kernels::Backend& backend, kernels::ThreadPool& pool, KvShape kv, AttentionForm form) {
  kernels::Memory& memory = *backend.memory;
  TRY(check_limits(config, *backend.ops));
  auto placed = TRY(place(weights, memory));
  kernels::OwnedMemory kv_blocks;
  if (!memory.is_host()) kv_blocks = TRY(kernels::allocate(memory, kv.blocks_bytes()));
  TRY(memory.finish());  // what could not be copied is an error of loading
  return std::shared_ptr<RouterEngine>(
      new RouterEngine(config, std::move(placed), backend, pool, kv, std::move(kv_blocks), form));
}

RouterEngine::RouterEngine(const model::ModelConfig& config,
                           std::shared_ptr<const PlacedRouter> weights,
                           const kernels::Backend& backend, kernels::ThreadPool& pool, KvShape kv,
                           kernels::OwnedMemory kv_blocks, AttentionForm form)
    : config_(config),
      memory_(*backend.memory),
      weights_(std::move(weights)),
      pool_(pool),
      kv_(kv, memory_, std::move(kv_blocks)),
      attention_span_(actors::attention_span(config, form)) {
  lanes_.reserve(kLanes);
  for (uint32_t i = 0; i < kLanes; ++i) {
    lanes_.push_back(
        {.forward = Forward(config, *weights_, *backend.ops, kv_, form, ExchangeRows::kOnHost)});
  }
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
  const size_t hidden = config_.hidden_size;
  lane.result_rows.assign(plan.num_results, nullptr);
  for (const GatheredFrame& answer : answers) {
    const uint32_t num_rows = answer.frame.header.num_rows;
    const float* rows = answer.frame.payload->floats();
    if (!memory_.is_host()) {
      float* here = lane.results.room<float>(memory_, plan.num_results * hidden) +
                    answer.first_result * hidden;
      memory_.copy_in(here, rows, num_rows * hidden * sizeof(float));
      rows = here;
    }
    for (uint32_t r = 0; r < num_rows; ++r) {
      lane.result_rows[answer.first_result + r] = rows + r * hidden;
    }
  }
  lane.expert_rows.clear();
  for (const uint32_t row : plan.slot_row) lane.expert_rows.push_back(lane.result_rows[row]);
  lane.forward.provide(lane.expert_rows);
  return advance(lane);
}

Segment RouterEngine::advance(Lane& lane) {
  Segment segment;
  segment.status = lane.forward.advance();
  if (segment.status == Forward::Status::kExchange) {
    const Exchange exchange = lane.forward.exchange();
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
  std::vector<const StepPart*> wanting;
  for (const StepPart& part : lane.parts) {
    if (part.wants_token) wanting.push_back(&part);
  }
  const ConstRows logits = lane.forward.logits();
  CHECK_EQ(wanting.size(), logits.rows);
  output.sampled.resize(wanting.size());
  pool_.parallel_for(wanting.size(), [&](size_t i) {
    output.sampled[i] = next_token(*wanting[i], {logits.row(i), logits.cols});
  });
  return output;
}

std::vector<model::SampledToken> RouterEngine::score(uint32_t lane_index) {
  Lane& lane = lanes_[lane_index];
  std::vector<model::SampledToken> scored;
  uint32_t first_row = 0;
  for (const StepPart& part : lane.parts) {
    const auto num_scored = static_cast<uint32_t>(part.scored.size());
    for (uint32_t i = 0; i < num_scored; i += kScoredAtOnce) {
      const ConstRows rows = lane.forward.logits_of(first_row + part.first_scored + i,
                                                    std::min(kScoredAtOnce, num_scored - i));
      const size_t before = scored.size();
      scored.resize(before + rows.rows);
      pool_.parallel_for(rows.rows, [&](size_t r) {
        scored[before + r] = model::score({rows.row(r), rows.cols}, part.scored[i + r],
                                          part.sampling.num_prompt_logprobs.value_or(0));
      });
    }
    first_row += static_cast<uint32_t>(part.tokens.size());
  }
  return scored;
}

}  // namespace troupe::actors
