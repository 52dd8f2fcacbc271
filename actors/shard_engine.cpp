#include "actors/shard_engine.hpp"

#include <algorithm>
#include <map>
#include <string>

#include "actors/device_room.hpp"
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
  if (!memory_.is_host()) {
    return check_room_of_shard(backend_, missing.size(), all, activation_bytes_to_come(missing));
  }
  if (own == 0) return {};  // mapped
  return check_memory_room(
      "copies of " + std::to_string(missing.size()) + " experts need", own, memory_.bytes_left(),
      "more expert shards need less each, and experts that `troupe quantize` wrote need no copies");
}

uint64_t ShardEngine::experts_per_row(const Keys& missing) const {
  std::map<LayerIdx, uint64_t> num_experts;
  for (const auto& [key, weights] : table_) ++num_experts[key.layer];
  for (const experts::ExpertKey& key : missing) ++num_experts[key.layer];
  uint64_t most = 0;
  for (const auto& [layer, count] : num_experts) most = std::max(most, count);
  return std::min<uint64_t>(most, checkpoint_.config().num_experts_per_tok);
}

uint64_t ShardEngine::activation_bytes_to_come(const Keys& missing) const {
  const uint64_t all =
      activation_bytes_of_shard(checkpoint_.config(), max_batch_rows_, experts_per_row(missing));
  const uint64_t now = rows_.bytes() + results_.bytes() + scratch_.sorted.bytes();
  return all - std::min(all, now);
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
  return make_room();
}

Result<void> ShardEngine::make_room() {
  if (memory_.is_host()) return {};
  const size_t num_rows = size_t{max_batch_rows_} * checkpoint_.config().hidden_size;
  const size_t num_results = num_rows * experts_per_row({});
  if (num_results == 0) return {};
  const auto reserve = [&]() -> Result<void> {
    TRY(rows_.reserve<float>(memory_, num_rows));
    TRY(results_.reserve<float>(memory_, num_results));
    TRY(scratch_.sorted.reserve<float>(memory_, num_results));
    TRY(rows_staged_.reserve_on_host<float>(memory_, num_rows));
    return results_staged_.reserve_on_host<float>(memory_, num_results);
  };
  if (auto room = reserve(); !room.ok()) {
    return no_room_for_shard("activations of the largest batch", std::move(room).error());
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
  return loaded.empty() ? make_room() : Result<void>();
}

Result<void> ShardEngine::hold(const experts::ExpertKey& key, const model::ExpertWeights& loaded) {
  auto placed = place(loaded, memory_);
  if (!placed.ok()) return no_room_for_shard("an expert", std::move(placed).error());
  table_[key] = std::move(*placed);
  finish_or_end(memory_);
  return {};
}

std::vector<std::shared_ptr<const transport::Buffer>> ShardEngine::compute(
    LayerIdx layer, std::span<const transport::Frame* const> dispatches) {
  const size_t hidden = checkpoint_.config().hidden_size;
  const auto bytes_of = [&](size_t num_rows) { return num_rows * hidden * sizeof(float); };
  size_t num_rows = 0;
  tasks_.clear();
  for (const transport::Frame* dispatch : dispatches) {
    for (const transport::Assignment& work : dispatch->header.assignments) {
      tasks_.push_back({static_cast<uint32_t>(num_rows) + work.row, work.expert});
    }
    num_rows += dispatch->header.num_rows;
  }
  const std::shared_ptr<transport::Buffer> all =
      transport::Buffer::allocate(bytes_of(tasks_.size()));
  if (!tasks_.empty()) {
    const bool on_host = memory_.is_host();
    float* y = on_host ? all->floats() : results_.room<float>(memory_, tasks_.size() * hidden);
    compute_experts(ops_, table_, layer, {rows_of(dispatches, num_rows), num_rows, hidden}, tasks_,
                    {y, tasks_.size(), hidden}, scratch_);
    float* staged = nullptr;
    if (!on_host) {
      staged = results_staged_.room_on_host<float>(memory_, tasks_.size() * hidden);
      memory_.copy_out(staged, y, all->size());
    }
    finish_or_end(memory_);
    if (!on_host) std::copy_n(staged, tasks_.size() * hidden, all->floats());
  }
  std::vector<std::shared_ptr<const transport::Buffer>> results;
  size_t at = 0;
  for (const transport::Frame* dispatch : dispatches) {
    const size_t bytes = bytes_of(dispatch->header.assignments.size());
    results.push_back(transport::Buffer::slice(all, at, bytes));
    at += bytes;
  }
  return results;
}

const float* ShardEngine::rows_of(std::span<const transport::Frame* const> dispatches,
                                  size_t num_rows) {
  if (memory_.is_host() && dispatches.size() == 1) return dispatches[0]->payload->floats();
  const size_t hidden = checkpoint_.config().hidden_size;
  float* rows = rows_.room<float>(memory_, num_rows * hidden);
  float* staged =
      memory_.is_host() ? rows : rows_staged_.room_on_host<float>(memory_, num_rows * hidden);
  float* next = staged;
  for (const transport::Frame* dispatch : dispatches) {
    const size_t elements = dispatch->header.num_rows * hidden;
    if (elements > 0) next = std::copy_n(dispatch->payload->floats(), elements, next);
  }
  if (!memory_.is_host()) memory_.copy_in(rows, staged, num_rows * hidden * sizeof(float));
  return rows;
}

}  // namespace troupe::actors
