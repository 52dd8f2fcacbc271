// What an expert shard's actor does with dispatches that it cannot compute, and with answers that
// its links do not take. The test plays the scheduler, the executor and the router's link.

#include "actors/expert_shard_actor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>

#include "actors/messages.hpp"
#include "kernels/backend.hpp"
#include "tests/kernels/other_memory.hpp"
#include "tests/support/requests.hpp"
#include "tests/support/virtual_process.hpp"

namespace troupe::actors {
namespace {

using testing::HasSubstr;
using testing::SizeIs;
using transport::FrameKind;

constexpr NodeId kSelf{1}, kOtherShard{2}, kRouter{11};
constexpr ExpertIdx kHeld = 0, kNotHeld = 1;

struct HeldJobs final : Executor {
  void submit(std::function<void()> job) override { jobs.push_back(std::move(job)); }
  void run() {
    while (!jobs.empty()) {
      jobs.front()();
      jobs.pop_front();
    }
  }
  std::deque<std::function<void()>> jobs;
};

/// Keeps what is sent, or refuses it.
class ScriptedLink final : public transport::Link {
 public:
  Result<void> send(transport::Frame frame) override {
    if (refusal) return *refusal;
    sent.push_back(std::move(frame));
    return {};
  }
  Result<transport::EncodedFrame> encode(transport::Frame) const override { return kNotUsed; }
  Result<void> send_encoded(transport::EncodedFrame) override { return kNotUsed; }
  void close() override { refusal = Error{Code::kUnavailable, "closed"}; }
  [[nodiscard]] transport::LinkStats stats() const override { return {}; }

  std::vector<transport::Frame> sent;
  std::optional<Error> refusal;

 private:
  inline static const Error kNotUsed{Code::kUnsupported, "a shard sends whole frames"};
};

struct ScriptedPort final : transport::Port {
  [[nodiscard]] std::string address() const override { return "scripted"; }
  Result<std::shared_ptr<transport::Link>> connect(NodeId, const std::string&) override {
    links.push_back(std::make_shared<ScriptedLink>());
    return std::shared_ptr<transport::Link>(links.back());
  }
  [[nodiscard]] transport::PortStats stats() const override { return {}; }
  std::vector<std::shared_ptr<ScriptedLink>> links;
};

/// The host's, of which a test says how much is left.
struct LittleMemory : kernels::OtherMemory {
  bool is_host() const override { return true; }
};

class ExpertShardActor : public testing::Test {
 protected:
  explicit ExpertShardActor(const std::string& model_name = "v3-groups")
      : checkpoint_(model::Checkpoint::open(golden_model(model_name)).value()) {
    const model::ModelConfig& model = checkpoint_.config();
    while (!model.is_moe_layer(layer_)) ++layer_;
    scheduler_ = process_.system().spawn([this]() -> caf::behavior {
      return {[this](const NodeFailedReport& report) { failures_.push_back(report); },
              [](const NodeReadyReport&) {}, [](const ExpertLoadReport&) {}};
    });
    shard_ = process_.system().spawn(expert_shard_actor, &services_, scheduler_,
                                     experts::ShardOptions{.max_queued_rows = 4});
    form(Epoch{1});
  }
  ~ExpertShardActor() override {
    for (const caf::actor& actor : {shard_, scheduler_}) {
      caf::anon_send_exit(actor, caf::exit_reason::kill);
    }
    settle();
  }

  Result<uint64_t>& memory_left() { return static_cast<LittleMemory&>(*backend_.memory).left; }

  void settle() { process_.coordinator().run(); }
  template <class Message>
  void tell(Message message) {
    caf::anon_send(shard_, std::move(message));
    settle();
  }
  void run_jobs() {
    executor_.run();
    settle();
  }

  /// An epoch in which this shard holds the experts of even numbers.
  void announce(Epoch epoch) {
    const model::ModelConfig& model = checkpoint_.config();
    experts::Placement placement{
        .epoch = epoch, .num_layers = model.num_layers, .num_experts = model.num_routed_experts};
    for (LayerIdx layer = 0; layer < model.num_layers; ++layer) {
      for (ExpertIdx expert = 0; expert < model.num_routed_experts; ++expert) {
        placement.holders.emplace_back();
        if (!model.is_moe_layer(layer)) continue;
        placement.holders.back().push_back(expert % 2 == 0 ? kSelf : kOtherShard);
      }
    }
    epoch_ = epoch;
    tell(FormEpochRequest{.placement = std::move(placement),
                          .routers = {{kRouter, "router-0", "there"}}});
  }
  void form(Epoch epoch) {
    announce(epoch);
    run_jobs();
    link().sent.clear();  // it has said that it is there
  }
  ScriptedLink& link() { return *port_.links.back(); }

  void dispatch(uint64_t step, ExpertIdx expert, uint32_t num_rows = 1) {
    dispatch(step, expert, num_rows, checkpoint_.config().hidden_size);
  }
  void dispatch(uint64_t step, ExpertIdx expert, uint32_t num_rows, uint32_t hidden) {
    tell(FrameArrived{dispatch_frame(step, expert, num_rows, hidden)});
  }
  transport::Frame dispatch_frame(uint64_t step, ExpertIdx expert, uint32_t num_rows,
                                  uint32_t hidden) const {
    transport::Frame frame{.header = {.kind = FrameKind::kDispatch,
                                      .epoch = epoch_,
                                      .source = kRouter,
                                      .step = StepId{step},
                                      .layer = layer_,
                                      .attempt = 3,
                                      .num_rows = num_rows,
                                      .hidden = hidden}};
    const auto rows = transport::Buffer::allocate(size_t{num_rows} * hidden * sizeof(float));
    for (size_t i = 0; i < size_t{num_rows} * hidden; ++i) rows->floats()[i] = 0.5F;
    for (uint32_t row = 0; row < num_rows; ++row) frame.header.assignments.push_back({row, expert});
    frame.payload = rows;
    return frame;
  }

  VirtualProcess process_{/*networked=*/false, Instant{seconds(1).ns}};
  model::Checkpoint checkpoint_;
  kernels::Backend backend_{.memory = std::make_unique<LittleMemory>(),
                            .ops = kernels::make_cpu_ops(nullptr)};
  HeldJobs executor_;
  ScriptedPort port_;
  WorkerServices services_{.self = kSelf,
                           .checkpoint = &checkpoint_,
                           .backend = &backend_,
                           .executor = &executor_,
                           .background = &executor_,
                           .port = &port_};
  caf::actor scheduler_, shard_;
  LayerIdx layer_ = 0;
  Epoch epoch_;
  std::vector<NodeFailedReport> failures_;
};

/// Its experts have scales, which are copied.
struct Fp8ShardActor : ExpertShardActor {
  Fp8ShardActor() : ExpertShardActor("v3-fp8") {}
};

TEST_F(Fp8ShardActor, RefusesExpertsForWhoseCopiesThereIsNoMemory) {
  memory_left() = 0U;
  form(Epoch{2});
  EXPECT_THAT(failures_, SizeIs(0)) << "it holds them already";
  tell(FormEpochRequest{.placement = {.epoch = Epoch{3}}});
  run_jobs();
  EXPECT_THAT(failures_, SizeIs(0)) << "none need none";
  form(Epoch{4});
  ASSERT_THAT(failures_, SizeIs(1));
  EXPECT_EQ(failures_[0].node, kSelf);
  EXPECT_EQ(failures_[0].error.code, Code::kResourceExhausted);
  EXPECT_THAT(failures_[0].error.message, HasSubstr("experts need"));
  EXPECT_THAT(failures_[0].error.message, HasSubstr("more expert shards"));
  memory_left() = 1U << 20U;
  form(Epoch{5});
  EXPECT_THAT(failures_, SizeIs(1));
}

TEST_F(ExpertShardActor, MapsExpertsWithoutAnyMemoryForCopies) {
  memory_left() = 0U;
  tell(FormEpochRequest{.placement = {.epoch = Epoch{2}}});
  run_jobs();
  form(Epoch{3});
  EXPECT_THAT(failures_, SizeIs(0));
}

TEST_F(ExpertShardActor, AnswersADispatchWithItsRowsWhenTheyAreComputed) {
  dispatch(5, kHeld, 2);
  EXPECT_THAT(link().sent, SizeIs(0));
  executor_.run();
  ASSERT_THAT(link().sent, SizeIs(1)) << "by the job itself";
  const transport::FrameHeader& header = link().sent[0].header;
  EXPECT_EQ(header.kind, FrameKind::kCombine);
  EXPECT_EQ(header.num_rows, 2U);
  EXPECT_EQ(header.step, StepId{5});
  settle();
  EXPECT_THAT(failures_, SizeIs(0));
}

TEST_F(ExpertShardActor, ComputesOneBatchAfterTheOtherWithoutAThreadOfCafs) {
  RunHere run_here(process_.system());
  services_.run_here = &run_here;
  const transport::PortOptions port = port_options_for(kSelf, 0, shard_, &run_here);
  const uint32_t hidden = checkpoint_.config().hidden_size;
  for (const uint64_t step : {5, 6}) port.on_frame(dispatch_frame(step, kHeld, 1, hidden));
  ASSERT_THAT(executor_.jobs, SizeIs(1)) << "the second waits for the first";
  executor_.run();
  ASSERT_THAT(link().sent, SizeIs(2));
  EXPECT_EQ(link().sent[0].header.step, StepId{5});
  EXPECT_EQ(link().sent[1].header.step, StepId{6});
}

TEST_F(ExpertShardActor, MayBeGoneWhenAJobOfItEnds) {  // for AddressSanitizer
  RunHere run_here(process_.system());
  services_.run_here = &run_here;
  dispatch(5, kHeld);
  caf::anon_send_exit(shard_, caf::exit_reason::kill);
  settle();
  run_jobs();
  EXPECT_THAT(link().sent, SizeIs(1)) << "from the thread that computed";
}

TEST_F(ExpertShardActor, SaysAtOnceThatADispatchFailsWhichItCannotCompute) {
  dispatch(5, kNotHeld);
  dispatch(6, kHeld, 1, checkpoint_.config().hidden_size + 1);
  dispatch(7, kHeld, 1);  // begins at once
  dispatch(8, kHeld, 4);  // waits, and nothing has room beside it
  dispatch(9, kHeld, 1);
  ASSERT_THAT(link().sent, SizeIs(3));
  for (size_t i = 0; i < 3; ++i) {
    const transport::FrameHeader& header = link().sent[i].header;
    EXPECT_EQ(header.kind, FrameKind::kFailed);
    EXPECT_EQ(header.epoch, epoch_);
    EXPECT_EQ(header.step, StepId{(std::vector<uint64_t>{5, 6, 9})[i]});
    EXPECT_EQ(header.layer, layer_);
    EXPECT_EQ(header.attempt, 3U);
    EXPECT_EQ(header.num_rows, 0U);
    EXPECT_EQ(link().sent[i].payload, nullptr);
  }
  link().sent.clear();
  while (!executor_.jobs.empty()) run_jobs();
  ASSERT_THAT(link().sent, SizeIs(2)) << "the others are computed all the same";
  EXPECT_EQ(link().sent[0].header.step, StepId{7});
  EXPECT_EQ(link().sent[1].header.step, StepId{8});
  EXPECT_THAT(failures_, SizeIs(0));
}

TEST_F(ExpertShardActor, TellsTheSchedulerOfARouterThatAnAnswerDoesNotReach) {
  dispatch(5, kHeld);
  link().refusal = Error{Code::kResourceExhausted, "9 bytes are already queued"};
  run_jobs();
  ASSERT_THAT(failures_, SizeIs(1));
  EXPECT_EQ(failures_[0].node, kRouter);
  EXPECT_EQ(failures_[0].epoch, epoch_);
  EXPECT_EQ(failures_[0].error.code, Code::kResourceExhausted);
  EXPECT_THAT(failures_[0].error.message,
              HasSubstr("answering a dispatch: 9 bytes are already queued"));
  link().refusal.reset();
  dispatch(6, kHeld);
  run_jobs();
  ASSERT_THAT(link().sent, SizeIs(1)) << "it is free for the next batch";
  EXPECT_EQ(link().sent[0].header.step, StepId{6});
}

TEST_F(ExpertShardActor, TellsTheSchedulerOfARouterThatARefusalDoesNotReach) {
  link().refusal = Error{Code::kUnavailable, "gone"};
  dispatch(5, kNotHeld);
  ASSERT_THAT(failures_, SizeIs(1));
  EXPECT_EQ(failures_[0].node, kRouter);
  EXPECT_THAT(failures_[0].error.message, HasSubstr("answering a dispatch: gone"));
}

TEST_F(ExpertShardActor, SaysNothingOfAnAnswerThatNobodyAwaitsAnyMore) {
  dispatch(5, kHeld);
  tell(EpochEnded{epoch_});
  run_jobs();
  EXPECT_THAT(failures_, SizeIs(0)) << "the link was closed with its epoch";

  form(Epoch{2});
  dispatch(5, kHeld);
  tell(LinkDown{kRouter, {Code::kUnavailable, "cut"}});
  ASSERT_THAT(failures_, SizeIs(1)) << "of the link";
  run_jobs();
  EXPECT_THAT(failures_, SizeIs(1)) << "not of the answer again";

  form(Epoch{3});
  dispatch(5, kHeld);
  announce(Epoch{4});  // the router is linked anew before the answer of epoch 3 is computed
  const size_t num_before = link().sent.size();
  run_jobs();
  EXPECT_THAT(failures_, SizeIs(1));
  EXPECT_THAT(link().sent, SizeIs(num_before)) << "nor does it go to the new link";
}

}  // namespace
}  // namespace troupe::actors
