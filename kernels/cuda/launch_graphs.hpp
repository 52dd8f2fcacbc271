#pragma once

// Launches of sections that come again in every step (Memory::begin_section), and the graphs that
// start them together.
//
// A launch costs the host some microseconds and the device a gap, and a decode step has dozens in a
// layer, each of which takes about as long. A CUDA graph starts them together; a node whose
// parameters changed since is told. What is here is which graph that is and which of its nodes
// changed; the graphs themselves are the Runtime's. Also compiled as C++ by the tests.
//
// Source: CUDA C++ Programming Guide, CUDA Graphs, "Individual Node Update".

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "kernels/cuda/simt.cuh"

namespace troupe::kernels::cuda {

/// Launches in order, with their parameters.
class LaunchList {
 public:
  void add(const simt::Launch& launch, std::span<const std::byte> parameters);
  void clear();
  [[nodiscard]] size_t size() const { return launches_.size(); }
  [[nodiscard]] bool empty() const { return launches_.empty(); }
  [[nodiscard]] const simt::Launch& launch(size_t i) const { return launches_[i].launch; }
  /// Aligned to 16.
  [[nodiscard]] std::span<const std::byte> parameters(size_t i) const {
    return {parameters_.data() + launches_[i].first, launches_[i].bytes};
  }
  /// A hash of which kernels they are, in order.
  [[nodiscard]] uint64_t kernels() const { return kernels_; }
  [[nodiscard]] bool same_kernels(const LaunchList& other) const;
  /// @param changed the launches that differ in their grid or parameters, ascending
  /// REQUIRES: same_kernels()
  void compare(const LaunchList& other, std::vector<size_t>& changed) const;

 private:
  struct Kept {
    simt::Launch launch;
    size_t first = 0;  ///< of parameters_
    size_t bytes = 0;
  };
  std::vector<Kept> launches_;
  std::vector<std::byte> parameters_;
  uint64_t kernels_ = 0;
};

/// Where launches come again: Memory::begin_section(), and the how manieth time that launches of
/// this section are started.
struct LaunchPlace {
  const void* owner = nullptr;
  uint32_t section = 0;
  uint32_t part = 0;
  friend bool operator==(const LaunchPlace&, const LaunchPlace&) = default;
};

/// A graph for each place and each order of kernels that came there twice.
class LaunchGraphs {
 public:
  static constexpr size_t kMinLaunches = 4;  ///< of a graph; fewer are started one by one
  /// V3 has some 120 places in a micro-batch, of which there are two, and a few orders of kernels.
  static constexpr size_t kMaxGraphs = 1024;
  /// A graph makes room for another when so many lists have come since it was run.
  static constexpr uint64_t kUnusedFor = 8 * kMaxGraphs;

  /// Notes that `list` is to be run.
  /// @param changed launches of the graph that are to be told first what they are now
  /// @returns a graph that is built, < kMaxGraphs; nothing: start them one by one
  std::optional<size_t> find(const LaunchPlace& place, const LaunchList& list,
                             std::vector<size_t>& changed);

  /// What came twice and has no graph yet; to be called while the device computes nothing, for
  /// building one may wait for it. @param build (number, launches): replaces what that number had,
  /// or returns false, and is not asked again
  template <class Build>
  void build_wanted(const Build& build) {
    for (const size_t number : wanted_) {
      Known& known = known_[number];
      known.built = may_build_ && build(number, known.launches);
      may_build_ = may_build_ && known.built;
    }
    wanted_.clear();
  }

 private:
  struct Key {
    LaunchPlace place;
    uint64_t kernels = 0;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct HashOfKey {
    size_t operator()(const Key& key) const;
  };
  struct Known {
    Key key;
    LaunchList launches;  ///< as they were last run
    bool built = false;
    uint64_t last_used = 0;
  };
  static constexpr size_t kMaxSeen = 4 * kMaxGraphs;

  std::optional<size_t> room_for_one();

  std::vector<Known> known_;
  std::unordered_map<Key, size_t, HashOfKey> numbers_;  ///< of known_
  std::unordered_set<Key, HashOfKey> seen_;             ///< once
  std::vector<size_t> wanted_;
  uint64_t uses_ = 0;
  bool may_build_ = true;
};

}  // namespace troupe::kernels::cuda
