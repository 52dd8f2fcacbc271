// Frequencies and factors of the rotary embedding (models.md section 1.5; Peng et al. 2023, YaRN).

#include <algorithm>
#include <cmath>
#include <numbers>

#include "model/config.hpp"

namespace troupe::model {
namespace {

/// 0.1 * mscale * ln(factor) + 1: how much YaRN sharpens attention.
double attention_gain(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

/// Where on the axis of frequency pairs a wave turns `rotations` times in the original context.
double correction_index(const RopeConfig& rope, double dim, double rotations) {
  return dim * std::log(rope.original_max_positions / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

}  // namespace

float ModelConfig::softmax_scale() const {
  const double plain = 1.0 / std::sqrt(static_cast<double>(qk_head_dim()));
  if (!rope.yarn || rope.mscale_all_dim == 0) {
    return static_cast<float>(plain);
  }
  const double gain = attention_gain(rope.factor, rope.mscale_all_dim);
  return static_cast<float>(plain * gain * gain);
}

float ModelConfig::rope_magnitude() const {
  if (!rope.yarn) {
    return 1;
  }
  if (rope.attention_factor) {
    return static_cast<float>(*rope.attention_factor);
  }
  if (rope.mscale != 0 && rope.mscale_all_dim != 0) {
    return static_cast<float>(attention_gain(rope.factor, rope.mscale) /
                              attention_gain(rope.factor, rope.mscale_all_dim));
  }
  return static_cast<float>(attention_gain(rope.factor, 1));
}

RopeRamp ModelConfig::rope_ramp() const {
  const double dim = qk_rope_head_dim;
  return {std::max(std::floor(correction_index(rope, dim, rope.beta_fast)), 0.0),
          std::min(std::ceil(correction_index(rope, dim, rope.beta_slow)), dim - 1)};
}

std::vector<float> ModelConfig::inv_freq() const {
  std::vector<float> frequencies(qk_rope_head_dim / 2);
  RopeRamp ramp;
  if (rope.yarn) {
    ramp = rope_ramp();
    if (ramp.low == ramp.high) {
      ramp.high += 0.001;  // as the original does, so that the slope stays finite
    }
  }
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double plain =
        std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(qk_rope_head_dim));
    if (!rope.yarn) {
      frequencies[i] = static_cast<float>(plain);
      continue;
    }
    const double position = (static_cast<double>(i) - ramp.low) / (ramp.high - ramp.low);
    const double interpolated = std::clamp(position, 0.0, 1.0);
    frequencies[i] =
        static_cast<float>(plain / rope.factor * interpolated + plain * (1 - interpolated));
  }
  return frequencies;
}

}  // namespace troupe::model
