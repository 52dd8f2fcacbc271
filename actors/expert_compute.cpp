#include "actors/expert_compute.hpp"

#include <algorithm>
#include <numeric>

namespace troupe::actors {

void compute_experts(kernels::Ops& ops, const ExpertTable& table, LayerIdx layer,
                     std::span<const ExpertTask> tasks, size_t hidden, ExpertScratch& scratch) {
  scratch.order.resize(tasks.size());
  std::iota(scratch.order.begin(), scratch.order.end(), 0U);
  std::stable_sort(scratch.order.begin(), scratch.order.end(),
                   [&](uint32_t a, uint32_t b) { return tasks[a].expert < tasks[b].expert; });
  float* in = scratch.in.room<float>(scratch.memory, tasks.size() * hidden);
  float* out = scratch.out.room<float>(scratch.memory, tasks.size() * hidden);
  scratch.from.clear();
  scratch.to.clear();
  for (size_t i = 0; i < tasks.size(); ++i) {
    scratch.from.push_back(tasks[scratch.order[i]].in);
    scratch.to.push_back(in + i * hidden);
  }
  scratch.memory.move_rows(scratch.from, scratch.to, hidden);
  scratch.ffns.clear();
  for (size_t first = 0; first < tasks.size();) {
    const ExpertIdx expert = tasks[scratch.order[first]].expert;
    size_t last = first;
    while (last < tasks.size() && tasks[scratch.order[last]].expert == expert) ++last;
    const auto found = table.find({layer, expert});
    CHECK(found != table.end());
    const model::FfnWeights& weights = found->second.ffn;
    scratch.ffns.push_back({.x = ConstRows(in + first * hidden, last - first, hidden),
                            .gate = weights.gate,
                            .up = weights.up,
                            .down = weights.down,
                            .y = Rows(out + first * hidden, last - first, hidden)});
    first = last;
  }
  ops.grouped_ffn(scratch.ffns);
  scratch.from.clear();
  scratch.to.clear();
  for (size_t i = 0; i < tasks.size(); ++i) {
    scratch.from.push_back(out + i * hidden);
    scratch.to.push_back(tasks[scratch.order[i]].out);
  }
  scratch.memory.move_rows(scratch.from, scratch.to, hidden);
}

}  // namespace troupe::actors
