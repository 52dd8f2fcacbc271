#include "kernels/cpu_choice.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace troupe::kernels {
namespace {

using Ids = std::vector<uint32_t>;

/// A machine drawn as its nodes of memory, one letter for each CPU: cores in a row, then, for two
/// threads per core, the second ones. '.' free, 'x' claimed by another process, ' ' not ours to
/// use.
struct Machine {
  std::vector<std::string> nodes;
  uint32_t threads_per_core = 1;
};

/// Ids as Linux has them on x86: all cores of all nodes, then the second threads of all cores.
std::vector<Cpu> cpus_of(const Machine& machine) {
  uint32_t num_cores = 0;
  for (const std::string& node : machine.nodes) {
    num_cores += static_cast<uint32_t>(node.size()) / machine.threads_per_core;
  }
  std::vector<Cpu> cpus;
  for (uint32_t thread = 0; thread < machine.threads_per_core; ++thread) {
    uint32_t core = 0;
    for (uint32_t n = 0; n < machine.nodes.size(); ++n) {
      const size_t on_node = machine.nodes[n].size() / machine.threads_per_core;
      for (size_t i = 0; i < on_node; ++i, ++core) {
        const char drawn = machine.nodes[n][thread * on_node + i];
        if (drawn == ' ') continue;
        cpus.push_back({thread * num_cores + core, core, n, drawn == '.'});
      }
    }
  }
  return cpus;
}

TEST(CpuChoice, FollowsItsRulesInOrder) {
  struct Case {
    const char* rule;
    Machine machine;
    size_t num_threads;
    Ids chosen;
  };
  const std::vector<Case> cases = {
      {"the lowest that are free", {{"...."}}, 2, {0, 1}},
      {"all", {{".."}}, 2, {0, 1}},
      {"none if one thread is too much", {{".."}}, 3, {}},
      {"what another claimed is left out", {{"x.x."}}, 2, {1, 3}},
      {"none if the free ones are too few", {{"x.x."}}, 3, {}},
      {"what the process may not use is left out", {{"  .."}}, 2, {2, 3}},
      {"nothing may be used", {{"    "}}, 1, {}},
      {"a core for each thread", {{"........"}, 2}, 4, {0, 1, 2, 3}},
      {"second threads when cores are used up", {{"........"}, 2}, 6, {0, 1, 2, 3, 4, 5}},
      {"a core of which another has one thread is used up", {{"x......."}, 2}, 3, {1, 2, 3}},
      {"its other thread comes last", {{"x......."}, 2}, 4, {1, 2, 3, 4}},
      {"its other thread, though no core is free", {{"xx...."}, 2}, 2, {2, 3}},
      {"the node with the most free cores", {{"x...", "...."}}, 2, {4, 5}},
      {"of equals the first", {{"....", "...."}}, 3, {0, 1, 2}},
      {"threads stay on a node that has room", {{"xx..", "x..."}}, 3, {5, 6, 7}},
      {"too many for one node", {{"x...", "...."}}, 6, {4, 5, 6, 7, 1, 2}},
      {"two nodes rather than second threads", {{"....", "...."}, 2}, 3, {0, 1, 2}},
      {"then the second threads of the larger node", {{"xx..", "...."}, 2}, 3, {2, 3, 6}},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(choose_cpus(cpus_of(test.machine), test.num_threads), test.chosen) << test.rule;
  }
}

TEST(CpuChoice, ProcessesThatComeOneAfterTheOtherSpreadOverTheMemories) {
  std::vector<Cpu> cpus = cpus_of({{"................", "................"}, 2});
  const auto take = [&](size_t num_threads) {
    const Ids chosen = choose_cpus(cpus, num_threads);
    for (Cpu& cpu : cpus) {
      if (std::ranges::count(chosen, cpu.id) != 0) cpu.is_free = false;
    }
    return chosen;
  };
  EXPECT_EQ(take(4), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(take(4), (Ids{8, 9, 10, 11}));
  EXPECT_EQ(take(4), (Ids{4, 5, 6, 7}));
  EXPECT_EQ(take(4), (Ids{12, 13, 14, 15}));
  EXPECT_EQ(take(8), (Ids{16, 17, 18, 19, 20, 21, 22, 23}));
  EXPECT_EQ(take(9), Ids{});
  EXPECT_EQ(take(8), (Ids{24, 25, 26, 27, 28, 29, 30, 31}));
  EXPECT_EQ(take(1), Ids{});
}

}  // namespace
}  // namespace troupe::kernels
