// troupe bench: picks what is measured.

#include <cstring>

#include "apps/command.hpp"

namespace troupe::apps {
namespace {

constexpr Command kBenches[] = {
    {"serve", "a running server: throughput and latency under load", run_bench_serve},
    {"local", "a model in this process: prefill and decoding, one step after the other",
     run_bench_local},
    {"kernels", "each operation of the forward pass at a model's shapes", run_bench_kernels},
};

void print_help(std::ostream& out) {
  out << "usage: troupe bench WHAT [OPTIONS]\n\nMeasures\n";
  for (const Command& bench : kBenches) {
    out << "  " << bench.name << std::string(9 - std::strlen(bench.name), ' ') << bench.summary
        << '\n';
  }
  out << "\n'troupe bench WHAT --help' describes each.\n";
}

}  // namespace

int run_bench(const Arguments& arguments) {
  if (arguments.empty()) {
    print_help(std::cerr);
    return kUsage;
  }
  const std::string& what = arguments.front();
  if (what == "--help" || what == "-h") {
    print_help(std::cout);
    return kSuccess;
  }
  std::vector<std::string> names;
  for (const Command& bench : kBenches) {
    if (what == bench.name) return bench.run({arguments.begin() + 1, arguments.end()});
    names.emplace_back(bench.name);
  }
  const auto meant = nearest(what, names);
  std::cerr << "troupe: there is no bench '" << what << "'"
            << (meant ? "; did you mean '" + *meant + "'?" : "")
            << "\nRun 'troupe bench --help'.\n";
  return kUsage;
}

}  // namespace troupe::apps
