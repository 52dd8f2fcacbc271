// Row operations of the CUDA backend and its memory: the specification's bits, but for the norm.

#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

using CudaRows = Cuda;

TEST_F(CudaRows, NamesItsArithmeticClassByTheKindOfDevice) {
  EXPECT_EQ(ops().arithmetic_class(), "cuda-" + std::string(ops().target()) + "-bf16");
}

TEST_F(CudaRows, EmbedsTokensOfEveryFloatingForm) {
  Draws draws(711);
  const std::vector<TokenId> tokens = {0, 299, 17, 17, 128};
  for (const DType dtype : all_dtypes()) {
    const StoredWeight table(dtype, 300, 260, draws);
    std::vector<float> want(5 * 260);
    scalar().embed({.table = table.view, .tokens = tokens, .out = {want.data(), 5, 260}});
    float* out = room<float>(5 * 260);
    ops().embed({.table = put(table.view), .tokens = tokens, .out = {out, 5, 260}});
    ASSERT_EQ(bit_difference(want, get(out, want.size())), "");
  }
}

TEST_F(CudaRows, NormsRowsInPlaceWithinARounding) {
  Draws draws(712);
  for (const size_t n : {1, 31, 512, 1537}) {
    const std::vector<float> x = draws.values(3 * n);
    const std::vector<float> weight = draws.values(n);
    std::vector<float> want(3 * n);
    scalar().rms_norm(
        {.x = {x.data(), 3, n}, .weight = weight.data(), .eps = 1e-6F, .out = {want.data(), 3, n}});
    float* rows = put(x);
    const float* weight_device = put(weight);
    ops().rms_norm({.x = {rows, 3, n}, .weight = weight_device, .eps = 1e-6F, .out = {rows, 3, n}});
    const std::vector<float> got = get(rows, 3 * n);
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], 1e-6 * std::abs(want[i])) << n << " " << i;
    }
    float* alone = put(&x[2 * n], n);
    ops().rms_norm(
        {.x = {alone, 1, n}, .weight = weight_device, .eps = 1e-6F, .out = {alone, 1, n}});
    const std::vector<float> last(got.end() - static_cast<std::ptrdiff_t>(n), got.end());
    ASSERT_EQ(bit_difference(last, get(alone, n)), "");
  }
}

TEST_F(CudaRows, RotatesTheLastElementsOfEachHead) {
  Draws draws(713);
  const size_t heads = 5, head_dim = 40, stride = 220;
  const std::vector<uint32_t> positions = {0, 1, 4095, 163839};
  std::vector<float> inv_freq;
  for (size_t i = 0; i < 16; ++i)
    inv_freq.push_back(std::pow(10000.0F, -static_cast<float>(i) / 16));
  std::vector<float> want = draws.values(4 * stride);
  float* rows = put(want);
  RopeParams p{.x = {want.data(), 4, heads * head_dim, stride},
               .num_heads = heads,
               .head_dim = head_dim,
               .dim = 32,
               .positions = positions,
               .inv_freq = inv_freq,
               .magnitude = 1.25F};
  scalar().rope(p);
  p.x.data = rows;
  ops().rope(p);
  EXPECT_EQ(bit_difference(want, get(rows, want.size())), "");
}

TEST_F(CudaRows, MultipliesActivationsAndAddsResiduals) {
  Draws draws(714);
  const size_t cols = 300;
  std::vector<float> gate = draws.values(3 * cols);
  for (size_t i = 0; i < gate.size(); i += 3) gate[i] *= 90;
  const std::vector<float> up = draws.values(3 * cols);
  std::vector<float> want(3 * cols);
  scalar().silu_mul(
      {.gate = {gate.data(), 3, cols}, .up = {up.data(), 3, cols}, .out = {want.data(), 3, cols}});
  scalar().add({.x = {want.data(), 3, cols}, .y = {up.data(), 3, cols}});
  float* out = put(gate);
  const float* up_device = put(up);
  ops().silu_mul({.gate = {out, 3, cols}, .up = {up_device, 3, cols}, .out = {out, 3, cols}});
  ops().add({.x = {out, 3, cols}, .y = {up_device, 3, cols}});
  EXPECT_EQ(bit_difference(want, get(out, want.size())), "");
}

TEST_F(CudaRows, CombinesSlotsInOrderThenSharedThenTheResidual) {
  Draws draws(715);
  const size_t rows = 4, cols = 270, topk = 6;
  const std::vector<float> expert_rows = draws.values(9 * cols);
  const std::vector<float> shared = draws.values(rows * cols);
  const std::vector<float> weights = draws.values(rows * topk);
  const float* on_device = put(expert_rows);
  std::vector<const float*> slots, slots_on_device;
  for (size_t i = 0; i < rows * topk; ++i) {
    const size_t at = draws.below(9) * cols;
    slots.push_back(expert_rows.data() + at);
    slots_on_device.push_back(on_device + at);
  }
  for (const bool with_shared : {true, false}) {
    std::vector<float> want = draws.values(rows * cols);
    float* residual = put(want);
    CombineParams p{.expert_rows = slots.data(),
                    .topk_weight = weights.data(),
                    .topk = topk,
                    .residual = {want.data(), rows, cols}};
    if (with_shared) p.shared = {shared.data(), rows, cols};
    scalar().combine(p);
    p.expert_rows = slots_on_device.data();
    p.topk_weight = put(weights);
    p.residual.data = residual;
    if (with_shared) p.shared.data = put(shared);
    ops().combine(p);
    EXPECT_EQ(bit_difference(want, get(residual, want.size())), "");
  }
}

TEST_F(CudaRows, MovesRowsInAnyOrderAndCopiesThemWithStrides) {
  Draws draws(716);
  const std::vector<float> x = draws.values(6 * 70);
  const float* from = put(x);
  float* copied = put(std::vector<float>(3 * 90, 0.0F));
  memory().copy_rows({copied + 5, 3, 60, 90}, {from + 10, 3, 60, 140});
  std::vector<float> want(3 * 90);
  for (size_t r = 0; r < 3; ++r) {
    for (size_t c = 0; c < 60; ++c) want[5 + r * 90 + c] = x[10 + r * 140 + c];
  }
  EXPECT_EQ(bit_difference(want, get(copied, want.size())), "");

  float* to = room<float>(2 * 70);
  const std::vector<const float*> sources = {from + 5 * 70, from + 2 * 70};
  memory().move_rows(sources, std::vector<void*>{to + 70, to}, 70);
  const std::vector<float> moved = get(to, 2 * 70);
  for (size_t c = 0; c < 70; ++c) {
    EXPECT_EQ(moved[70 + c], x[5 * 70 + c]);
    EXPECT_EQ(moved[c], x[2 * 70 + c]);
  }
}

TEST_F(CudaRows, KvIsStoredAsTheBlocksHaveIt) {
  Draws draws(717);
  std::vector<float> x = draws.values(2 * 70);
  x[3] = std::numeric_limits<float>::max();  // rounds to infinity
  float* wide = room<float>(2 * 70);
  uint16_t* narrow = room<uint16_t>(2 * 70);
  const ConstRows rows(put(x), 2, 70);
  ops().store_kv({.x = rows, .out = std::vector<void*>{wide + 70, wide}});
  ops().store_kv(
      {.x = rows, .kv_dtype = DType::kBF16, .out = std::vector<void*>{narrow + 70, narrow}});
  const std::vector<float> floats = get(wide, 2 * 70);
  const std::vector<uint16_t> halves = get(narrow, 2 * 70);
  for (size_t c = 0; c < 70; ++c) {
    EXPECT_EQ(floats[70 + c], x[c]);
    EXPECT_EQ(floats[c], x[70 + c]);
    EXPECT_EQ(halves[70 + c], to_bf16(x[c]));
    EXPECT_EQ(halves[c], to_bf16(x[70 + c]));
  }
}

}  // namespace
}  // namespace troupe::kernels
