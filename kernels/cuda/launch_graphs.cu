#include "kernels/cuda/launch_graphs.hpp"

#include <algorithm>
#include <cstring>

namespace troupe::kernels::cuda {
namespace {

constexpr size_t kAlignment = 16;

uint64_t hash_with(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15U;
  return hash ^ (hash >> 32U);
}

}  // namespace

void LaunchList::add(const simt::Launch& launch, std::span<const std::byte> parameters) {
  launches_.push_back({launch, parameters_.size(), parameters.size()});
  parameters_.insert(parameters_.end(), parameters.begin(), parameters.end());
  parameters_.resize((parameters_.size() + kAlignment - 1) / kAlignment * kAlignment);
  kernels_ = hash_with(kernels_, reinterpret_cast<uintptr_t>(launch.entry));
}

void LaunchList::clear() {
  launches_.clear();
  parameters_.clear();
  kernels_ = 0;
}

bool LaunchList::same_kernels(const LaunchList& other) const {
  return kernels_ == other.kernels_ &&
         std::ranges::equal(launches_, other.launches_, [](const Kept& a, const Kept& b) {
           return a.launch.entry == b.launch.entry && a.bytes == b.bytes;
         });
}

void LaunchList::compare(const LaunchList& other, std::vector<size_t>& changed) const {
  changed.clear();
  for (size_t i = 0; i < launches_.size(); ++i) {
    const Kept& a = launches_[i];
    const Kept& b = other.launches_[i];
    const bool same = a.launch.grid == b.launch.grid &&
                      a.launch.shared_bytes == b.launch.shared_bytes &&
                      std::memcmp(parameters(i).data(), other.parameters(i).data(), a.bytes) == 0;
    if (!same) changed.push_back(i);
  }
}

size_t LaunchGraphs::HashOfKey::operator()(const Key& key) const {
  uint64_t hash = hash_with(key.kernels, reinterpret_cast<uintptr_t>(key.place.owner));
  hash = hash_with(hash, key.place.section);
  return hash_with(hash, key.place.part);
}

std::optional<size_t> LaunchGraphs::find(const LaunchPlace& place, const LaunchList& list,
                                         std::vector<size_t>& changed) {
  changed.clear();
  if (list.size() < kMinLaunches) return {};
  ++uses_;
  const Key key{place, list.kernels()};
  if (const auto found = numbers_.find(key); found != numbers_.end()) {
    Known& known = known_[found->second];
    if (!known.built && !may_build_) return {};
    if (!known.launches.same_kernels(list)) return {};  // of the same hash
    known.launches.compare(list, changed);
    if (!changed.empty()) known.launches = list;
    known.last_used = uses_;
    return known.built ? std::optional(found->second) : std::nullopt;
  }
  if (!may_build_) return {};
  if (seen_.size() == kMaxSeen) seen_.clear();
  if (seen_.insert(key).second) return {};
  if (const std::optional<size_t> number = room_for_one()) {
    known_[*number] = {.key = key, .launches = list, .last_used = uses_};
    numbers_[key] = *number;
    wanted_.push_back(*number);
    seen_.erase(key);
  }
  return {};
}

/// @returns nothing while all are in use: building them by turns would cost more than it brings
std::optional<size_t> LaunchGraphs::room_for_one() {
  if (known_.size() < kMaxGraphs) {
    known_.emplace_back();
    return known_.size() - 1;
  }
  const auto oldest = std::ranges::min_element(known_, {}, &Known::last_used);
  if (uses_ - oldest->last_used <= kUnusedFor) return {};
  numbers_.erase(oldest->key);
  return static_cast<size_t>(oldest - known_.begin());
}

}  // namespace troupe::kernels::cuda
