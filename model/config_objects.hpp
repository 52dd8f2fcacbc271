#pragma once

// The objects inside a checkpoint's config.json, each with keys of its own. Included by sources
// only, as json.hpp.

#include <cstdint>

#include "base/result.hpp"
#include "model/config.hpp"
#include "model/key_reader.hpp"

namespace troupe::model {

/// rope_theta, and rope_scaling of Hub files or rope_parameters of transformers 5.
/// @param max_positions of the whole model: YaRN's original context where none is given
Result<RopeConfig> read_rope(KeyReader& keys, uint32_t max_positions);

/// quantization_config, if it is there: FP8 with 128x128 blocks, Troupe's own integers, or
/// those of compressed-tensors, GPTQ and AWQ.
Result<void> read_quantization(KeyReader& keys, ModelConfig& config);

}  // namespace troupe::model
