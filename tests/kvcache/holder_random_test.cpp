#include "tests/kvcache/random_world.hpp"

namespace troupe::kvcache {
namespace {

/// A million events in ten parts, so that processors may share them.
class RandomHolderTest : public ::testing::TestWithParam<uint64_t> {};

TEST_P(RandomHolderTest, AgreesWithItsTwinThroughAHundredThousandEvents) {
  run_random_worlds(GetParam(), 100'000);
}

INSTANTIATE_TEST_SUITE_P(Seed, RandomHolderTest, ::testing::Range<uint64_t>(100, 110),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace troupe::kvcache
