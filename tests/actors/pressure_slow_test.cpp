#include "tests/actors/pressure.hpp"

namespace troupe::actors {
namespace {

TEST(SchedulingPressureOfManySeeds, ChangesNoToken) {
  uint64_t num_fetched = 0;
  for_each_seed(25,
                [&](uint64_t seed) { expect_no_token_changes_under_pressure(seed, num_fetched); });
  if (!usual_seeds()) return;
  EXPECT_GT(num_fetched, 100U);
}

}  // namespace
}  // namespace troupe::actors
