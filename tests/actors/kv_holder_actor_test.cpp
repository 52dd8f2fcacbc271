#include "actors/kv_holder_actor.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "actors/messages.hpp"
#include "actors/system.hpp"

namespace troupe::kvcache {

struct HolderDamage {
  /// Of a holder with free blocks, one is nobody's from now on.
  static void lose_a_block(Holder& holder) { (void)holder.cache_.allocate(1); }
};

}  // namespace troupe::kvcache

namespace troupe::actors {
namespace {

/// What a holder that lost a block says of itself after a request came and went.
std::string problem_of_a_damaged_holder(bool check_when_idle) {
  SystemConfig config{SystemOptions{.num_threads = 1}};
  caf::actor_system system(config);
  const auto spawned = system.spawn(
      kv_holder_actor, kvcache::HolderOptions{.num_blocks = 4, .block_tokens = 4}, check_when_idle);
  caf::scoped_actor self(system);
  const auto problem = [&] {
    std::string found;
    self->request(spawned, caf::infinite, KvStatsQuery{.check = true})
        .receive([&](const KvStats& stats) { found = stats.problem; },
                 [&](const caf::error& error) { ADD_FAILURE() << to_string(error); });
    return found;
  };
  EXPECT_EQ(problem(), "");  // it runs, and rests now
  auto* holder = dynamic_cast<caf::stateful_actor<KvHolderState>*>(
      caf::actor_cast<caf::abstract_actor*>(spawned));
  kvcache::HolderDamage::lose_a_block(*holder->state.core);
  const RequestId request{1};
  self->send(spawned, KvEvent{0, kvcache::Reserve{request, "", {1, 2, 3}, 5}});
  self->send(spawned, KvEvent{0, kvcache::Release{request}});
  const std::string found = problem();
  self->send_exit(spawned, caf::exit_reason::kill);
  return found;
}

TEST(KvHolderActor, FindsDamageOnRequest) {
  EXPECT_THAT(problem_of_a_damaged_holder(false), testing::HasSubstr("block"));
}

TEST(KvHolderActor, EndsItsProcessWhenItFindsDamageWhileIdle) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH((void)problem_of_a_damaged_holder(true), "core.check\\(\\).*block");
}

}  // namespace
}  // namespace troupe::actors
