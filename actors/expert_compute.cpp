#include "actors/expert_compute.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace troupe::actors {

void compute_experts(kernels::Ops& ops, const ExpertTable& table, LayerIdx layer,
                     std::span<const ExpertTask> tasks, size_t hidden, ExpertScratch& scratch) {
  scratch.order.resize(tasks.size());
  std::iota(scratch.order.begin(), scratch.order.end(), 0U);
  std::stable_sort(scratch.order.begin(), scratch.order.end(),
                   [&](uint32_t a, uint32_t b) { return tasks[a].expert < tasks[b].expert; });
  scratch.in.resize(std::max(scratch.in.size(), tasks.size() * hidden));
  scratch.out.resize(std::max(scratch.out.size(), tasks.size() * hidden));
  scratch.ffns.clear();
  for (size_t first = 0; first < tasks.size();) {
    const ExpertIdx expert = tasks[scratch.order[first]].expert;
    size_t last = first;
    for (; last < tasks.size() && tasks[scratch.order[last]].expert == expert; ++last) {
      std::memcpy(scratch.in.data() + last * hidden, tasks[scratch.order[last]].in,
                  hidden * sizeof(float));
    }
    const auto found = table.find({layer, expert});
    CHECK(found != table.end());
    const model::FfnWeights& weights = found->second.ffn;
    scratch.ffns.push_back(
        {.x = ConstRows(scratch.in.data() + first * hidden, last - first, hidden),
         .gate = weights.gate,
         .up = weights.up,
         .down = weights.down,
         .y = Rows(scratch.out.data() + first * hidden, last - first, hidden)});
    first = last;
  }
  ops.grouped_ffn(scratch.ffns);
  for (size_t i = 0; i < tasks.size(); ++i) {
    std::memcpy(tasks[scratch.order[i]].out, scratch.out.data() + i * hidden,
                hidden * sizeof(float));
  }
}

}  // namespace troupe::actors
