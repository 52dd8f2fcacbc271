// What the host asks of a device beside computing.

#include "tests/simt/traffic.hpp"

#include "actors/local_model.hpp"
#include "tests/cuda/backend.hpp"

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

}  // namespace
}  // namespace troupe::kernels

namespace troupe::actors {
namespace {

using kernels::Traffic;

constexpr uint32_t kSequences = 4;

/// One token of each sequence.
Traffic of_decode_step(LocalModel& model, const kernels::Memory& memory, uint32_t position) {
  const TokenId token = 3 + static_cast<TokenId>(position);
  std::vector<StepSequence> sequences;
  for (uint32_t s = 0; s < kSequences; ++s) {
    sequences.push_back({.tokens = {&token, 1},
                         .first_position = position,
                         .block_table = model.block_table(s),
                         .num_logits = 1});
  }
  const Traffic before = traffic_of(memory);
  model.step(sequences);
  const Traffic after = traffic_of(memory);
  return {.launches = after.launches - before.launches,
          .uploads = after.uploads - before.uploads,
          .uploaded_bytes = after.uploaded_bytes - before.uploaded_bytes,
          .copies = after.copies - before.copies};
}

TEST(Traffic, OfADecodeStepIsWhatChangedSinceTheLastOne) {
  const auto checkpoint = model::Checkpoint::open(std::string(TROUPE_SOURCE_DIR) + "/models/demo");
  ASSERT_TRUE(checkpoint.ok());
  auto backend = kernels::make_test_backend({.workspace_bytes = size_t{16} << 20U});
  ASSERT_TRUE(backend.ok());
  const kernels::Memory& memory = *backend->memory;
  auto model = LocalModel::load(*checkpoint, {.max_context = 48, .num_sequences = kSequences},
                                std::move(*backend));
  ASSERT_TRUE(model.ok());
  const Traffic first = of_decode_step(**model, memory, 0);
  EXPECT_GT(first.uploads, first.launches / 3);
  for (uint32_t position = 1; position < 6; ++position) {
    const Traffic step = of_decode_step(**model, memory, position);
    // Tokens, positions, chosen experts; places of KV and what is visible of it in each layer.
    EXPECT_LT(step.uploads, first.uploads / 2) << position;
    EXPECT_LT(step.uploaded_bytes, first.uploaded_bytes / 3) << position;
    // The figures of docs/gpu.md.
    EXPECT_EQ(step.launches, 126U) << position;
    EXPECT_LE(step.uploads, 13U) << position;
    EXPECT_EQ(step.copies, 11U) << position;
    RecordProperty("step_" + std::to_string(position),
                   std::to_string(step.launches) + " launches, " + std::to_string(step.uploads) +
                       " uploads, " + std::to_string(step.copies) + " copies");
  }
}

}  // namespace
}  // namespace troupe::actors
