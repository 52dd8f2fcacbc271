#include "actors/run_here.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/support/virtual_process.hpp"

namespace troupe::actors {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

/// The test plays CAF's threads, so what is handled without them was handled by the caller.
class RunHereTest : public testing::Test {
 protected:
  ~RunHereTest() override {
    for (const caf::actor& actor : actors_) caf::anon_send_exit(actor, caf::exit_reason::kill);
    actors_.clear();
    run_caf();
  }

  void run_caf() { process_.coordinator().run(); }

  /// An actor that waits for its first message.
  template <class Handler>
  caf::actor idle_actor(Handler handler) {
    actors_.push_back(process_.system().spawn([handler](caf::event_based_actor* self) {
      return caf::behavior{[self, handler](int number) { handler(self, number); }};
    }));
    run_caf();
    return actors_.back();
  }

  VirtualProcess process_{/*networked=*/false, Instant{seconds(1).ns}};
  RunHere here_{process_.system()};
  std::vector<caf::actor> actors_;
  std::vector<int> handled_;
};

TEST_F(RunHereTest, AnIdleActorHandlesAMessageBeforeSendReturns) {
  const caf::actor actor = idle_actor([this](auto*, int number) { handled_.push_back(number); });
  here_.send(actor, 1);
  here_.send(actor, 2);
  EXPECT_THAT(handled_, ElementsAre(1, 2));
}

TEST_F(RunHereTest, WithoutItAThreadOfCafsHandlesTheMessage) {
  const caf::actor actor = idle_actor([this](auto*, int number) { handled_.push_back(number); });
  send(nullptr, actor, 1);
  EXPECT_THAT(handled_, IsEmpty());
  run_caf();
  EXPECT_THAT(handled_, ElementsAre(1));
}

TEST_F(RunHereTest, AnActorThatHasSomethingToHandleIsNotRunTwice) {
  const caf::actor actor = idle_actor([this](auto*, int number) { handled_.push_back(number); });
  caf::anon_send(actor, 1);
  here_.send(actor, 2);
  EXPECT_THAT(handled_, IsEmpty());
  run_caf();
  EXPECT_THAT(handled_, ElementsAre(1, 2));
}

TEST_F(RunHereTest, AMessageSentWithinAHandlerWaitsForItsEnd) {
  const caf::actor actor = idle_actor([this](caf::event_based_actor* self, int number) {
    if (number == 1) here_.send(caf::actor(self), 2);
    handled_.push_back(number);
  });
  here_.send(actor, 1);
  EXPECT_THAT(handled_, ElementsAre(1, 2));
}

TEST_F(RunHereTest, WhomTheActorWakesCafRuns) {
  const caf::actor other = idle_actor([this](auto*, int number) { handled_.push_back(number); });
  const caf::actor actor =
      idle_actor([other](caf::event_based_actor* self, int number) { self->send(other, number); });
  here_.send(actor, 1);
  EXPECT_THAT(handled_, IsEmpty());
  run_caf();
  EXPECT_THAT(handled_, ElementsAre(1));
}

TEST_F(RunHereTest, CafGoesOnWithAnActorThatHasManyMessages) {
  const caf::actor actor = idle_actor([this](caf::event_based_actor* self, int number) {
    handled_.push_back(number);
    if (number < 1000) self->send(self, number + 1);
  });
  here_.send(actor, 1);
  EXPECT_GE(handled_.size(), 1U);
  EXPECT_LE(handled_.size(), 100U);
  run_caf();
  EXPECT_THAT(handled_, SizeIs(1000));
}

TEST_F(RunHereTest, ADeadActorHandlesNothing) {
  const caf::actor actor = idle_actor([this](auto*, int number) { handled_.push_back(number); });
  caf::anon_send_exit(actor, caf::exit_reason::kill);
  run_caf();
  here_.send(actor, 1);
  run_caf();
  EXPECT_THAT(handled_, IsEmpty());
}

}  // namespace
}  // namespace troupe::actors
