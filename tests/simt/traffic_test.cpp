// What the host asks of a device beside computing.

#include "tests/simt/traffic.hpp"

#include "actors/local_model.hpp"
#include "tests/cuda/backend.hpp"
#include "tests/simt/emulated_backend.hpp"

namespace troupe::kernels {
namespace {

using TrafficOfProducts = Cuda;

TEST_F(TrafficOfProducts, HasNoUploadOfWhatIsThereAndOneOfWhatWasOverwritten) {
  constexpr size_t kIn = 64, kOut = 16;
  ASSERT_NO_FATAL_FAILURE(start({.staging_bytes = 2048}));  // a half takes a few descriptions
  Draws draws(31);
  const StoredWeight w(DType::kBF16, kOut, kIn, draws);
  const WeightView placed = put(w.view);
  float* x = put(draws.values(kIn));
  const auto multiply = [&](float* y) {
    ops().gemm({.x = {x, 1, kIn}, .w = placed, .y = {y, 1, kOut}});
    return traffic_of(memory()).uploads;
  };
  float* y = room<float>(kOut);
  const uint64_t first = multiply(y);
  EXPECT_EQ(multiply(y), first);
  const std::vector<float> want = get(y, kOut);
  uint64_t last = first;
  for (int others = 0; others < 20; ++others) last = multiply(room<float>(kOut));
  EXPECT_GE(last, first + 20) << "of other rows";
  const std::vector<float> nothing(kOut);
  memory().copy_in(y, nothing.data(), kOut * sizeof(float));
  EXPECT_GT(multiply(y), last);
  expect_same_numbers(want, get(y, kOut));
}

using TrafficOfLaunches = Cuda;

TEST_F(TrafficOfLaunches, BeginsAtOnceButInASectionWithACopyStartOrFinish) {
  float* x = put(std::vector<float>(4, 1.0F));
  float* y = put(std::vector<float>(4, 2.0F));
  uint64_t seen = traffic_of(memory()).launches;
  const auto new_launches = [&] {
    const uint64_t before = std::exchange(seen, traffic_of(memory()).launches);
    return seen - before;
  };
  const auto add = [&] { ops().add({.x = {x, 1, 4}, .y = {y, 1, 4}}); };
  add();
  EXPECT_EQ(new_launches(), 1U);
  memory().begin_section(this, 0);
  add();
  EXPECT_EQ(new_launches(), 0U);
  memory().start();
  EXPECT_EQ(new_launches(), 1U);
  add();
  EXPECT_EQ(new_launches(), 1U) << "after start()";
  memory().begin_section(this, 0);
  add();
  EXPECT_EQ(new_launches(), 0U);
  memory().copy(y, x, sizeof(float));  // y[0] is 9
  EXPECT_EQ(new_launches(), 1U);
  add();
  memory().begin_section(this, 1);
  EXPECT_EQ(new_launches(), 1U);
  add();
  EXPECT_EQ(get(x, 1), std::vector<float>{27});
  EXPECT_EQ(new_launches(), 1U);
  add();
  EXPECT_EQ(new_launches(), 1U) << "after finish()";
  memory().begin_section(this, 2);
  for (int i = 0; i < 1000; ++i) add();
  EXPECT_GT(new_launches(), 900U) << "kept back without bounds";
}

}  // namespace
}  // namespace troupe::kernels

namespace troupe::actors {
namespace {

using kernels::Traffic;

constexpr uint32_t kSequences = 4;

/// One token of each of so many sequences.
Traffic of_decode_step(LocalModel& model, const kernels::Memory& memory, uint32_t position,
                       uint32_t num_sequences) {
  std::vector<TokenId> tokens;
  for (uint32_t s = 0; s < num_sequences; ++s) {
    tokens.push_back(static_cast<TokenId>(3 + 7 * s + position));
  }
  std::vector<StepSequence> sequences;
  for (uint32_t s = 0; s < num_sequences; ++s) {
    sequences.push_back({.tokens = {&tokens[s], 1},
                         .first_position = position,
                         .block_table = model.block_table(s),
                         .num_logits = 1});
  }
  const Traffic before = traffic_of(memory);
  model.step(sequences);
  const Traffic after = traffic_of(memory);
  return {.launches = after.launches - before.launches,
          .graphs = after.graphs - before.graphs,
          .changes = after.changes - before.changes,
          .built = after.built - before.built,
          .uploads = after.uploads - before.uploads,
          .uploaded_bytes = after.uploaded_bytes - before.uploaded_bytes,
          .copies = after.copies - before.copies};
}

class TrafficOfSteps : public testing::Test {
 protected:
  void load(const kernels::EmulatedDevice& device, kernels::CudaOptions options) {
    options.workspace_bytes = size_t{16} << 20U;
    const auto checkpoint =
        model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/models/demo");
    ASSERT_TRUE(checkpoint.ok());
    auto backend = kernels::make_emulated_backend(options, device);
    ASSERT_TRUE(backend.ok());
    memory_ = backend->memory.get();
    auto model = LocalModel::load(*checkpoint, {.max_context = 48, .num_sequences = kSequences},
                                  std::move(*backend));
    ASSERT_TRUE(model.ok());
    model_ = std::move(*model);
  }
  Traffic step(uint32_t position, uint32_t num_sequences = kSequences) {
    const Traffic traffic = of_decode_step(*model_, *memory_, position, num_sequences);
    RecordProperty("step_" + std::to_string(position),
                   std::to_string(traffic.launches) + " launches, " +
                       std::to_string(traffic.graphs) + " graphs, " +
                       std::to_string(traffic.changes) + " changes, " +
                       std::to_string(traffic.uploads) + " uploads, " +
                       std::to_string(traffic.copies) + " copies");
    return traffic;
  }

  std::unique_ptr<LocalModel> model_;
  const kernels::Memory* memory_ = nullptr;
};

// The figures of these tests are those of docs/gpu.md.
TEST_F(TrafficOfSteps, IsWhatChangedSinceTheLastOne) {
  ASSERT_NO_FATAL_FAILURE(load({}, {.graphs = false}));
  const Traffic first = step(0);
  EXPECT_GT(first.uploads, first.launches / 3);
  for (uint32_t position = 1; position < 6; ++position) {
    const Traffic traffic = step(position);
    // Tokens, positions, chosen experts; places of KV and what is visible of it in each layer.
    EXPECT_LT(traffic.uploads, first.uploads / 2) << position;
    EXPECT_LT(traffic.uploaded_bytes, first.uploaded_bytes / 2) << position;
    EXPECT_EQ(traffic.launches, 130U) << position;
    EXPECT_LE(traffic.uploads, 18U) << position;
    EXPECT_EQ(traffic.copies, 7U) << position;
    EXPECT_EQ(traffic.graphs + traffic.built, 0U) << position;
  }
}

TEST_F(TrafficOfSteps, IsAGraphForEachLayerAndWhatChangedInIt) {
  ASSERT_NO_FATAL_FAILURE(load({}, {}));
  EXPECT_EQ(step(0).graphs, 0U);
  EXPECT_GT(step(1).built, 0U);
  for (uint32_t position = 2; position < 6; ++position) {
    const Traffic traffic = step(position);
    EXPECT_EQ(traffic.graphs, 10U) << position;
    EXPECT_EQ(traffic.launches, 1U) << position;
    EXPECT_EQ(traffic.copies, 7U) << position;
    EXPECT_EQ(traffic.changes, 31U) << position;
    EXPECT_EQ(traffic.uploads, 8U) << position;
    EXPECT_EQ(traffic.built, 0U) << position;
  }
}

TEST_F(TrafficOfSteps, IsGraphsWhateverTheNumberOfRows) {
  ASSERT_NO_FATAL_FAILURE(load({}, {}));
  step(0, 4);
  step(1, 3);
  for (uint32_t position = 2; position < 6; ++position) {
    const Traffic traffic = step(position, 1 + position % 3);
    EXPECT_GT(traffic.graphs, 0U) << position;
    EXPECT_LT(traffic.launches, 10U) << position;
  }
}

TEST_F(TrafficOfSteps, IsGraphsWhereUploadsMove) {
  ASSERT_NO_FATAL_FAILURE(load({}, {.staging_bytes = size_t{32} << 10U}));
  for (uint32_t position = 0; position < 8; ++position) {
    const Traffic traffic = step(position);
    if (position < 2) continue;
    EXPECT_GT(traffic.graphs, 5U) << position;
    EXPECT_GT(traffic.changes, 20U) << position;
  }
}

TEST_F(TrafficOfSteps, IsOneByOneWhereThereIsNoRoomForGraphs) {
  ASSERT_NO_FATAL_FAILURE(load({.has_no_room_for_graphs = true}, {}));
  step(0);
  EXPECT_EQ(step(1).built, 1U) << "or rather tried";
  for (uint32_t position = 2; position < 4; ++position) {
    const Traffic traffic = step(position);
    EXPECT_EQ(traffic.launches, 130U) << position;
    EXPECT_EQ(traffic.graphs + traffic.built, 0U) << position;
  }
}

}  // namespace
}  // namespace troupe::actors
