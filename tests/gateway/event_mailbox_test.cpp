#include "gateway/event_mailbox.hpp"

#include <gtest/gtest.h>

namespace troupe::gateway {
namespace {

using namespace scheduler;

TokensEmitted tokens(uint32_t first, uint32_t count) {
  TokensEmitted event{RequestId{1}, first, {}};
  event.tokens.resize(count);
  return event;
}

TEST(EventMailbox, WakesOncePerFilling) {
  int wakes = 0;
  EventMailbox mailbox(10, [&] { ++wakes; });
  mailbox.push(0, Admitted{});
  mailbox.push(1, Admitted{});
  EXPECT_EQ(wakes, 1);
  EXPECT_EQ(mailbox.take().size(), 2U);
  mailbox.push(0, Admitted{});
  EXPECT_EQ(wakes, 2);
}

TEST(EventMailbox, JoinsTokensOfOneChoiceButKeepsTheOrderOfEvents) {
  EventMailbox mailbox(10, [] {});
  mailbox.push(0, tokens(0, 1));
  mailbox.push(0, tokens(1, 2));
  mailbox.push(1, tokens(0, 1));
  mailbox.push(0, tokens(3, 1));
  mailbox.push(0, Finished{});
  const auto events = mailbox.take();
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(std::get<TokensEmitted>(events[0].event).tokens.size(), 3U);
  EXPECT_EQ(events[1].choice, 1U);
  EXPECT_EQ(std::get<TokensEmitted>(events[2].event).first, 3U);
  EXPECT_TRUE(std::holds_alternative<Finished>(events[3].event));
}

TEST(EventMailbox, DropsWhatGoesBeyondItsBoundAndSaysSo) {
  EventMailbox mailbox(3, [] {});
  EXPECT_TRUE(mailbox.push(0, tokens(0, 3)));
  EXPECT_FALSE(mailbox.overflowed());
  EXPECT_FALSE(mailbox.push(0, tokens(3, 1)));
  EXPECT_TRUE(mailbox.overflowed());
  EXPECT_EQ(mailbox.take().size(), 1U);
}

TEST(EventMailbox, IsSilentOnceClosed) {
  int wakes = 0;
  EventMailbox mailbox(3, [&] { ++wakes; });
  mailbox.close();
  mailbox.push(0, Admitted{});
  EXPECT_EQ(wakes, 0);
  EXPECT_TRUE(mailbox.take().empty());
}

}  // namespace
}  // namespace troupe::gateway
