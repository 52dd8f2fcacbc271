#pragma once

// Launches that are kept back until somebody needs them, and the graphs that start many at once.
//
// A launch costs the host some microseconds and the device a gap, and a decode step has dozens in a
// layer, each of which takes about as long. A CUDA graph starts them together; where a parameter
// changed since, its node is told. What is here is which graph fits and which of its nodes changed;
// the graphs themselves are the Runtime's. Also compiled as C++ by the tests.
//
// Source: CUDA C++ Programming Guide, CUDA Graphs, "Individual Node Update".

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
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
  /// The same kernels in the same order, on whatever.
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
  uint64_t kernels_ = 0;  ///< a hash
};

/// Which graph runs a list of launches. Lists come in the order of layers and steps, so that which
/// followed the last one a step ago is looked at first. One is worth a graph when it comes for the
/// second time.
class LaunchGraphs {
 public:
  static constexpr size_t kMinLaunches = 4;  ///< of a graph; fewer are started one by one
  static constexpr size_t kMaxGraphs = 512;  ///< V3 has 61 layers, in some kinds of steps

  /// Notes that `list` is to be run.
  /// @param changed launches of the graph that are to be told first what they are now
  /// @returns a graph that is built, < kMaxGraphs; nothing: start them one by one
  std::optional<size_t> find(const LaunchList& list, std::vector<size_t>& changed);

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
  static constexpr size_t kNone = ~size_t{0};
  struct Known {
    LaunchList launches;  ///< as they were last run
    bool built = false;
    uint64_t last_used = 0;
    size_t next = kNone;  ///< what was run after it the last time
  };

  /// The one that followed the last time, if at most half of its launches changed; or another such;
  /// or else, for all descriptions of work may have moved, the one that followed. @returns or kNone
  size_t alike(const LaunchList& list, std::vector<size_t>& changed);
  size_t room_for_one();

  std::vector<Known> known_;
  std::vector<size_t> wanted_;
  size_t last_ = kNone;
  uint64_t uses_ = 0;
  bool may_build_ = true;
};

}  // namespace troupe::kernels::cuda
