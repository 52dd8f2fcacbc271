// The gate of the CUDA backend chooses as the specification does, to the bit, whatever the logits.

#include <limits>

#include "tests/cuda/backend.hpp"

namespace troupe::kernels {
namespace {

struct GateCase {
  std::string name;
  GateMethod method;
  size_t experts, groups, topk_groups, topk;
  bool normalize;
};

class CudaGate : public Cuda, public testing::WithParamInterface<GateCase> {
 protected:
  void expect_same_choice(const std::vector<float>& logits, const std::vector<float>& bias) {
    const GateCase& c = GetParam();
    const size_t rows = logits.size() / c.experts;
    std::vector<ExpertIdx> idx(rows * c.topk);
    std::vector<float> weight(rows * c.topk);
    TopkGateParams p{.logits = {logits.data(), rows, c.experts},
                     .bias = bias.empty() ? nullptr : bias.data(),
                     .method = c.method,
                     .num_groups = c.groups,
                     .topk_groups = c.topk_groups,
                     .topk = c.topk,
                     .normalize = c.normalize,
                     .scale = 2.5F,
                     .topk_idx = idx.data(),
                     .topk_weight = weight.data()};
    scalar().topk_gate(p);
    p.logits.data = put(logits);
    if (p.bias != nullptr) p.bias = put(bias);
    p.topk_idx = room<ExpertIdx>(idx.size());
    p.topk_weight = room<float>(weight.size());
    ops().topk_gate(p);
    EXPECT_EQ(get(p.topk_idx, idx.size()), idx);
    EXPECT_EQ(bit_difference(weight, get(p.topk_weight, weight.size())), "");
  }
};

TEST_P(CudaGate, ChoosesAsTheSpecification) {
  Draws draws(721);
  const GateCase& c = GetParam();
  std::vector<float> logits = draws.values(8 * c.experts);
  for (float& v : logits) v *= 6;
  for (size_t e = 0; e < c.experts; ++e) {
    logits[e] = 1;                                      // all tied
    logits[c.experts + e] = static_cast<float>(e % 3);  // many tied
    logits[2 * c.experts + e] *= 100;                   // some scores are 0
  }
  logits[3 * c.experts + 1] = std::numeric_limits<float>::quiet_NaN();
  logits[4 * c.experts + c.experts - 1] = std::numeric_limits<float>::infinity();
  expect_same_choice(logits, {});
  if (c.method == GateMethod::kNoauxTc) expect_same_choice(logits, draws.values(c.experts));
}

INSTANTIATE_TEST_SUITE_P(
    Models, CudaGate,
    testing::Values(GateCase{"V2Lite", GateMethod::kGreedy, 64, 1, 1, 6, false},
                    GateCase{"V2", GateMethod::kGroupLimitedGreedy, 160, 8, 3, 6, false},
                    GateCase{"V3", GateMethod::kNoauxTc, 256, 8, 4, 8, true},
                    GateCase{"KimiK2", GateMethod::kNoauxTc, 384, 1, 1, 8, true},
                    GateCase{"ManyGroups", GateMethod::kNoauxTc, 120, 40, 35, 40, true},
                    GateCase{"Few", GateMethod::kGreedy, 5, 1, 1, 5, true}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace troupe::kernels
