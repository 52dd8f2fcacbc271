#include <gtest/gtest.h>

#include "tests/transport/inbox.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

TEST(ManualLoopback, DeliversOnlyWhatWasQueuedBeforeEachPump) {
  LoopbackNetwork network(/*manual=*/true);
  std::vector<uint64_t> seen;
  std::shared_ptr<Link> link;
  auto b = network.open({.self = NodeId{2}, .on_frame = [&](const Frame& frame) {
                           seen.push_back(frame.header.step.value);
                           if (seen.size() < 4) (void)link->send(ping(1, 10 * seen.size()));
                         }});
  auto a = network.open({.self = NodeId{1}});
  link = a->connect(NodeId{2}, b->address()).value();
  ASSERT_TRUE(link->send(ping(1, 1)).ok());
  ASSERT_TRUE(link->send(ping(1, 2)).ok());
  EXPECT_TRUE(seen.empty());
  EXPECT_EQ(network.pump(), 2U);
  EXPECT_EQ(seen, (std::vector<uint64_t>{1, 2}));
  EXPECT_EQ(network.pump(), 2U);
  EXPECT_EQ(seen, (std::vector<uint64_t>{1, 2, 10, 20}));
  EXPECT_EQ(network.pump(), 1U);
  EXPECT_EQ(network.pump(), 0U);
}

TEST(ManualLoopback, BoundsWhatIsQueuedPerLink) {
  LoopbackNetwork network(/*manual=*/true);
  Inbox inbox;
  auto b = network.open({.self = NodeId{2}, .on_frame = inbox.frame_handler()});
  auto a = network.open({.self = NodeId{1}, .max_queued_bytes = 3000});
  auto link = a->connect(NodeId{2}, b->address()).value();
  ASSERT_TRUE(link->send(ping(2000)).ok());
  EXPECT_EQ(link->send(ping(2000)).error().code, Code::kResourceExhausted);
  EXPECT_EQ(network.pump(), 1U);
  EXPECT_TRUE(link->send(ping(2000)).ok());
}

TEST(ManualLoopback, AClosedLinkDropsWhatIsQueued) {
  LoopbackNetwork network(/*manual=*/true);
  Inbox inbox;
  auto b = network.open({.self = NodeId{2}, .on_frame = inbox.frame_handler()});
  auto a = network.open({.self = NodeId{1}});
  auto link = a->connect(NodeId{2}, b->address()).value();
  ASSERT_TRUE(link->send(ping(1)).ok());
  link->close();
  network.pump();
  EXPECT_TRUE(inbox.frames().empty());
}

TEST(Loopback, AnUnknownAddressIsUnavailable) {
  LoopbackNetwork network;
  auto a = network.open({.self = NodeId{1}});
  EXPECT_EQ(a->connect(NodeId{2}, "loopback:99").error().code, Code::kUnavailable);
}

}  // namespace
}  // namespace troupe::transport
