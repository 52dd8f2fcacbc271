#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/exp.hpp"
#include "kernels/cpu/scalar.hpp"
#include "kernels/cpu/sum16.hpp"

namespace troupe::kernels::scalar {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// The index of the largest value not yet taken, ties to the lower one; marks it as taken.
/// A NaN is taken only when nothing else remains, so the indices are valid whatever the values.
size_t take_best(const std::vector<float>& values, std::vector<bool>& taken) {
  size_t best = values.size();
  for (size_t i = 0; i < values.size(); ++i) {
    if (taken[i]) continue;
    if (best == values.size() || values[i] > values[best] ||
        (std::isnan(values[best]) && !std::isnan(values[i]))) {
      best = i;
    }
  }
  taken[best] = true;
  return best;
}

/// In place: exp(x - max) / sum, the sum by rule 2.
void softmax(std::vector<float>& x) {
  float maximum = -kInfinity;
  for (const float v : x) maximum = v > maximum ? v : maximum;
  PartialSums sums{};
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = exp_f32(x[i] - maximum);
    sums[i % kNumPartialSums] += x[i];
  }
  const float sum = add_tree(sums);
  for (float& v : x) v /= sum;
}

/// How good a group of experts is: its best choice score, or for kNoauxTc the sum of its best two.
float group_score(GateMethod method, const float* choice, size_t size) {
  float best = -kInfinity;
  float second = -kInfinity;
  for (size_t i = 0; i < size; ++i) {
    if (choice[i] > best) {
      second = best;
      best = choice[i];
    } else if (choice[i] > second) {
      second = choice[i];
    }
  }
  return method == GateMethod::kNoauxTc ? best + second : best;
}

/// Sets the choice scores of all groups but the best `topk_groups` to `masked`.
void keep_best_groups(const TopkGateParams& p, float masked, std::vector<float>& choice) {
  const size_t group_size = choice.size() / p.num_groups;
  std::vector<float> scores(p.num_groups);
  for (size_t g = 0; g < p.num_groups; ++g) {
    scores[g] = group_score(p.method, choice.data() + g * group_size, group_size);
  }
  std::vector<bool> kept(p.num_groups);
  for (size_t i = 0; i < p.topk_groups; ++i) take_best(scores, kept);
  for (size_t e = 0; e < choice.size(); ++e) {
    if (!kept[e / group_size]) choice[e] = masked;
  }
}

void gate_row(const TopkGateParams& p, size_t r) {
  const size_t num_experts = p.logits.cols;
  std::vector<float> score(p.logits.row(r), p.logits.row(r) + num_experts);
  std::vector<float> choice;
  if (p.method == GateMethod::kNoauxTc) {
    for (float& s : score) s = 1.0F / (1.0F + exp_f32(-s));
    choice = score;
    if (p.bias != nullptr) {
      for (size_t e = 0; e < num_experts; ++e) choice[e] += p.bias[e];
    }
    if (p.topk_groups < p.num_groups) keep_best_groups(p, -kInfinity, choice);
  } else {
    softmax(score);
    if (p.method == GateMethod::kGroupLimitedGreedy) keep_best_groups(p, 0.0F, score);
    choice = score;
  }

  ExpertIdx* topk_idx = p.topk_idx + r * p.topk;
  float* topk_weight = p.topk_weight + r * p.topk;
  std::vector<bool> taken(num_experts);
  float sum = 0;
  for (size_t s = 0; s < p.topk; ++s) {
    const size_t expert = take_best(choice, taken);
    topk_idx[s] = static_cast<ExpertIdx>(expert);
    topk_weight[s] = score[expert];
    sum += score[expert];
  }
  for (size_t s = 0; s < p.topk; ++s) {
    if (p.normalize) topk_weight[s] /= sum + 1e-20F;
    topk_weight[s] *= p.scale;
  }
}

}  // namespace

void topk_gate(const TopkGateParams& p, Range rows) {
  for (size_t r = rows.first; r < rows.last; ++r) gate_row(p, r);
}

}  // namespace troupe::kernels::scalar
