#pragma once

// What a checkpoint's generation_config.json says: the server's defaults for what a request leaves
// open. As in vLLM, `do_sample` is not read: a request without a temperature samples.

#include <string>
#include <string_view>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/config.hpp"
#include "model/sampling.hpp"

namespace troupe::model {

struct GenerationConfig {
  SamplingParams sampling;             ///< OpenAI's defaults where the file says nothing
  std::vector<TokenId> eos_token_ids;  ///< the file's, or else those of config.json
};

/// Keys that are not read here (length limits, beam search, bookkeeping) are ignored, null is
/// unset. @errors kCorrupt if it is no JSON; kInvalidArgument naming the key and its limits.
Result<GenerationConfig> parse_generation_config(std::string_view json, const ModelConfig& config);

/// Reads the file of a checkpoint directory, which may lack it. @errors as the parser's, with path.
Result<GenerationConfig> load_generation_config(const std::string& directory,
                                                const ModelConfig& config);

}  // namespace troupe::model
