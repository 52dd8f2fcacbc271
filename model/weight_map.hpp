#pragma once

// model.safetensors.index.json: which file of a sharded checkpoint holds which tensor.

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::model {

/// File name -> names of the tensors that the index expects in it.
using WeightMap = std::map<std::string, std::vector<std::string>, std::less<>>;

/// Parses the index. File names are plain: none leads out of the checkpoint's directory.
/// @errors kCorrupt, naming the tensor.
Result<WeightMap> parse_weight_map(std::string_view text);

}  // namespace troupe::model
