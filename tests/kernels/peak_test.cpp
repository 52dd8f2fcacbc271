// The loops of nothing but multiply-adds: what they count was computed, in every version.

#include <gtest/gtest.h>

#include "kernels/kernel_set.hpp"

namespace troupe::kernels {
namespace {

TEST(Peak, AddsOneForEachMultiplyAddInEveryVersion) {
  for (const KernelSet* set : cpu_kernels()) {
    for (const auto loop : {set->float_peak, set->integer_peak}) {
      const uint64_t in_a_round = loop(1);
      EXPECT_GE(in_a_round, 1000U) << set->target;
      EXPECT_EQ(in_a_round % 1024, 0U) << set->target;  // no sum has overflowed or was rounded
      EXPECT_EQ(loop(0), 0U) << set->target;
      EXPECT_EQ(loop(7), 7 * in_a_round) << set->target;
    }
  }
}

}  // namespace
}  // namespace troupe::kernels
