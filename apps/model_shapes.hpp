#pragma once

// Shapes of real models, to make models with random weights of and to measure kernels at.

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::apps {

/// All of them, for messages and help: "v2-lite, v3, ...".
std::string shape_names();

/// The config.json of a shape. @param layers 0: as many as the shape has
/// @errors kInvalidArgument for another name, naming --shape
Result<boost::json::object> shape_config(std::string_view name, uint32_t layers = 0);

}  // namespace troupe::apps
