#include "tests/kvcache/random_world.hpp"

namespace troupe::kvcache {
namespace {

TEST(Holder, AgreesWithItsTwinThroughAMillionEvents) {
  for (uint64_t seed = 100; seed < 110; ++seed) {
    ASSERT_NO_FATAL_FAILURE(run_random_worlds(seed, 100'000));
  }
}

}  // namespace
}  // namespace troupe::kvcache
