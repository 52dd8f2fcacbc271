#include "tests/actors/pressure.hpp"

namespace troupe::actors {
namespace {

TEST(SchedulingPressureOfManySeeds, ChangesNoToken) {
  for_each_seed(25, expect_no_token_changes_under_pressure);
}

}  // namespace
}  // namespace troupe::actors
