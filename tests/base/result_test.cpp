#include "base/result.hpp"

#include <gtest/gtest.h>

#include <memory>

namespace troupe {
namespace {

Result<int> half(int x) {
  if (x % 2 != 0) return Error{Code::kInvalidArgument, std::to_string(x) + " is odd"};
  return x / 2;
}

Result<int> quarter(int x) {
  const int h = TRY(half(x));
  return TRY(half(h));
}

Result<void> only_even(int x) {
  TRY(half(x));
  return {};
}

Result<std::unique_ptr<int>> boxed(int x) { return std::make_unique<int>(TRY(half(x))); }

TEST(Result, TryTakesTheValueOrReturnsTheError) {
  EXPECT_EQ(*quarter(12), 3);
  ASSERT_FALSE(quarter(6).ok());
  EXPECT_EQ(quarter(6).error().message, "3 is odd");
  EXPECT_TRUE(only_even(2).ok());
  EXPECT_EQ(only_even(1).error().code, Code::kInvalidArgument);
}

TEST(Result, HoldsMoveOnlyValues) { EXPECT_EQ(**boxed(8), 4); }

TEST(Result, ContextIsPrepended) {
  EXPECT_EQ(Error({Code::kCorrupt, "bad length"}).with_context("reading x").message,
            "reading x: bad length");
}

}  // namespace
}  // namespace troupe
