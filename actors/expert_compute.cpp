#include "actors/expert_compute.hpp"

#include <algorithm>
#include <numeric>

namespace troupe::actors {

void compute_experts(kernels::Ops& ops, const ExpertTable& table, LayerIdx layer, ConstRows x,
                     std::span<const ExpertTask> tasks, Rows y, ExpertScratch& scratch) {
  CHECK_EQ(y.rows, tasks.size());
  scratch.order.resize(tasks.size());
  std::iota(scratch.order.begin(), scratch.order.end(), 0U);
  const bool in_order = std::ranges::is_sorted(tasks, {}, &ExpertTask::expert);
  if (!in_order) {
    std::ranges::stable_sort(scratch.order, {}, [&](uint32_t i) { return tasks[i].expert; });
  }
  scratch.rows.clear();
  for (const uint32_t i : scratch.order) scratch.rows.push_back(tasks[i].row);
  const Rows out =
      in_order ? y
               : Rows(scratch.sorted.room<float>(scratch.memory, y.rows * y.cols), y.rows, y.cols);
  scratch.ffns.clear();
  for (size_t first = 0; first < tasks.size();) {
    const ExpertIdx expert = tasks[scratch.order[first]].expert;
    size_t last = first;
    while (last < tasks.size() && tasks[scratch.order[last]].expert == expert) ++last;
    const auto found = table.find({layer, expert});
    CHECK(found != table.end());
    const model::FfnWeights& weights = found->second.ffn;
    scratch.ffns.push_back({.x = x,
                            .x_rows = scratch.rows.data() + first,
                            .gate = weights.gate,
                            .up = weights.up,
                            .down = weights.down,
                            .y = out.slice(first, last - first)});
    first = last;
  }
  ops.grouped_ffn(scratch.ffns);
  if (in_order) return;
  scratch.from.clear();
  scratch.to.clear();
  for (size_t i = 0; i < tasks.size(); ++i) {
    scratch.from.push_back(out.row(i));
    scratch.to.push_back(y.row(scratch.order[i]));
  }
  scratch.memory.move_rows(scratch.from, scratch.to, y.cols);
}

}  // namespace troupe::actors
