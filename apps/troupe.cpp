// main: picks the subcommand.

#include <unistd.h>

#include <cstring>

#include "apps/command.hpp"
#include "apps/gpu_backend.hpp"
#include "apps/own_process.hpp"
#include "apps/version.hpp"
#include "transport/ports.hpp"

namespace troupe::apps {
namespace {

void print_help(std::ostream& out) {
  out << "troupe " << kVersion
      << ": a distributed inference cluster for DeepSeek-style Mixture-of-Experts models\n\n"
         "usage: troupe COMMAND [options]\n\nCommands:\n";
  for (const Command& command : commands()) {
    out << "  " << command.name << std::string(14 - std::strlen(command.name), ' ')
        << command.summary << '\n';
  }
  out << "\n'troupe COMMAND --help' describes a command.\n\n"
         "Exit codes: 0 success, 1 failure, 2 wrong usage or configuration, 3 a cluster or peer\n"
         "cannot be reached, 4 only part was done, 130 interrupted.\n";
}

int run(int argc, char** argv) {
  if (argc < 2) {
    print_help(std::cerr);
    return kUsage;
  }
  const std::string name = argv[1];
  if (name == "help" || name == "--help" || name == "-h") {
    print_help(std::cout);
    return kSuccess;
  }
  const Arguments arguments(argv + 2, argv + argc);
  if (name == "--version") return run_version(arguments);
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (name == command.name) return command.run(arguments);
    names.emplace_back(command.name);
  }
  const auto meant = nearest(name, names);
  std::cerr << "troupe: there is no command '" << name << "'"
            << (meant ? "; did you mean '" + *meant + "'?" : "") << "\nRun 'troupe help'.\n";
  return kUsage;
}

}  // namespace

int run_version(const Arguments&) {
  std::cout << "troupe " << kVersion << '\n';
  const std::optional<kernels::CudaSystem> cuda = cuda_here(/*with_free_memory=*/false);
  if (!cuda) return kSuccess;
  if (!cuda->error.empty()) std::cout << "CUDA: " << cuda->error << '\n';
  for (const kernels::CudaDevice& device : cuda->devices) {
    std::cout << "CUDA: " << device.name << ", sm_" << device.sm << ", "
              << (device.memory_bytes >> 30) << " GiB\n";
  }
  return kSuccess;
}

}  // namespace troupe::apps

int main(int argc, char** argv) {
  // UCX reads part of its environment when its library loads, which was before main: set what is
  // missing and begin again, once.
  if (troupe::transport::prepare_ucx_environment()) {
    execv(troupe::apps::own_executable(), argv);
    std::perror("troupe: cannot execute itself again to set UCX's environment");
    return troupe::apps::kFailure;
  }
  return troupe::apps::run(argc, argv);
}
