#include "tests/kvcache/random_world.hpp"

namespace troupe::kvcache {
namespace {

TEST(Holder, AgreesWithItsTwinUnderRandomUse) { run_random_worlds(1, 50'000); }

}  // namespace
}  // namespace troupe::kvcache
