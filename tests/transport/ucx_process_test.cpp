// Links between processes: whole frames, and peers that die or stop in the middle of them.

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <thread>

#include "tests/transport/inbox.hpp"
#include "tests/transport/peer_process.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

constexpr uint64_t kCluster = 77;
constexpr NodeId kSelf{1}, kPeer{2}, kOther{3};

class UcxProcess : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Port> open(NodeId self, Inbox& inbox,
                             size_t max_queued_bytes = size_t{64} << 20) {
    auto port = open_ucx_port({.self = self,
                               .cluster = kCluster,
                               .max_queued_bytes = max_queued_bytes,
                               .on_frame = inbox.frame_handler(),
                               .on_link_down = inbox.down_handler()},
                              {.wires = GetParam() == "shm" ? UcxWires::kShm : UcxWires::kNet});
    EXPECT_TRUE(port.ok()) << port.error().message;
    return std::move(port).value();
  }

  static std::shared_ptr<Link> connect(Port& port, NodeId peer, const std::string& address) {
    auto link = port.connect(peer, address);
    EXPECT_TRUE(link.ok()) << link.error().message;
    return std::move(link).value();
  }

  static void expect_a_frame_passes(Port& from, Port& to, Inbox& inbox) {
    const size_t before = inbox.frames().size();
    auto link = connect(from, kOther, to.address());
    ASSERT_TRUE(link->send(ping(100'000, before)).ok());
    ASSERT_TRUE(inbox.wait_for_frames(before + 1));
    EXPECT_TRUE(same_payload(inbox.frames().back(), ping(100'000, before)));
  }
};

TEST_P(UcxProcess, EchoesFramesOfEverySize) {
  Inbox inbox;
  auto port = open(kSelf, inbox);
  PeerProcess peer(GetParam(), "echo");
  auto link = connect(*port, kPeer, peer.address());
  peer.meet(port->address());
  const std::vector<size_t> sizes = {0, 1, 63, 64, 65, 8192, 20'000, 1 << 20, 32 << 20, 7};
  for (size_t i = 0; i < sizes.size(); ++i) ASSERT_TRUE(link->send(ping(sizes[i], i)).ok());
  ASSERT_TRUE(inbox.wait_for_frames(sizes.size()));
  const auto frames = inbox.frames();
  for (size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(frames[i].header.kind, FrameKind::kPong);
    EXPECT_EQ(frames[i].header.source, kPeer);
    EXPECT_TRUE(same_payload(frames[i], ping(sizes[i], i))) << "size " << sizes[i];
  }
  EXPECT_EQ(link->stats().transport, "ucx:" + GetParam());
  EXPECT_TRUE(eventually([&] { return link->stats().frames_sent == sizes.size(); }));
  EXPECT_EQ(link->stats().frames_received, sizes.size());
}

TEST_P(UcxProcess, AKilledPeerIsToldOnceAndSendsFailFromThenOn) {
  Inbox inbox;
  auto port = open(kSelf, inbox);
  PeerProcess peer(GetParam(), "flood", 3 << 20);
  auto link = connect(*port, kPeer, peer.address());
  peer.meet(port->address());
  ASSERT_TRUE(inbox.wait_for_frames(3));
  for (int i = 0; i < 10; ++i) (void)link->send(ping(3 << 20));
  peer.end(SIGKILL);
  ASSERT_TRUE(inbox.wait_for_losses(1));
  EXPECT_EQ(inbox.losses()[0].first, kPeer);
  EXPECT_EQ(inbox.losses()[0].second.code, Code::kUnavailable) << inbox.losses()[0].second.message;
  const auto refused = link->send(ping(10));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnavailable);

  Inbox inbox_other;
  auto other = open(kOther, inbox_other);
  expect_a_frame_passes(*port, *other, inbox_other);
  EXPECT_EQ(inbox.losses().size(), 1U);
}

TEST_P(UcxProcess, AStoppedPeerBoundsTheQueueAndCannotHoldUpClose) {
  Inbox inbox;
  auto port = open(kSelf, inbox, 16 << 20);
  PeerProcess peer(GetParam(), "echo");
  auto link = connect(*port, kPeer, peer.address());
  peer.meet(port->address());
  ASSERT_TRUE(link->send(ping(10)).ok());
  ASSERT_TRUE(inbox.wait_for_frames(1));
  peer.signal(SIGSTOP);
  Result<void> sent;
  for (int i = 0; i < 10'000 && sent.ok(); ++i) sent = link->send(ping(i % 2 == 0 ? 1 << 20 : 100));
  ASSERT_FALSE(sent.ok()) << "10 GB were queued to a stopped peer";
  EXPECT_EQ(sent.error().code, Code::kResourceExhausted);
  link->close();
  EXPECT_EQ(link->send(ping(1)).error().code, Code::kUnavailable);

  Inbox inbox_other;
  auto other = open(kOther, inbox_other);
  expect_a_frame_passes(*port, *other, inbox_other);
  port.reset();
  EXPECT_TRUE(inbox.losses().empty()) << "who closes a link is not told that it is down";
}

TEST_P(UcxProcess, APortWithPendingSendsToAStoppedPeerCanBeDestroyed) {
  Inbox inbox;
  auto port = open(kSelf, inbox);
  PeerProcess peer(GetParam(), "flood", 1 << 20);
  auto link = connect(*port, kPeer, peer.address());
  peer.meet(port->address());
  ASSERT_TRUE(inbox.wait_for_frames(1));
  peer.signal(SIGSTOP);
  for (int i = 0; i < 40; ++i) (void)link->send(ping(i % 4 == 0 ? 1 << 20 : 3000));
  port.reset();
  EXPECT_EQ(link->send(ping(1)).error().code, Code::kUnavailable);
}

TEST_P(UcxProcess, APeerThatEndsOrderlyIsTold) {
  Inbox inbox;
  auto port = open(kSelf, inbox);
  auto link = [&] {
    PeerProcess peer(GetParam(), "echo");
    auto opened = connect(*port, kPeer, peer.address());
    peer.meet(port->address());
    EXPECT_TRUE(opened->send(ping(10)).ok());
    EXPECT_TRUE(inbox.wait_for_frames(1));
    peer.finish();
    return opened;
  }();
  ASSERT_TRUE(inbox.wait_for_losses(1));
  EXPECT_EQ(inbox.losses()[0].first, kPeer);
}

// Not a timing test: a spinning driver would need hundreds of milliseconds of CPU here.
TEST_P(UcxProcess, AnIdlePortSleeps) {
  Inbox inbox;
  auto port = open(kSelf, inbox);
  PeerProcess peer(GetParam(), "echo");
  auto link = connect(*port, kPeer, peer.address());
  peer.meet(port->address());
  ASSERT_TRUE(link->send(ping(10)).ok());
  ASSERT_TRUE(inbox.wait_for_frames(1));
  const auto cpu_us = [] {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1'000'000 + usage.ru_utime.tv_usec +
           usage.ru_stime.tv_usec;
  };
  const auto before = cpu_us();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_LT(cpu_us() - before, 100'000);
}

INSTANTIATE_TEST_SUITE_P(Wires, UcxProcess, testing::Values("net", "shm"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace troupe::transport
