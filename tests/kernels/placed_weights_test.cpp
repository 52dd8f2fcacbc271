// Weights in the host's memory stay where they are; elsewhere they are complete copies.

#include "kernels/placed_weights.hpp"

#include <gtest/gtest.h>

#include "base/panels.hpp"
#include "tests/kernels/other_memory.hpp"
#include "tests/kernels/support.hpp"

namespace troupe::kernels {
namespace {

constexpr size_t kOut = 144, kIn = 160;  // more than one block of FP8's scales each way

std::vector<float> product(const WeightView& w) {
  std::vector<float> x(kIn, 0.5F), y(kOut);
  for (size_t i = 0; i < kIn; ++i) x[i] += static_cast<float>(i % 7);
  scalar().gemm({.x = {x.data(), 1, kIn}, .w = w, .y = {y.data(), 1, kOut}});
  return y;
}

void expect_whole_copy(const WeightView& placed, const WeightView& from) {
  EXPECT_NE(placed.data, from.data);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(placed.data) % 256, 0U);
  if (from.scales != nullptr) {
    EXPECT_NE(placed.scales, from.scales);
  }
  if (is_integer(from.dtype)) {
    EXPECT_NE(placed.group_scales.data, from.group_scales.data);
  }
  if (from.group_scales.zeros != nullptr) {
    EXPECT_NE(placed.group_scales.zeros, from.group_scales.zeros);
  }
}

TEST(PlacedWeights, StayWhereTheyAreInTheHostsMemory) {
  Draws draws(1);
  const StoredWeight w(DType::kF8E4M3, kOut, kIn, draws);
  const auto memory = make_host_memory();
  PlacedWeights weights(*memory);
  const auto placed = weights.place(w.view);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->data, w.view.data);
  EXPECT_EQ(placed->scales, w.view.scales);
  const std::vector<float> values{1, 2};
  EXPECT_EQ(*weights.place(values), values.data());
}

TEST(PlacedWeights, AreCopiedWithTheirScalesAndZeros) {
  Draws draws(2);
  OtherMemory memory;
  PlacedWeights weights(memory);
  for (const DType dtype : all_dtypes()) {
    StoredWeight w(dtype, kOut, kIn, draws);
    const std::vector<float> want = product(w.view);
    const auto placed = weights.place(w.view);
    ASSERT_TRUE(placed.ok());
    expect_whole_copy(*placed, w.view);
    std::ranges::fill(w.bytes, std::byte{0});
    std::ranges::fill(w.scales, 0.0F);
    EXPECT_EQ(product(*placed), want) << to_string(dtype);
  }
  for (const IntegerForm& form : integer_forms()) {
    IntegerWeight w(form, kOut, kIn, draws);
    const std::vector<float> want = product(w.view);
    const auto placed = weights.place(w.view);
    ASSERT_TRUE(placed.ok());
    expect_whole_copy(*placed, w.view);
    std::ranges::fill(w.bytes, std::byte{0});
    std::ranges::fill(w.scales, std::byte{0});
    std::ranges::fill(w.zeros, uint8_t{0});
    EXPECT_EQ(product(*placed), want) << form.name;
  }
}

TEST(PlacedWeights, LeaveTheHostOnlyWithZerosThatDevicesComputeWith) {
  Draws draws(3);
  OtherMemory device;
  const auto host = make_host_memory();
  for (const bool fits : {true, false}) {
    IntegerWeight w({"I4", DType::kI4, 32, DType::kF32, true}, 16, 64, draws);
    w.zeros.back() = kMaxZeroOfI4 + (fits ? 0 : 1);
    EXPECT_TRUE(PlacedWeights(*host).place(w.view).ok());
    PlacedWeights weights(device);
    const auto placed = weights.place(w.view);
    ASSERT_EQ(placed.ok(), fits);
    if (fits) continue;
    EXPECT_EQ(placed.error().code, Code::kUnsupported);
    EXPECT_NE(placed.error().message.find("a zero of 129"), std::string::npos)
        << placed.error().message;
  }
}

TEST(PlacedWeights, HaveACopyOfTheirOrderOfColumnsThatOthersWithTheSameShare) {
  Draws draws(4);
  IntegerWeight w(integer_forms()[0], kOut, kIn, draws);
  std::vector<uint32_t> columns(kIn), others(kIn);
  for (uint32_t i = 0; i < kIn; ++i) columns[i] = others[i] = kIn - 1 - i;
  w.view.columns = columns.data();
  const auto host = make_host_memory();
  EXPECT_EQ(PlacedWeights(*host).place(w.view)->columns, columns.data());
  const std::vector<float> want = product(w.view);
  OtherMemory device;
  PlacedWeights weights(device);
  const auto placed = weights.place(w.view), again = weights.place(w.view);
  w.view.columns = others.data();
  const auto other = weights.place(w.view);
  ASSERT_TRUE(placed.ok() && again.ok() && other.ok());
  EXPECT_NE(placed->columns, columns.data());
  EXPECT_EQ(again->columns, placed->columns);
  EXPECT_NE(other->columns, placed->columns);
  std::ranges::fill(columns, 0U);
  EXPECT_EQ(product(*placed), want);
}

TEST(PlacedWeights, StayEmptyAndAreReleasedWithTheObject) {
  OtherMemory memory;
  {
    PlacedWeights weights(memory);
    const auto empty = weights.place(WeightView());
    ASSERT_TRUE(empty.ok());
    EXPECT_TRUE(empty->empty());
    EXPECT_EQ(*weights.place(std::vector<float>()), nullptr);
    EXPECT_EQ(memory.num_allocated, 0);
    ASSERT_TRUE(weights.place(std::vector<float>{1, 2}).ok());
    EXPECT_EQ(memory.num_allocated, 1);
  }
  EXPECT_EQ(memory.num_allocated, 0);
}

TEST(PlacedWeights, AreRefusedWhereThereIsNoRoom) {
  OtherMemory memory;
  memory.allocations_left = 0;
  PlacedWeights weights(memory);
  const auto placed = weights.place(std::vector<float>{1, 2});
  ASSERT_FALSE(placed.ok());
  EXPECT_EQ(placed.error().code, Code::kResourceExhausted);
}

}  // namespace
}  // namespace troupe::kernels
