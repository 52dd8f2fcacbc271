#include "kernels/cpu_choice.hpp"

#include <algorithm>
#include <map>

namespace troupe::kernels {
namespace {

/// Those of the node with the most of them first; within a node as they come.
std::vector<Cpu> largest_nodes_first(std::vector<Cpu> cpus) {
  std::map<uint32_t, size_t> on_node;
  for (const Cpu& cpu : cpus) ++on_node[cpu.node];
  std::ranges::stable_sort(cpus, [&](const Cpu& a, const Cpu& b) {
    const size_t of_a = on_node[a.node], of_b = on_node[b.node];
    return of_a != of_b ? of_a > of_b : a.node < b.node;
  });
  return cpus;
}

}  // namespace

std::vector<uint32_t> choose_cpus(std::span<const Cpu> cpus, size_t num_threads) {
  std::map<uint32_t, bool> untouched;  // by core
  for (const Cpu& cpu : cpus) {
    const auto [core, is_new] = untouched.try_emplace(cpu.core, true);
    core->second = core->second && cpu.is_free;
  }
  std::vector<Cpu> cores, siblings;  // the first of each untouched core, and all others
  for (const Cpu& cpu : cpus) {
    if (!cpu.is_free) continue;
    bool& is_first = untouched[cpu.core];
    (is_first ? cores : siblings).push_back(cpu);
    is_first = false;
  }
  if (cores.size() < num_threads) cores.insert(cores.end(), siblings.begin(), siblings.end());
  if (cores.size() < num_threads) return {};
  std::vector<uint32_t> chosen;
  for (const Cpu& cpu : largest_nodes_first(std::move(cores))) {
    if (chosen.size() < num_threads) chosen.push_back(cpu.id);
  }
  return chosen;
}

}  // namespace troupe::kernels
