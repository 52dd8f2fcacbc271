// Who has the watch, step by step; the test's own thread plays the one that can go on.

#include "transport/ucx_watch.hpp"

#include <gtest/gtest.h>
#include <poll.h>

#include <atomic>
#include <thread>

#include "tests/transport/inbox.hpp"

namespace troupe::transport {
namespace {

bool never() { return false; }
bool at_once() { return true; }

class Watch : public testing::Test {
 protected:
  bool is_signalled() {
    pollfd event{.fd = watch_.event_fd(), .events = POLLIN, .revents = 0};
    return poll(&event, 1, /*timeout=*/0) == 1;
  }

  UcxWatch watch_;
};

TEST_F(Watch, IsTheDriversUntilAGuestAsksForIt) {
  EXPECT_TRUE(watch_.is_kept());
  EXPECT_FALSE(watch_.is_wanted());
  std::thread guest([&] { EXPECT_TRUE(watch_.take(never)); });
  EXPECT_TRUE(eventually([&] { return watch_.is_wanted() && is_signalled(); }))
      << "the driver's thread, which may sleep, is woken to hand it over";
  watch_.woke();
  watch_.leave();
  EXPECT_TRUE(watch_.is_kept()) << "handed over: the driver's thread must not take it back";
  guest.join();
  EXPECT_FALSE(watch_.is_wanted());
}

TEST_F(Watch, IsTakenAtOnceWhereNobodyHasIt) {
  watch_.leave();
  EXPECT_FALSE(watch_.is_kept());
  EXPECT_TRUE(watch_.take(never));
  EXPECT_TRUE(watch_.is_kept());
  EXPECT_FALSE(is_signalled());
}

TEST_F(Watch, GoesBackToTheDriverWhenTheGuestIsAway) {
  watch_.leave();
  ASSERT_TRUE(watch_.take(never));
  std::atomic<bool> resumed = false;
  std::thread driver([&] {
    watch_.resume();
    resumed = true;
  });
  watch_.leave();
  driver.join();  // at the latest some milliseconds later
  EXPECT_TRUE(resumed);
  EXPECT_TRUE(watch_.is_kept());
}

TEST_F(Watch, StaysTheGuestsWhoTookItJustBeforeTheDriver) {
  watch_.leave();
  std::atomic<bool> resumed = false;
  std::thread driver([&] {
    watch_.resume();
    resumed = true;
  });
  // Asked under the lock: meanwhile the driver's time comes, and it waits for the lock.
  ASSERT_TRUE(watch_.take([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return false;
  }));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_FALSE(resumed);
  watch_.leave();
  driver.join();
}

TEST_F(Watch, WakesWhoeverHasIt) {
  watch_.wake();
  EXPECT_TRUE(is_signalled()) << "the driver's thread";
  watch_.woke();
  EXPECT_FALSE(is_signalled());
  watch_.leave();
  ASSERT_TRUE(watch_.take(never));
  watch_.wake();
  EXPECT_TRUE(is_signalled()) << "the guest";
}

TEST_F(Watch, AGuestWithSomethingToDoDoesNotTakeIt) {
  watch_.leave();
  EXPECT_FALSE(watch_.take(at_once));
  EXPECT_FALSE(watch_.is_kept());
}

TEST_F(Watch, AGuestThatIsCalledWaitsNoLonger) {
  std::atomic<bool> done = false;
  std::thread guest([&] { EXPECT_FALSE(watch_.take([&] { return done.load(); })); });
  EXPECT_TRUE(eventually([&] { return watch_.is_wanted(); }));
  done = true;
  watch_.call_guest();
  guest.join();
  EXPECT_FALSE(watch_.is_wanted()) << "nobody to hand it to";
}

TEST_F(Watch, AGuestThatIsCalledWakes) {
  watch_.call_guest();
  EXPECT_FALSE(is_signalled()) << "there is none";
  watch_.leave();
  ASSERT_TRUE(watch_.take(never));
  watch_.call_guest();
  EXPECT_TRUE(is_signalled());
}

}  // namespace
}  // namespace troupe::transport
