#pragma once

// A model with random weights: real shapes to measure with, and no meaning.

#include <cstdint>
#include <string>

#include "model/checkpoint_writer.hpp"

namespace troupe::model {

/// Norms are 1, biases 0, everything else about normal with a standard deviation of `deviation`:
/// the sum of four random bytes. The same for a seed, however it is read.
/// Cost: a few ns per number.
class RandomWeights final : public TensorSource {
 public:
  RandomWeights(uint64_t seed, float deviation) : seed_(seed), deviation_(deviation) {}

  /// BF16, as DeepSeek's; F32 for the bias of the gate.
  [[nodiscard]] DType kept_type(const std::string& name) const override;
  Result<void> read(const std::string& name, uint64_t in, uint64_t first, uint64_t count,
                    float* values) const override;

 private:
  uint64_t seed_;
  float deviation_;
};

}  // namespace troupe::model
