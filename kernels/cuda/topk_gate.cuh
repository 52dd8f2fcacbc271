#pragma once

// The gate: one warp per row, with the specification's bits (kernels/cpu/topk_gate.cpp): the same
// exp, the same 16 partial sums, the same rule for ties and NaNs. Lane l has experts l, l + 32, ...
// Limit: latency, topk passes over the scores in shared memory; a row of V3 (256 experts) takes
// 2.3 KB of it and 32 threads, so 32 rows share an SM of an A100.

#include <cmath>
#include <limits>

#include "kernels/cpu/exp.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/ops.hpp"

namespace troupe::kernels::cuda {

struct TopkGate {
  static constexpr unsigned kThreads = simt::kWarp;
  static constexpr unsigned kBlocksPerSm = 1;
  static constexpr unsigned kMaxExperts = 32 * simt::kWarp;  ///< a lane's taken ones are 32 bits
  [[nodiscard]] size_t shared_bytes() const {
    return (2 * size_t{num_experts} + num_groups + kMaxTopk) * sizeof(float) + 3 * 16;
  }

  Matrix<const float> logits;
  unsigned num_experts;
  const float* bias;  ///< or nullptr
  GateMethod method;
  unsigned num_groups;
  unsigned topk_groups;
  unsigned topk;
  bool normalize;
  float scale;
  ExpertIdx* topk_idx;
  float* topk_weight;

  SIMT_DEVICE void operator()() const {
    simt::SharedMemory memory;
    const simt::Shared<float> score = memory.take<float>(num_experts);   // gives weights
    const simt::Shared<float> choice = memory.take<float>(num_experts);  // decides
    const simt::Shared<float> group_scores = memory.take<float>(num_groups);
    const simt::Shared<float> weights = memory.take<float>(kMaxTopk);
    const float* from = logits.row(simt::block_x());
    if (method == GateMethod::kNoauxTc) {
      for (unsigned e = simt::lane(); e < num_experts; e += simt::kWarp) {
        const float s = 1.0F / (1.0F + exp_f32(-from[e]));
        score[e] = s;
        choice[e] = bias == nullptr ? s : s + bias[e];
      }
      simt::warp_barrier();
      if (topk_groups < num_groups) keep_best_groups(choice, -kInfinity, group_scores);
    } else {
      softmax(from, score);
      if (method == GateMethod::kGroupLimitedGreedy) keep_best_groups(score, 0.0F, group_scores);
      for (unsigned e = simt::lane(); e < num_experts; e += simt::kWarp) choice[e] = score[e];
    }
    simt::warp_barrier();

    const size_t first = size_t{simt::block_x()} * topk;
    uint32_t taken = 0;
    float sum = 0;
    for (unsigned s = 0; s < topk; ++s) {
      const unsigned expert = take_best(choice, num_experts, taken);
      sum += score[expert];
      if (simt::lane() == 0) {
        topk_idx[first + s] = expert;
        weights[s] = score[expert];
      }
    }
    simt::warp_barrier();
    for (unsigned s = simt::lane(); s < topk; s += simt::kWarp) {
      float weight = weights[s];
      if (normalize) weight /= sum + 1e-20F;
      topk_weight[first + s] = weight * scale;
    }
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
  static constexpr uint32_t kNone = ~0U;

  /// The index of the largest value not yet taken, ties to the lower one, NaNs last, in every lane.
  SIMT_DEVICE static unsigned take_best(const simt::Shared<float>& values, unsigned count,
                                        uint32_t& taken) {
    float best = 0;
    uint32_t at = kNone;
    for (unsigned i = simt::lane(); i < count; i += simt::kWarp) {
      if ((taken >> (i / simt::kWarp) & 1U) == 0 && better(values[i], i, best, at)) {
        best = values[i];
        at = i;
      }
    }
    for (unsigned mask = simt::kWarp / 2; mask > 0; mask /= 2) {
      const float other = simt::shuffle_xor(best, mask);
      const uint32_t other_at = simt::shuffle_xor(at, mask);
      if (better(other, other_at, best, at)) {
        best = other;
        at = other_at;
      }
    }
    if (at % simt::kWarp == simt::lane()) taken |= 1U << (at / simt::kWarp);
    return at;
  }

  SIMT_DEVICE static bool better(float a, uint32_t a_at, float b, uint32_t b_at) {
    if (a_at == kNone || b_at == kNone) return a_at != kNone;
    const bool a_nan = std::isnan(a);
    const bool b_nan = std::isnan(b);
    if (a_nan != b_nan) return b_nan;
    if (a > b || a < b) return a > b;
    return a_at < b_at;
  }

  SIMT_DEVICE void softmax(const float* from, const simt::Shared<float>& score) const {
    float maximum = -kInfinity;
    for (unsigned e = simt::lane(); e < num_experts; e += simt::kWarp) {
      maximum = from[e] > maximum ? from[e] : maximum;
    }
    for (unsigned mask = simt::kWarp / 2; mask > 0; mask /= 2) {
      const float other = simt::shuffle_xor(maximum, mask);
      maximum = other > maximum ? other : maximum;
    }
    for (unsigned e = simt::lane(); e < num_experts; e += simt::kWarp) {
      score[e] = exp_f32(from[e] - maximum);
    }
    simt::warp_barrier();
    float sum = 0;  // rule 2: lane l and l + 16 both keep partial sum l
    for (unsigned e = simt::lane() % 16; e < num_experts; e += 16) sum += score[e];
    for (unsigned mask = 8; mask > 0; mask /= 2) sum += simt::shuffle_xor(sum, mask);
    for (unsigned e = simt::lane(); e < num_experts; e += simt::kWarp) score[e] /= sum;
    simt::warp_barrier();
  }

  /// Sets the values of all groups but the best `topk_groups` to `masked`.
  SIMT_DEVICE void keep_best_groups(const simt::Shared<float>& values, float masked,
                                    const simt::Shared<float>& group_scores) const {
    const unsigned group_size = num_experts / num_groups;
    for (unsigned g = simt::lane(); g < num_groups; g += simt::kWarp) {
      float best = -kInfinity;
      float second = -kInfinity;
      for (unsigned e = g * group_size; e < (g + 1) * group_size; ++e) {
        if (values[e] > best) {
          second = best;
          best = values[e];
        } else if (values[e] > second) {
          second = values[e];
        }
      }
      group_scores[g] = method == GateMethod::kNoauxTc ? best + second : best;
    }
    simt::warp_barrier();
    uint32_t kept = 0;  // of this lane's groups
    for (unsigned i = 0; i < topk_groups; ++i) take_best(group_scores, num_groups, kept);
    for (unsigned g = simt::lane(); g < num_groups; g += simt::kWarp) {
      if ((kept >> (g / simt::kWarp) & 1U) != 0) continue;
      for (unsigned e = g * group_size; e < (g + 1) * group_size; ++e) values[e] = masked;
    }
    simt::warp_barrier();
  }
};

}  // namespace troupe::kernels::cuda
