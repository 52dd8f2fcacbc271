#pragma once

// What every subcommand shares: its option table, --help, and what the exit codes mean.

#include <boost/program_options.hpp>
#include <functional>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace troupe::apps {

/// Exit codes of `troupe`.
enum ExitCode : int {
  kSuccess = 0,
  kFailure = 1,      ///< the work failed; the message says why
  kUsage = 2,        ///< the command line or the configuration is wrong
  kUnreachable = 3,  ///< a cluster or peer could not be reached, or was lost
  kPartial = 4,      ///< only part of the work was done
  kInterrupted = 130,
};

using Arguments = std::vector<std::string>;
using Options = boost::program_options::options_description;
using Values = boost::program_options::variables_map;

/// One subcommand as `troupe help` lists it.
struct Command {
  const char* name;
  const char* summary;
  int (*run)(const Arguments& arguments);
};

/// Every subcommand, in the order of `troupe help`.
const std::vector<Command>& commands();

/// How one subcommand's line is read.
struct CommandLine {
  const char* usage;  ///< "troupe show MODEL"
  const char* text;   ///< what it does, and an example
  Options options;
  std::vector<const char*> positional;  ///< names of options that need no flag, in order

  /// The values, or the code to exit with: --help was printed, or the error was.
  std::optional<int> parse(const Arguments& arguments, Values& values) const;
};

/// Prints "troupe: message" to standard error; returns the exit code that fits the error.
int fail(const Error& error);

/// The nearest of some names, if any is near enough to be what was meant.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& names);

int run_bench(const Arguments&);
int run_bench_kernels(const Arguments&);
int run_bench_local(const Arguments&);
int run_bench_serve(const Arguments&);
int run_chat(const Arguments&);
int run_config(const Arguments&);
int run_detokenize(const Arguments&);
int run_doctor(const Arguments&);
int run_drain(const Arguments&);
int run_experts(const Arguments&);
int run_eval(const Arguments&);
int run_generate(const Arguments&);
int run_head(const Arguments&);
int run_logits(const Arguments&);
int run_make_model(const Arguments&);
int run_node(const Arguments&);
int run_quantize(const Arguments&);
int run_show(const Arguments&);
int run_status(const Arguments&);
int run_tokenize(const Arguments&);
int run_undrain(const Arguments&);
int run_up(const Arguments&);
int run_version(const Arguments&);

}  // namespace troupe::apps
