#include <gtest/gtest.h>

#include "tests/transport/inbox.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

constexpr NodeId kA{1}, kB{2};

// Which of `n` numbered frames arrive, in order, when they pass through the given faults.
struct Outcome {
  std::vector<uint64_t> arrived;
  uint64_t rejected = 0;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome pass(size_t n, FaultOptions faults, NodeId receiver = kB) {
  Inbox inbox;
  LoopbackNetwork network;
  auto to = network.open({.self = receiver, .on_frame = inbox.frame_handler()});
  auto from = make_fault_port(network.open({.self = kA}), FaultControl(faults));
  auto link = from->connect(receiver, to->address()).value();
  for (size_t i = 0; i < n; ++i) EXPECT_TRUE(link->send(ping(300, i)).ok());
  Outcome outcome{.rejected = to->stats().frames_rejected};
  for (const Frame& frame : inbox.frames()) outcome.arrived.push_back(frame.header.step.value);
  return outcome;
}

std::vector<uint64_t> first(size_t n) {
  std::vector<uint64_t> numbers(n);
  for (size_t i = 0; i < n; ++i) numbers[i] = i;
  return numbers;
}

TEST(FaultLink, WithoutFaultsEverythingPasses) {
  EXPECT_EQ(pass(100, {}), (Outcome{.arrived = first(100)}));
}

TEST(FaultLink, DropsAboutAsManyAsAskedFor) {
  const Outcome outcome = pass(2000, {.seed = 1, .drop = 0.25});
  EXPECT_GT(outcome.arrived.size(), 1400U);
  EXPECT_LT(outcome.arrived.size(), 1600U);
  EXPECT_EQ(outcome.rejected, 0U);
}

TEST(FaultLink, TheSameSeedGivesTheSameFaultsAndAnotherSeedOthers) {
  const FaultOptions faults{
      .seed = 42, .drop = 0.1, .duplicate = 0.1, .reorder = 0.1, .corrupt = 0.1};
  FaultOptions other = faults;
  other.seed = 43;
  EXPECT_EQ(pass(500, faults), pass(500, faults));
  EXPECT_NE(pass(500, faults), pass(500, other));
  EXPECT_NE(pass(500, faults).arrived, pass(500, faults, NodeId{9}).arrived)
      << "peers must not suffer in step";
}

TEST(FaultLink, DuplicatesComeTwiceInARow) {
  const Outcome outcome = pass(50, {.duplicate = 1});
  ASSERT_EQ(outcome.arrived.size(), 100U);
  for (size_t i = 0; i < 100; ++i) EXPECT_EQ(outcome.arrived[i], i / 2);
}

TEST(FaultLink, AHeldFrameComesAfterTheNext) {
  EXPECT_EQ(pass(6, {.reorder = 1}).arrived, (std::vector<uint64_t>{1, 0, 3, 2, 5, 4}));
}

TEST(FaultLink, EveryFlippedBitIsNoticed) {
  const Outcome outcome = pass(5000, {.seed = 3, .corrupt = 1});
  EXPECT_TRUE(outcome.arrived.empty());
  EXPECT_EQ(outcome.rejected, 5000U);
}

TEST(FaultLink, ACutIsSilentAndCanHeal) {
  Inbox inbox;
  LoopbackNetwork network;
  auto to = network.open({.self = kB, .on_frame = inbox.frame_handler()});
  FaultControl control({});
  auto from = make_fault_port(network.open({.self = kA}), control);
  auto link = from->connect(kB, to->address()).value();
  ASSERT_TRUE(link->send(ping(1, 0)).ok());
  control.set({.cut = true});
  ASSERT_TRUE(link->send(ping(1, 1)).ok()) << "a cut is not told";
  control.set({});
  ASSERT_TRUE(link->send(ping(1, 2)).ok());
  const auto frames = inbox.frames();
  ASSERT_EQ(frames.size(), 2U);
  EXPECT_EQ(frames[1].header.step.value, 2U);
}

TEST(FaultLink, CorruptFramesAreNoticedOverUcxToo) {
  Inbox inbox;
  auto to = open_ucx_port({.self = kB, .on_frame = inbox.frame_handler()}, {});
  auto inner = open_ucx_port({.self = kA}, {});
  ASSERT_TRUE(to.ok() && inner.ok());
  FaultControl control({.corrupt = 1});
  auto from = make_fault_port(std::move(inner).value(), control);
  auto link = from->connect(kB, to.value()->address()).value();
  for (const size_t size : {0, 100, 9000, 1 << 20}) ASSERT_TRUE(link->send(ping(size)).ok());
  control.set({});
  ASSERT_TRUE(link->send(ping(5, 6)).ok());
  ASSERT_TRUE(inbox.wait_for_frames(1));
  EXPECT_EQ(inbox.frames()[0].header.step.value, 6U);
  EXPECT_EQ(to.value()->stats().frames_rejected, 4U);
}

}  // namespace
}  // namespace troupe::transport
