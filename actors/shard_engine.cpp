#include "actors/shard_engine.hpp"

#include <algorithm>
#include <string>

#include "actors/placed_weights.hpp"
#include "base/memory_room.hpp"

namespace troupe::actors {

void ShardEngine::keep(const Keys& held) {
  std::erase_if(
      table_, [&](const auto& expert) { return !std::ranges::binary_search(held, expert.first); });
}

Result<void> ShardEngine::check_room(const Keys& missing) const {
  uint64_t own = 0, all = 0;
  for (const experts::ExpertKey& key : missing) {
    const auto bytes = TRY(checkpoint_.bytes_of_expert(key.layer, key.expert));
    own += bytes.own;
    all += bytes.all;
  }
  const std::string experts = std::to_string(missing.size()) + " experts need";
  if (!memory_.is_host()) {
    return check_memory_room("on the device, " + experts, all, memory_.bytes_left(),
                             "more expert shards need less each, and so do experts in fewer bits");
  }
  if (own == 0) return {};  // mapped
  return check_memory_room(
      "copies of " + experts, own, memory_.bytes_left(),
      "more expert shards need less each, and experts that `troupe quantize` wrote need no copies");
}

Result<void> ShardEngine::load(const Keys& held) {
  keep(held);
  Keys missing;
  std::ranges::copy_if(held, std::back_inserter(missing),
                       [&](const auto& key) { return !table_.contains(key); });
  TRY(check_room(missing));
  for (const experts::ExpertKey& key : missing) {
    TRY(hold(key, TRY(checkpoint_.load_expert(key.layer, key.expert, num_threads_))));
  }
  return {};
}

Result<ExpertTable> ShardEngine::load_ahead(const Keys& missing) const {
  ExpertTable table;
  for (const experts::ExpertKey& key : missing) {
    model::ExpertWeights expert = TRY(checkpoint_.load_expert(key.layer, key.expert));
    for (const WeightView* weights : {&expert.ffn.gate, &expert.ffn.up, &expert.ffn.down}) {
      model::read_ahead(*weights);
    }
    table[key] = std::move(expert);
  }
  return table;
}

Result<void> ShardEngine::take_some(ExpertTable& loaded) {
  while (!loaded.empty()) {
    const auto first = loaded.extract(loaded.begin());
    TRY(hold(first.key(), first.mapped()));
    if (!memory_.is_host()) break;
  }
  return {};
}

Result<void> ShardEngine::hold(const experts::ExpertKey& key, const model::ExpertWeights& loaded) {
  table_[key] = TRY(place(loaded, memory_));
  finish_or_end(memory_);
  return {};
}

std::vector<std::shared_ptr<transport::Buffer>> ShardEngine::compute(
    LayerIdx layer, std::span<const transport::Frame* const> dispatches) {
  const size_t hidden = checkpoint_.config().hidden_size;
  const bool in_place = memory_.is_host();
  size_t num_rows = 0, num_results = 0;
  for (const transport::Frame* dispatch : dispatches) {
    num_rows += dispatch->header.num_rows;
    num_results += dispatch->header.assignments.size();
  }
  float* rows = in_place ? nullptr : rows_.room<float>(memory_, num_rows * hidden);
  float* const results_here =
      in_place ? nullptr : results_.room<float>(memory_, num_results * hidden);
  tasks_.clear();
  std::vector<std::shared_ptr<transport::Buffer>> results;
  for (const transport::Frame* dispatch : dispatches) {
    const transport::FrameHeader& header = dispatch->header;
    results.push_back(
        transport::Buffer::allocate(header.assignments.size() * hidden * sizeof(float)));
    if (header.assignments.empty()) continue;
    const float* in = dispatch->payload->floats();
    float* out = in_place ? results.back()->floats() : results_here + tasks_.size() * hidden;
    if (!in_place) {
      memory_.copy_in(rows, in, header.num_rows * hidden * sizeof(float));
      in = rows;
      rows += header.num_rows * hidden;
    }
    for (const transport::Assignment& work : header.assignments) {
      tasks_.push_back({.in = in + work.row * hidden, .out = out, .expert = work.expert});
      out += hidden;
    }
  }
  compute_experts(ops_, table_, layer, tasks_, hidden, scratch_);
  if (in_place) return results;
  const float* from = results_here;
  for (const auto& result : results) {
    memory_.copy_out(result->floats(), from, result->size());
    from += result->size() / sizeof(float);
  }
  finish_or_end(memory_);
  return results;
}

}  // namespace troupe::actors
