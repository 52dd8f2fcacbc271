#include "tests/actors/pressure.hpp"

namespace troupe::actors {
namespace {

TEST(SchedulingPressure, ChangesNoTokenOfTwoHundredRequests) {
  for_each_seed(1, expect_no_token_changes_under_pressure);
}

}  // namespace
}  // namespace troupe::actors
