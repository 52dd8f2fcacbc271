#pragma once

// The command line of `troupe bench serve`.

#include <string>
#include <vector>

#include "apps/command.hpp"
#include "loadgen/load.hpp"
#include "loadgen/plan.hpp"
#include "loadgen/report.hpp"
#include "loadgen/summary.hpp"

namespace troupe::apps {

struct ServeOptions {
  std::vector<loadgen::Server> servers;  ///< model "": the first that the server lists
  std::string endpoint;
  Duration ready_timeout;
  loadgen::LoadOptions load;  ///< without host, port, path and model
  loadgen::WordPool pool;
  loadgen::Plan plan;
  loadgen::Objectives objectives;
  std::string json_path;  ///< "": none
  std::string html_path;
  bool saves_details = false;
};

Options serve_option_table();

/// Reads the values, and the files that they name.
/// @errors kInvalidArgument, kNotFound, kCorrupt, each naming the option or file
Result<ServeOptions> read_serve_options(const Values& values);

}  // namespace troupe::apps
