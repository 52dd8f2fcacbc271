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

/// The gate of one row; its buffers serve all rows of a call.
class Gate {
 public:
  explicit Gate(const TopkGateParams& p)
      : p_(p),
        score_(p.logits.cols),
        choice_(p.logits.cols),
        taken_(p.logits.cols),
        group_scores_(p.num_groups),
        kept_(p.num_groups) {}

  void choose(size_t r) {
    std::copy_n(p_.logits.row(r), score_.size(), score_.begin());
    if (p_.method == GateMethod::kNoauxTc) {
      for (float& s : score_) s = 1.0F / (1.0F + exp_f32(-s));
      choice_ = score_;
      for (size_t e = 0; p_.bias != nullptr && e < choice_.size(); ++e) choice_[e] += p_.bias[e];
      if (p_.topk_groups < p_.num_groups) keep_best_groups(choice_, -kInfinity);
    } else {
      softmax(score_);
      if (p_.method == GateMethod::kGroupLimitedGreedy) keep_best_groups(score_, 0.0F);
      choice_ = score_;
    }

    ExpertIdx* topk_idx = p_.topk_idx + r * p_.topk;
    float* topk_weight = p_.topk_weight + r * p_.topk;
    taken_.assign(taken_.size(), false);
    float sum = 0;
    for (size_t s = 0; s < p_.topk; ++s) {
      const size_t expert = take_best(choice_, taken_);
      topk_idx[s] = static_cast<ExpertIdx>(expert);
      topk_weight[s] = score_[expert];
      sum += score_[expert];
    }
    for (size_t s = 0; s < p_.topk; ++s) {
      if (p_.normalize) topk_weight[s] /= sum + 1e-20F;
      topk_weight[s] *= p_.scale;
    }
  }

 private:
  /// Sets the scores of all groups but the best `topk_groups` to `masked`.
  void keep_best_groups(std::vector<float>& scores, float masked) {
    const size_t group_size = scores.size() / p_.num_groups;
    for (size_t g = 0; g < p_.num_groups; ++g) {
      group_scores_[g] = group_score(p_.method, scores.data() + g * group_size, group_size);
    }
    kept_.assign(kept_.size(), false);
    for (size_t i = 0; i < p_.topk_groups; ++i) take_best(group_scores_, kept_);
    for (size_t e = 0; e < scores.size(); ++e) {
      if (!kept_[e / group_size]) scores[e] = masked;
    }
  }

  const TopkGateParams& p_;
  std::vector<float> score_;   // what weights are taken from
  std::vector<float> choice_;  // what experts are chosen by
  std::vector<bool> taken_;
  std::vector<float> group_scores_;
  std::vector<bool> kept_;
};

}  // namespace

void topk_gate(const TopkGateParams& p, Range rows) {
  Gate gate(p);
  for (size_t r = rows.first; r < rows.last; ++r) gate.choose(r);
}

}  // namespace troupe::kernels::scalar
