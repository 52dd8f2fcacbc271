#pragma once

// What the commands that write a checkpoint in fewer bits share: their options, and saving with a
// bar that may be interrupted.

#include <boost/json.hpp>

#include "apps/command.hpp"
#include "model/checkpoint_writer.hpp"

namespace troupe::apps {

/// If --scheme may be `keep`, which needs a source that has integers.
enum class KeepScheme : bool { kUnknown, kKnown };

/// Adds --scheme, --experts, --rest, --file-mib and --threads.
void add_scheme_options(Options& options, KeepScheme keep);

/// Fills in what those options say.
/// @returns the quantization_config for config.json, empty if all is bf16
/// @errors kInvalidArgument naming the option
Result<boost::json::object> read_scheme_options(const Values& values, KeepScheme keep,
                                                model::SavePlan& plan);

/// model::save_checkpoint() with a bar. SIGINT and SIGTERM end the process, and say how to go on.
Result<model::SaveSummary> save_with_bar(const std::string& what, const model::ModelConfig& config,
                                         const model::TensorSource& source, model::SavePlan plan);

}  // namespace troupe::apps
