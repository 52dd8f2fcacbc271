// Which graph runs which launches, without a device.

#include "kernels/cuda/launch_graphs.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <vector>

namespace troupe::kernels::cuda {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr size_t kLaunches = 6;

template <int kNumber>
void entry(const void* /*parameters*/) {}

/// Launches of six kernels, one with this parameter each, the last of `last_kernel`.
LaunchList list_of(const std::vector<uint64_t>& parameters, simt::Entry last_kernel = entry<5>) {
  constexpr simt::Entry kEntries[] = {entry<0>, entry<1>, entry<2>, entry<3>, entry<4>};
  LaunchList list;
  for (size_t i = 0; i < parameters.size(); ++i) {
    list.add({.entry = i < 5 ? kEntries[i] : last_kernel, .threads = 32},
             std::as_bytes(std::span(&parameters[i], 1)));
  }
  return list;
}
/// What a layer launches: its own weights in all launches but the last, which has `of_step`.
LaunchList layer(uint64_t number, uint64_t of_step) {
  std::vector<uint64_t> parameters(kLaunches, 100 * number);
  parameters.back() = of_step;
  return list_of(parameters);
}

class Graphs : public testing::Test {
 protected:
  std::optional<size_t> find(const LaunchList& list) { return graphs_.find(list, changed_); }
  /// As finish() does. @returns how many were built
  size_t build() {
    size_t count = 0;
    graphs_.build_wanted([&](size_t, const LaunchList&) { return ++count, has_room_; });
    return count;
  }
  /// One step. @returns the graphs that ran its layers
  std::vector<std::optional<size_t>> step(size_t num_layers, uint64_t number) {
    std::vector<std::optional<size_t>> ran;
    for (size_t l = 0; l < num_layers; ++l) {
      ran.push_back(find(layer(l, number)));
      if (ran.back()) {
        EXPECT_THAT(changed_, ElementsAre(kLaunches - 1)) << l;
      }
      build();
    }
    return ran;
  }

  LaunchGraphs graphs_;
  std::vector<size_t> changed_;
  bool has_room_ = true;
};

TEST_F(Graphs, AreBuiltForWhatComesASecondTimeAndRunTheThird) {
  EXPECT_FALSE(find(layer(0, 1)));
  EXPECT_EQ(build(), 0U);
  EXPECT_FALSE(find(layer(0, 2)));
  EXPECT_EQ(build(), 1U);
  EXPECT_EQ(build(), 0U);
  ASSERT_TRUE(find(layer(0, 3)));
  EXPECT_THAT(changed_, ElementsAre(kLaunches - 1));
  ASSERT_TRUE(find(layer(0, 3)));
  EXPECT_THAT(changed_, IsEmpty());
}

TEST_F(Graphs, KnowWhichLaunchesChangedInTheirGridOrParameters) {
  const auto with_grid = [](unsigned x) {
    LaunchList list = list_of({1, 2, 3});
    constexpr uint64_t kParameter = 4;
    list.add({.entry = entry<3>, .grid = {x, 1}, .threads = 32},
             std::as_bytes(std::span(&kParameter, 1)));
    return list;
  };
  for (int time = 0; time < 2; ++time) {
    find(with_grid(1));
    build();
  }
  ASSERT_TRUE(find(with_grid(2)));
  EXPECT_THAT(changed_, ElementsAre(3));
}

TEST_F(Graphs, AreThoseOfEachLayer) {
  constexpr size_t kLayers = 5;
  step(kLayers, 1);
  step(kLayers, 2);
  EXPECT_THAT(step(kLayers, 3), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(step(kLayers, 4), ElementsAre(0, 1, 2, 3, 4));
}

TEST_F(Graphs, StayWithTheirLayersWhereEverythingMovedAtOnce) {
  constexpr size_t kLayers = 5, kMoved = 1000;
  for (uint64_t s = 0; s < 3; ++s) step(kLayers, s);
  for (size_t l = 0; l < kLayers; ++l) {
    EXPECT_EQ(find(layer(kMoved + l, 3)), l);
    EXPECT_EQ(changed_.size(), kLaunches);
  }
}

TEST_F(Graphs, AreFoundAfterAStepOfAnotherKind) {
  constexpr size_t kLayers = 3;
  for (uint64_t s = 0; s < 3; ++s) step(kLayers, s);
  EXPECT_FALSE(find(list_of({0, 0, 0, 0, 0, 0}, entry<6>)));
  EXPECT_THAT(step(kLayers, 4), ElementsAre(0, 1, 2));
}

TEST_F(Graphs, HaveTheKernelsOfTheirLaunches) {
  for (int time = 0; time < 2; ++time) {
    find(list_of({1, 2, 3, 4, 5, 6}));
    build();
  }
  EXPECT_FALSE(find(list_of({1, 2, 3, 4, 5, 6}, entry<6>)));
  EXPECT_FALSE(find(list_of({1, 2, 3, 4, 5})));
  EXPECT_TRUE(find(list_of({1, 2, 3, 4, 5, 6})));
}

TEST_F(Graphs, AreNotWorthWhileForFewLaunches) {
  for (int time = 0; time < 4; ++time) {
    EXPECT_FALSE(find(list_of({1, 2, 3})));
    EXPECT_EQ(build(), 0U);
  }
}

TEST_F(Graphs, AreBounded) {
  const size_t layers = LaunchGraphs::kMaxGraphs + 1;
  for (uint64_t s = 0; s < 3; ++s) {
    for (size_t l = 0; l < layers; ++l) {
      const std::optional<size_t> graph = find(layer(l, s));
      EXPECT_LT(graph.value_or(0), LaunchGraphs::kMaxGraphs);
      build();
    }
  }
  // What was used last is there, what was used longest ago made room.
  find(layer(layers - 1, 3));
  build();
  EXPECT_TRUE(find(layer(layers - 1, 4)));
  EXPECT_THAT(changed_, ElementsAre(kLaunches - 1));
}

TEST_F(Graphs, AreNotAskedForAgainWhereThereIsNoRoom) {
  has_room_ = false;
  for (int time = 0; time < 2; ++time) EXPECT_FALSE(find(layer(0, 0)));
  EXPECT_EQ(build(), 1U);
  for (int time = 0; time < 2; ++time) EXPECT_FALSE(find(layer(0, 0)));
  EXPECT_EQ(build(), 0U);
}

}  // namespace
}  // namespace troupe::kernels::cuda
