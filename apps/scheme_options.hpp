#pragma once

// Options of the commands that write a checkpoint in fewer bits.

#include <boost/json.hpp>

#include "apps/command.hpp"
#include "model/checkpoint_writer.hpp"

namespace troupe::apps {

/// Adds --scheme, --experts, --rest and --threads.
void add_scheme_options(Options& options);

/// Fills in what those options say.
/// @returns the quantization_config for config.json, empty if all is bf16
/// @errors kInvalidArgument naming the option
Result<boost::json::object> read_scheme_options(const Values& values, model::SavePlan& plan);

}  // namespace troupe::apps
