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

template <int kNumber>
void entry(const void* /*parameters*/) {}

/// Launches of kernels with one parameter each, the last of `last_kernel`.
LaunchList list_of(const std::vector<uint64_t>& parameters, simt::Entry last_kernel = entry<5>,
                   unsigned last_grid = 1) {
  constexpr simt::Entry kEntries[] = {entry<0>, entry<1>, entry<2>, entry<3>, entry<4>};
  LaunchList list;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const bool is_last = i + 1 == parameters.size();
    list.add({.entry = is_last ? last_kernel : kEntries[i],
              .grid = {is_last ? last_grid : 1, 1},
              .threads = 32},
             std::as_bytes(std::span(&parameters[i], 1)));
  }
  return list;
}
const LaunchList kList = list_of({1, 2, 3, 4, 5, 6});

class Graphs : public testing::Test {
 protected:
  std::optional<size_t> find(uint32_t section, const LaunchList& list, uint32_t part = 0) {
    return graphs_.find({.owner = this, .section = section, .part = part}, list, changed_);
  }
  /// As finish() does. @returns how many were built
  size_t build() {
    size_t count = 0;
    graphs_.build_wanted([&](size_t, const LaunchList&) { return ++count, has_room_; });
    return count;
  }
  void find_until_built(uint32_t section, const LaunchList& list) {
    EXPECT_FALSE(find(section, list));
    EXPECT_EQ(build(), 0U);
    EXPECT_FALSE(find(section, list));
    EXPECT_EQ(build(), 1U);
  }

  LaunchGraphs graphs_;
  std::vector<size_t> changed_;
  bool has_room_ = true;
};

TEST_F(Graphs, AreBuiltForWhatComesASecondTimeAndRunTheThird) {
  find_until_built(0, kList);
  EXPECT_EQ(build(), 0U);
  EXPECT_TRUE(find(0, kList));
  EXPECT_THAT(changed_, IsEmpty());
}

TEST_F(Graphs, KnowWhichLaunchesChangedInTheirGridOrParameters) {
  find_until_built(0, list_of({1, 2, 3, 4}));
  ASSERT_TRUE(find(0, list_of({1, 7, 8, 4})));
  EXPECT_THAT(changed_, ElementsAre(1, 2));
  ASSERT_TRUE(find(0, list_of({1, 7, 8, 4}, entry<5>, /*last_grid=*/2)));
  EXPECT_THAT(changed_, ElementsAre(3));
  ASSERT_TRUE(find(0, list_of({5, 6, 7, 8}))) << "where descriptions of work have moved";
  EXPECT_THAT(changed_, ElementsAre(0, 1, 2, 3));
}

TEST_F(Graphs, AreOfOnePlaceEach) {
  find_until_built(0, kList);
  EXPECT_FALSE(find(1, kList));
  EXPECT_FALSE(find(0, kList, /*part=*/1));
  EXPECT_FALSE(graphs_.find({.owner = nullptr}, kList, changed_));
  EXPECT_TRUE(find(0, kList));
}

TEST_F(Graphs, AreOfOneOrderOfKernelsEach) {
  find_until_built(0, kList);
  find_until_built(0, list_of({1, 2, 3, 4, 5, 6}, entry<6>));
  find_until_built(0, list_of({1, 2, 3, 4, 5}));
  const std::optional<size_t> first = find(0, kList);
  const std::optional<size_t> second = find(0, list_of({1, 2, 3, 4, 5}));
  ASSERT_TRUE(first && second);
  EXPECT_NE(*first, *second);
}

TEST_F(Graphs, AreNotWorthWhileForFewLaunches) {
  for (int time = 0; time < 4; ++time) {
    EXPECT_FALSE(find(0, list_of({1, 2, 3})));
    EXPECT_EQ(build(), 0U);
  }
}

TEST_F(Graphs, AreBoundedAndStayWhileTheyAreUsed) {
  constexpr uint32_t kMost = LaunchGraphs::kMaxGraphs;
  for (uint32_t section = 0; section < kMost; ++section) find_until_built(section, kList);
  // Others than there is room for do not push out what is run beside them.
  for (int step = 0; step < 4; ++step) {
    for (uint32_t section = 0; section < 2 * kMost; ++section) {
      EXPECT_EQ(find(section, kList).has_value(), section < kMost);
      EXPECT_EQ(build(), 0U);
    }
  }
  // What is not run any more makes room.
  for (uint64_t use = 0; use < LaunchGraphs::kUnusedFor; ++use) find(1, kList);
  EXPECT_FALSE(find(kMost, kList));
  EXPECT_FALSE(find(kMost, kList));
  EXPECT_EQ(build(), 1U);
  EXPECT_LT(find(kMost, kList).value(), kMost);
  EXPECT_TRUE(find(1, kList));
  EXPECT_FALSE(find(0, kList));
}

TEST_F(Graphs, AreNotAskedForAgainWhereThereIsNoRoom) {
  find_until_built(0, kList);
  has_room_ = false;
  find_until_built(1, kList);
  for (int time = 0; time < 3; ++time) {
    EXPECT_FALSE(find(1, kList));
    EXPECT_FALSE(find(2, kList));
    EXPECT_EQ(build(), 0U);
    EXPECT_TRUE(find(0, kList)) << "which was built before";
  }
}

}  // namespace
}  // namespace troupe::kernels::cuda
