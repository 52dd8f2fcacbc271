#pragma once

// The command line of `troupe bench serve`.

#include <string>

#include "apps/bench/load.hpp"
#include "apps/bench/plan.hpp"
#include "apps/bench/summary.hpp"
#include "apps/command.hpp"

namespace troupe::apps {

struct ServeOptions {
  std::string url;
  std::string endpoint;
  std::string model;  ///< "": the first that the server lists
  Duration ready_timeout;
  bench::LoadOptions load;  ///< without host, port and model
  bench::WordPool pool;
  bench::Plan plan;
  bench::Objectives objectives;
  std::string json_path;  ///< "": none
  std::string html_path;
  bool saves_details = false;
};

Options serve_option_table();

/// Reads the values, and the files that they name.
/// @errors kInvalidArgument, kNotFound, kCorrupt, each naming the option or file
Result<ServeOptions> read_serve_options(const Values& values);

}  // namespace troupe::apps
