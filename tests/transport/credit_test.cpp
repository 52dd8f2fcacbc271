#include "transport/credit.hpp"

#include <gtest/gtest.h>

namespace troupe::transport {
namespace {

constexpr NodeId kA{1}, kB{2};

TEST(CreditLedger, TakesUntilBytesOrFramesAreUsedUp) {
  CreditLedger ledger;
  ledger.grant(kA, {.bytes = 100, .frames = 3});
  EXPECT_TRUE(ledger.take(kA, 60).ok());
  EXPECT_EQ(ledger.take(kA, 41).error().code, Code::kResourceExhausted);
  EXPECT_TRUE(ledger.take(kA, 40).ok());
  EXPECT_EQ(ledger.take(kA, 1).error().code, Code::kResourceExhausted);
  EXPECT_TRUE(ledger.take(kA, 0).ok());
  EXPECT_EQ(ledger.take(kA, 0).error().code, Code::kResourceExhausted) << "three frames are out";
  EXPECT_EQ(ledger.outstanding(kA), (Credit{.bytes = 100, .frames = 3}));
  EXPECT_EQ(ledger.available(kA), (Credit{.bytes = 0, .frames = 0}));
}

TEST(CreditLedger, WhatComesBackCanBeTakenAgain) {
  CreditLedger ledger;
  ledger.grant(kA, {.bytes = 100, .frames = 1});
  ASSERT_TRUE(ledger.take(kA, 100).ok());
  ASSERT_TRUE(ledger.give_back(kA, 100).ok());
  EXPECT_TRUE(ledger.take(kA, 100).ok());
}

TEST(CreditLedger, ADuplicateAnswerGivesNothingBack) {
  CreditLedger ledger;
  ledger.grant(kA, {.bytes = 100, .frames = 2});
  ASSERT_TRUE(ledger.take(kA, 30).ok());
  ASSERT_TRUE(ledger.take(kA, 10).ok());
  EXPECT_EQ(ledger.give_back(kA, 41).error().code, Code::kInvalidArgument);
  ASSERT_TRUE(ledger.give_back(kA, 30).ok());
  ASSERT_TRUE(ledger.give_back(kA, 10).ok());
  EXPECT_EQ(ledger.give_back(kA, 0).error().code, Code::kInvalidArgument);
  EXPECT_EQ(ledger.available(kA), (Credit{.bytes = 100, .frames = 2}));
}

TEST(CreditLedger, PeersDoNotShareCredit) {
  CreditLedger ledger;
  ledger.grant(kA, {.bytes = 10, .frames = 1});
  ledger.grant(kB, {.bytes = 10, .frames = 1});
  ASSERT_TRUE(ledger.take(kA, 10).ok());
  EXPECT_TRUE(ledger.take(kB, 10).ok());
}

TEST(CreditLedger, AFrameLargerThanTheGrantIsRefusedForGood) {
  CreditLedger ledger;
  ledger.grant(kA, {.bytes = 10, .frames = 1});
  EXPECT_EQ(ledger.take(kA, 11).error().code, Code::kInvalidArgument);
}

TEST(CreditLedger, AStrangerHasNoCredit) {
  CreditLedger ledger;
  EXPECT_EQ(ledger.take(kA, 1).error().code, Code::kNotFound);
  EXPECT_EQ(ledger.give_back(kA, 1).error().code, Code::kNotFound);
  EXPECT_EQ(ledger.available(kA), Credit{});
}

TEST(CreditLedger, ALowerGrantStopsTakingUntilEnoughIsBack) {
  CreditLedger ledger;
  ledger.grant(kA, {.bytes = 100, .frames = 4});
  ASSERT_TRUE(ledger.take(kA, 50).ok());
  ASSERT_TRUE(ledger.take(kA, 30).ok());
  ledger.grant(kA, {.bytes = 60, .frames = 2});
  EXPECT_EQ(ledger.available(kA), (Credit{.bytes = 0, .frames = 0}));
  EXPECT_EQ(ledger.take(kA, 0).error().code, Code::kResourceExhausted);
  ASSERT_TRUE(ledger.give_back(kA, 50).ok());
  EXPECT_EQ(ledger.available(kA), (Credit{.bytes = 30, .frames = 1}));
}

TEST(CreditLedger, AForgottenPeerStartsAnew) {
  CreditLedger ledger;
  ledger.grant(kA, {.bytes = 10, .frames = 1});
  ASSERT_TRUE(ledger.take(kA, 10).ok());
  ledger.forget(kA);
  EXPECT_EQ(ledger.give_back(kA, 10).error().code, Code::kNotFound);
  ledger.grant(kA, {.bytes = 10, .frames = 1});
  EXPECT_TRUE(ledger.take(kA, 10).ok());
}

}  // namespace
}  // namespace troupe::transport
