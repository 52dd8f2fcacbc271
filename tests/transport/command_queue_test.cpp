// Whose turn it is to do the driver's work, step by step in one thread: the test plays the driver's
// thread.

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>

#include "transport/ucx_driver.hpp"

namespace troupe::transport {
namespace {

UcxCommand command(UcxCommand::Kind kind) {
  return {.kind = kind,
          .channel = std::make_shared<Channel>(NodeId{7}, /*max_queued=*/1, /*by_shm=*/false)};
}
UcxCommand a_send() { return command(UcxCommand::Kind::kSend); }

/// A queue of which senders take the turn, and what the driver's thread would see of it.
class CommandTurns : public testing::Test {
 protected:
  CommandTurns() {
    queue_.lend_to_senders([this] {
      ++num_turns_;
      in_turn_();
    });
  }

  /// The driver's thread, awake until now, has nothing to do and goes to sleep.
  void fall_asleep() { ASSERT_TRUE(queue_.announce_sleep()); }
  size_t take() {
    std::vector<UcxCommand> taken;
    EXPECT_TRUE(queue_.take(taken));
    return taken.size();
  }
  [[nodiscard]] bool is_driver_woken() {
    pollfd event{.fd = queue_.watch().event_fd(), .events = POLLIN};
    return poll(&event, 1, /*timeout=*/0) == 1;
  }
  /// Whether somebody has the turn; asked by another thread, since one must not try its own lock.
  bool is_turn_taken() {
    bool taken = false;
    std::thread([&] {
      taken = !queue_.turn().try_lock();
      if (!taken) queue_.turn().unlock();
    }).join();
    return taken;
  }

  CommandQueue queue_;
  int num_turns_ = 0;
  std::function<void()> in_turn_ = [] {};
};

TEST_F(CommandTurns, ASendWhileTheDriverIsAwakeIsLeftToIt) {
  EXPECT_TRUE(queue_.push(a_send()));
  EXPECT_EQ(num_turns_, 0);
  EXPECT_FALSE(is_driver_woken()) << "it looks before it sleeps";
  EXPECT_FALSE(queue_.announce_sleep()) << "there it is";
  EXPECT_EQ(take(), 1U);
  EXPECT_TRUE(queue_.announce_sleep());
}

TEST_F(CommandTurns, ASendWhileTheDriverSleepsTakesItsTurn) {
  fall_asleep();
  bool taken = false;
  in_turn_ = [&] {
    taken = is_turn_taken();
    EXPECT_EQ(take(), 1U);
    EXPECT_TRUE(queue_.announce_sleep());
  };
  EXPECT_TRUE(queue_.push(a_send()));
  EXPECT_EQ(num_turns_, 1);
  EXPECT_TRUE(taken);
  EXPECT_FALSE(is_turn_taken()) << "it is given back";
  EXPECT_FALSE(is_driver_woken());
  EXPECT_TRUE(queue_.push(a_send())) << "and lent again, as nobody woke since";
  EXPECT_EQ(num_turns_, 2);
}

TEST_F(CommandTurns, WhatIsSentDuringATurnIsLeftToIt) {
  fall_asleep();
  in_turn_ = [&] {
    EXPECT_EQ(take(), 1U);
    EXPECT_TRUE(queue_.push(a_send())) << "as a handler does";
    std::thread([&] { EXPECT_TRUE(queue_.push(a_send())); }).join();
    EXPECT_FALSE(queue_.announce_sleep()) << "it must not be given up with these two in the queue";
    EXPECT_EQ(take(), 2U);
    EXPECT_TRUE(queue_.announce_sleep());
  };
  EXPECT_TRUE(queue_.push(a_send()));
  EXPECT_EQ(num_turns_, 1);
  EXPECT_FALSE(is_driver_woken());
}

TEST_F(CommandTurns, OpeningAndClosingWakeTheDriverInstead) {
  for (const auto kind : {UcxCommand::Kind::kOpen, UcxCommand::Kind::kClose}) {
    fall_asleep();
    EXPECT_TRUE(queue_.push(command(kind)));
    EXPECT_TRUE(is_driver_woken());
    queue_.woke();
    EXPECT_FALSE(is_driver_woken());
    EXPECT_EQ(take(), 1U);
  }
  EXPECT_EQ(num_turns_, 0);
}

TEST_F(CommandTurns, ADriverThatIsAboutToSleepIsWoken) {
  std::thread([&] {  // it has announced, and not yet let go of the turn
    const std::lock_guard turn(queue_.turn());
    fall_asleep();
    std::thread([&] { EXPECT_TRUE(queue_.push(a_send())); }).join();
  })
      .join();
  EXPECT_EQ(num_turns_, 0);
  EXPECT_TRUE(is_driver_woken());
}

TEST_F(CommandTurns, ADriverThatWokeHasTheTurnAgain) {
  fall_asleep();
  queue_.woke();  // by UCX
  EXPECT_TRUE(queue_.push(a_send()));
  EXPECT_EQ(num_turns_, 0);
  EXPECT_EQ(take(), 1U);
}

TEST_F(CommandTurns, ShuttingWakesASleepingDriverAndRefusesWhatComesLater) {
  fall_asleep();
  queue_.shut();
  EXPECT_TRUE(is_driver_woken());
  EXPECT_FALSE(queue_.push(a_send()));
  EXPECT_EQ(num_turns_, 0);
  std::vector<UcxCommand> taken;
  EXPECT_FALSE(queue_.take(taken));
  EXPECT_TRUE(taken.empty());
  EXPECT_FALSE(queue_.announce_sleep()) << "nobody would wake it";
}

TEST_F(CommandTurns, ShuttingDuringATurnLeavesItToTheSenderToWakeTheDriver) {
  fall_asleep();
  in_turn_ = [&] {
    queue_.shut();
    EXPECT_FALSE(is_driver_woken());
    std::vector<UcxCommand> taken;
    EXPECT_FALSE(queue_.take(taken));
    EXPECT_EQ(taken.size(), 1U) << "what was queued before is handed out";
    EXPECT_FALSE(queue_.announce_sleep()) << "so the turn ends as any that is not done: by waking";
    queue_.watch().wake();
  };
  EXPECT_TRUE(queue_.push(a_send()));
  EXPECT_TRUE(is_driver_woken());
}

/// A driver whose thread never runs: it sleeps for good.
struct SleepingDriver {
  explicit SleepingDriver(int64_t spin_ns) : ucx{.wires = UcxWires::kNet, .spin_ns = spin_ns} {
    const auto opened = driver.open();
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    EXPECT_TRUE(commands.announce_sleep());
  }
  [[nodiscard]] bool is_woken() {
    pollfd event{.fd = commands.watch().event_fd(), .events = POLLIN};
    return poll(&event, 1, /*timeout=*/0) == 1;
  }

  PortOptions options{.self = NodeId{1}};
  UcxOptions ucx;
  PortCounters counters;
  CommandQueue commands;
  UcxDriver driver{options, ucx, commands, counters};
};

TEST(UcxDriverTurns, OfASenderLeaveTheDriverAsleepUnlessItIsToSpinForAnAnswer) {
  SleepingDriver event_driven(/*spin_ns=*/0), spinning(seconds(3600).ns);
  EXPECT_TRUE(event_driven.commands.push(a_send()));
  EXPECT_FALSE(event_driven.is_woken());
  EXPECT_TRUE(spinning.commands.push(a_send()));
  EXPECT_TRUE(spinning.is_woken());
}

}  // namespace
}  // namespace troupe::transport
