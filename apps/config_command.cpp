// troupe config: what a configuration file means, before anything is started with it.

#include <fstream>
#include <sstream>

#include "apps/command.hpp"
#include "cluster/config.hpp"

namespace troupe::apps {
namespace po = boost::program_options;

int run_config(const Arguments& arguments) {
  CommandLine line{.usage = "troupe config (validate | show) FILE",
                   .text =
                       "validate: checks a cluster configuration; silent and 0 if it is right.\n"
                       "show: prints every value in force and where it comes from.\n\n"
                       "  troupe config show deploy/demo.yaml",
                   .positional = {"action", "config"}};
  line.options.add_options()("action", po::value<std::string>()->required(), "validate or show")(
      "config", po::value<std::string>()->required(), "the file");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto action = values["action"].as<std::string>();
  const auto path = values["config"].as<std::string>();
  if (action != "validate" && action != "show") {
    return fail({Code::kInvalidArgument, "'" + action + "' is neither validate nor show"});
  }
  const auto config = cluster::load_cluster_config(path);
  if (!config.ok()) return fail(config.error());
  if (action == "show") {
    std::ifstream in(path);
    std::stringstream text;
    text << in.rdbuf();
    std::cout << cluster::describe(*config, text.str(), path);
  }
  return kSuccess;
}

}  // namespace troupe::apps
