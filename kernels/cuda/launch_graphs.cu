#include "kernels/cuda/launch_graphs.hpp"

#include <algorithm>
#include <cstring>

#include "base/check.hpp"

namespace troupe::kernels::cuda {
namespace {

constexpr size_t kAlignment = 16;

/// Of kernels in order; what does not differ is compared besides.
uint64_t hash_with(uint64_t hash, simt::Entry entry) {
  return (hash ^ reinterpret_cast<uintptr_t>(entry)) * 0x9e3779b97f4a7c15U;
}

}  // namespace

void LaunchList::add(const simt::Launch& launch, std::span<const std::byte> parameters) {
  launches_.push_back({launch, parameters_.size(), parameters.size()});
  parameters_.insert(parameters_.end(), parameters.begin(), parameters.end());
  parameters_.resize((parameters_.size() + kAlignment - 1) / kAlignment * kAlignment);
  kernels_ = hash_with(kernels_, launch.entry);
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

std::optional<size_t> LaunchGraphs::find(const LaunchList& list, std::vector<size_t>& changed) {
  changed.clear();
  if (list.size() < kMinLaunches) return {};
  size_t number = alike(list, changed);
  if (number == kNone) {
    number = room_for_one();
  } else if (!known_[number].built && std::ranges::count(wanted_, number) == 0) {
    wanted_.push_back(number);
  }
  Known& known = known_[number];
  known.launches = list;
  known.last_used = ++uses_;
  if (last_ != kNone) known_[last_].next = number;
  last_ = number;
  return known.built ? std::optional(number) : std::nullopt;
}

size_t LaunchGraphs::alike(const LaunchList& list, std::vector<size_t>& changed) {
  const auto is_alike = [&](size_t number) {
    return number != kNone && known_[number].launches.same_kernels(list);
  };
  const auto few = [&] { return changed.size() * 2 <= list.size(); };
  const size_t followed = last_ == kNone ? kNone : known_[last_].next;
  const bool follows = is_alike(followed);
  if (follows) {
    known_[followed].launches.compare(list, changed);
    if (few()) return followed;
  }
  for (size_t number = 0; number < known_.size(); ++number) {
    if (!is_alike(number)) continue;
    known_[number].launches.compare(list, changed);
    if (few()) return number;
  }
  if (!follows) return kNone;
  known_[followed].launches.compare(list, changed);
  return followed;
}

/// The one that was not used for longest makes room.
size_t LaunchGraphs::room_for_one() {
  if (known_.size() < kMaxGraphs) {
    known_.emplace_back();
    return known_.size() - 1;
  }
  const auto oldest = std::ranges::min_element(known_, {}, &Known::last_used);
  const auto number = static_cast<size_t>(oldest - known_.begin());
  std::erase(wanted_, number);
  *oldest = {};
  return number;
}

}  // namespace troupe::kernels::cuda
