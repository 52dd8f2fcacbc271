#include "actors/step_run.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "actors/instant.hpp"
#include "actors/messages.hpp"
#include "base/check.hpp"

namespace troupe::actors {
namespace {

/// The first `num_rows` rows of the part went into the piece before it: so do their scored tokens.
void cut_scored(uint32_t num_rows, StepPart& part, StepPart& piece) {
  const uint32_t before = std::min(num_rows, part.first_scored);
  const size_t num_moved = std::min<size_t>(num_rows - before, part.scored.size());
  const auto cut = part.scored.begin() + static_cast<ptrdiff_t>(num_moved);
  piece.scored.assign(part.scored.begin(), cut);
  piece.first_scored = before;
  piece.sampling.num_prompt_logprobs = part.sampling.num_prompt_logprobs;
  part.scored.erase(part.scored.begin(), cut);
  part.first_scored -= before;
}

}  // namespace

StepRun::StepRun(caf::event_based_actor* self, const WorkerServices* services,
                 std::shared_ptr<RouterEngine> engine, ShardLinks& links,
                 experts::CombineOptions options, std::function<void(StepOutput)> on_done,
                 std::function<void()> on_idle)
    : self_(self),
      services_(services),
      engine_(std::move(engine)),
      links_(links),
      options_(options),
      on_done_(std::move(on_done)),
      on_idle_(std::move(on_idle)) {}

void StepRun::begin(StepId epoch_step, std::vector<StepPart> parts, uint32_t num_batches) {
  CHECK(!out());
  CHECK(!busy());
  CHECK_LE(num_batches, RouterEngine::kLanes);
  ++life_;
  batches_.resize(num_batches);
  auto cut = cut_rows(std::move(parts), num_batches);
  for (uint32_t lane = 0; lane < num_batches; ++lane) {
    MicroBatch& batch = batches_[lane];
    batch.wire_step = StepId{epoch_step.value * RouterEngine::kLanes + lane};
    run(batch,
        [engine = engine_, lane, step = batch.wire_step, parts = std::move(cut[lane])]() mutable {
          return engine->begin(lane, step, std::move(parts));
        });
  }
  watch();
}

void StepRun::drop() {
  batches_.clear();
  ++life_;
}

/// Has a segment computed, after the last one also what is to be scored; its end comes back as a
/// message.
template <class Job>
void StepRun::run(MicroBatch& batch, Job job) {
  ++batch.num_begun;
  auto segment = std::make_shared<Segment>();
  submit(
      lane_of(batch),
      [segment, job = std::move(job), engine = engine_, lane = lane_of(batch),
       clock = &self_->clock()]() mutable {
        *segment = job();
        if (segment->status != Forward::Status::kDone) return;
        const Instant began = now(*clock);
        segment->output.scored = engine->score(lane);
        segment->output.scoring = now(*clock) - began;
      },
      [this, segment](MicroBatch& computed) { segment_done(computed, *segment); });
}

/// Runs a job of the step that is out; `then` follows unless the step is dropped meanwhile.
template <class Job, class Then>
void StepRun::submit(uint32_t lane, Job job, Then then) {
  ++num_jobs_;
  // The actor may be gone, and this with it, before the job ends: that uses only what it holds.
  services_->executor->submit([this, run_here = services_->run_here, lane, job = std::move(job),
                               then = std::move(then), me = caf::actor_cast<caf::actor>(self_),
                               life = life_]() mutable {
    job();
    send(run_here, me, JobDone{[this, lane, then, life] {
           --num_jobs_;
           if (life == life_) {
             then(batches_[lane]);
           } else if (!busy()) {
             on_idle_();
           }
         }});
  });
}

void StepRun::segment_done(MicroBatch& batch, Segment& segment) {
  if (segment.status == Forward::Status::kDone) {
    batch.done = true;
    batch.output = std::move(segment.output);
    if (!std::ranges::all_of(batches_, &MicroBatch::done)) return;
    StepOutput output;
    for (MicroBatch& ended : batches_) {
      std::ranges::move(ended.output.sampled, std::back_inserter(output.sampled));
      std::ranges::move(ended.output.scored, std::back_inserter(output.scored));
      output.scoring = output.scoring + ended.output.scoring;
    }
    batches_.clear();
    return on_done_(std::move(output));
  }
  batch.exchanging = true;
  batch.plan = std::move(segment.plan);
  batch.frames = std::move(segment.frames);
  batch.answers.clear();
  std::vector<uint64_t> frame_bytes;
  for (const transport::Frame& frame : batch.frames) {
    frame_bytes.push_back(frame.payload->size() +
                          frame.header.assignments.size() * sizeof(transport::Assignment));
  }
  batch.combine = experts::Combine(batch.plan, frame_bytes, options_);
  send_due(batch);
  batch.meanwhile_done = !segment.has_work_meanwhile;
  if (batch.meanwhile_done) return;
  const uint32_t lane = lane_of(batch);
  submit(
      lane, [engine = engine_, lane] { engine->compute_meanwhile(lane); },
      [this](MicroBatch& computed) {
        computed.meanwhile_done = true;
        resume_when_complete(computed);
      });
}

void StepRun::answer(const transport::Frame& frame) {
  const transport::FrameHeader& header = frame.header;
  const auto batch = std::ranges::find(batches_, header.step, &MicroBatch::wire_step);
  if (batch == batches_.end() || !batch->exchanging || header.layer != batch->plan.layer) return;
  if (header.kind == transport::FrameKind::kFailed) {
    return links_.fail(header.source, {Code::kUnavailable, "the shard refused a dispatch"});
  }
  if (header.kind != transport::FrameKind::kCombine) return;
  if (header.hidden != services_->checkpoint->config().hidden_size) {
    return links_.fail(header.source, {Code::kCorrupt, "an answer's rows have the wrong width"});
  }
  using Verdict = experts::Combine::Verdict;
  const auto answer = batch->combine.answered(header.source, header.num_rows, links_.credits());
  switch (answer.verdict) {
    case Verdict::kDuplicate:
    case Verdict::kUnknownShard: return;
    case Verdict::kWrongSize:
      return links_.fail(header.source, {Code::kCorrupt, "an answer has the wrong number of rows"});
    case Verdict::kTake: break;
  }
  batch->answers.push_back({answer.first_result, frame});
  for (MicroBatch& other : batches_) send_due(other);  // there is credit again
  resume_when_complete(*batch);
}

/// Sends the frames whose turn it is, first copies and repeats alike.
void StepRun::send_due(MicroBatch& batch) {
  if (!batch.exchanging) return;
  const experts::CombineEffects due = batch.combine.due(links_.credits(), now(self_));
  for (const uint32_t part : due.send) {
    links_.send(batch.plan.shards[part].shard, batch.frames[part]);
  }
  if (due.silent) {
    links_.fail(*due.silent, {Code::kDeadlineExceeded, "no answer to a dispatch in time"});
  }
}

/// In segments, no micro-batch overtakes the one before it.
void StepRun::resume_when_complete(MicroBatch& batch) {
  if (!batch.exchanging || !batch.meanwhile_done || !batch.combine.complete()) return;
  const uint32_t lane = lane_of(batch);
  if (lane > 0 && batches_[lane - 1].num_begun <= batch.num_begun) return;
  batch.exchanging = false;
  batch.frames.clear();
  run(batch, [engine = engine_, lane, plan = std::move(batch.plan),
              answers = std::move(batch.answers)] { return engine->resume(lane, plan, answers); });
  if (lane + 1 < batches_.size()) resume_when_complete(batches_[lane + 1]);
}

void StepRun::wake() {
  watching_ = false;
  if (!out()) return;
  watch();
  for (MicroBatch& batch : batches_) send_due(batch);
}

/// Looks after the step that is out, from time to time; nothing is scheduled without one.
void StepRun::watch() {
  if (watching_) return;
  watching_ = true;
  self_->delayed_send(self_, std::chrono::nanoseconds(options_.resend_after.ns / 2), Wake{});
}

std::vector<std::vector<StepPart>> cut_rows(std::vector<StepPart> parts, uint32_t count) {
  size_t num_rows = 0;
  for (const StepPart& part : parts) num_rows += part.tokens.size();
  CHECK_GE(count, 1U);
  CHECK_LE(size_t{count}, num_rows);
  std::vector<std::vector<StepPart>> batches(count);
  size_t row = 0;  // of the step
  for (StepPart& part : parts) {
    for (;;) {
      const size_t batch = row * count / num_rows;
      const size_t end_of_batch = ((batch + 1) * num_rows + count - 1) / count;
      const size_t room = end_of_batch - row;
      if (part.tokens.size() <= room) {
        row += part.tokens.size();
        batches[batch].push_back(std::move(part));
        break;
      }
      StepPart piece{.first_position = part.first_position, .block_table = part.block_table};
      const auto cut = part.tokens.begin() + static_cast<ptrdiff_t>(room);
      piece.tokens.assign(part.tokens.begin(), cut);
      part.tokens.erase(part.tokens.begin(), cut);
      part.first_position += static_cast<uint32_t>(room);
      cut_scored(static_cast<uint32_t>(room), part, piece);
      row += room;
      batches[batch].push_back(std::move(piece));
    }
  }
  return batches;
}

}  // namespace troupe::actors
