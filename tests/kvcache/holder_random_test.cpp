#include "tests/kvcache/random_world.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::kvcache {
namespace {

/// A million events in ten parts, so that processors may share them.
class RandomHolderTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(RandomHolderTest, AgreesWithItsTwinThroughAHundredThousandEvents) {
  for_each_seed(
      1, [](uint64_t seed) { run_random_worlds(seed, 100'000); }, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Seed, RandomHolderTest, ::testing::Range<uint64_t>(100, 110),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace troupe::kvcache
