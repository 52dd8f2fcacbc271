#include "tests/actors/pressure.hpp"

namespace troupe::actors {
namespace {

TEST(SchedulingPressure, ChangesNoTokenOfTwoHundredRequests) {
  uint64_t num_fetched = 0;
  for_each_seed(1,
                [&](uint64_t seed) { expect_no_token_changes_under_pressure(seed, num_fetched); });
}

}  // namespace
}  // namespace troupe::actors
