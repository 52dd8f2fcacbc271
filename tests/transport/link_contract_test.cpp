// What every Link promises, run over each wire.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "tests/transport/inbox.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

enum class Wire { kLoopback, kNet, kShm, kAuto };

std::string name_of(const testing::TestParamInfo<Wire>& info) {
  switch (info.param) {
    case Wire::kLoopback: return "Loopback";
    case Wire::kNet: return "UcxNet";
    case Wire::kShm: return "UcxShm";
    case Wire::kAuto: return "UcxAuto";
  }
  return "";
}

constexpr uint64_t kCluster = 77;

class LinkContract : public testing::TestWithParam<Wire> {
 protected:
  std::unique_ptr<Port> open(NodeId self, Inbox& inbox, uint64_t cluster = kCluster,
                             size_t max_queued_bytes = kMaxFrameBytes * 2) {
    PortOptions options{.self = self,
                        .cluster = cluster,
                        .max_queued_bytes = max_queued_bytes,
                        .on_frame = inbox.frame_handler(),
                        .on_link_down = inbox.down_handler()};
    if (GetParam() == Wire::kLoopback) return network_.open(std::move(options));
    const UcxWires wires = GetParam() == Wire::kNet   ? UcxWires::kNet
                           : GetParam() == Wire::kShm ? UcxWires::kShm
                                                      : UcxWires::kAuto;
    auto port = open_ucx_port(std::move(options), {.wires = wires});
    EXPECT_TRUE(port.ok()) << port.error().message;
    return std::move(port).value();
  }

  std::shared_ptr<Link> connect(Port& from, NodeId peer, const Port& to) {
    auto link = from.connect(peer, to.address());
    EXPECT_TRUE(link.ok()) << link.error().message;
    return std::move(link).value();
  }

  LoopbackNetwork network_;
};

constexpr NodeId kA{11}, kB{22}, kC{33};

TEST_P(LinkContract, FramesOfEverySizeArriveWholeAndInOrder) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto link = connect(*a, kB, *b);
  const std::vector<size_t> sizes = {0,    1,     63,      64,       65, 4000,    8192,    8193,
                                     9000, 65536, 1 << 20, 32 << 20, 5,  100'001, 1 << 20, 0};
  for (size_t i = 0; i < sizes.size(); ++i) ASSERT_TRUE(link->send(ping(sizes[i], i)).ok());
  ASSERT_TRUE(inbox_b.wait_for_frames(sizes.size()));
  const auto frames = inbox_b.frames();
  ASSERT_EQ(frames.size(), sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(frames[i].header.step.value, i);
    EXPECT_EQ(frames[i].header.source, kA);
    EXPECT_EQ(frames[i].header.cluster, kCluster);
    EXPECT_TRUE(same_payload(frames[i], ping(sizes[i], i))) << "size " << sizes[i];
    if (frames[i].payload) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(frames[i].payload->data()) % kFrameAlignment, 0U);
    }
  }
}

TEST_P(LinkContract, BothWaysAtOnceNothingIsLost) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto to_b = connect(*a, kB, *b);
  auto to_a = connect(*b, kA, *a);
  constexpr size_t kFrames = 1000;
  std::thread other([&] {
    for (size_t i = 0; i < kFrames; ++i) ASSERT_TRUE(to_a->send(ping(i * 7 % 20'000, i)).ok());
  });
  for (size_t i = 0; i < kFrames; ++i) ASSERT_TRUE(to_b->send(ping(i * 13 % 20'000, i)).ok());
  other.join();
  ASSERT_TRUE(inbox_a.wait_for_frames(kFrames));
  ASSERT_TRUE(inbox_b.wait_for_frames(kFrames));
  const auto at_a = inbox_a.frames(), at_b = inbox_b.frames();
  for (size_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(same_payload(at_a[i], ping(i * 7 % 20'000, i))) << i;
    ASSERT_TRUE(same_payload(at_b[i], ping(i * 13 % 20'000, i))) << i;
  }
  EXPECT_TRUE(eventually([&] { return to_b->stats().frames_sent == kFrames; }));
  EXPECT_EQ(to_b->stats().frames_received, kFrames);
  EXPECT_EQ(a->stats().frames_received, kFrames);
  EXPECT_EQ(to_b->stats().bytes_sent, b->stats().bytes_received);
}

TEST_P(LinkContract, ManySendersReachOnePort) {
  Inbox inbox;
  auto sink = open(kA, inbox);
  constexpr size_t kSenders = 4, kFrames = 250;
  std::vector<Inbox> ignored(kSenders);
  std::vector<std::unique_ptr<Port>> ports;
  std::vector<std::shared_ptr<Link>> links;
  for (size_t i = 0; i < kSenders; ++i) {
    ports.push_back(open(NodeId{100 + i}, ignored[i]));
    links.push_back(connect(*ports.back(), kA, *sink));
  }
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kSenders; ++i) {
    threads.emplace_back([&, i] {
      for (size_t n = 0; n < kFrames; ++n) ASSERT_TRUE(links[i]->send(ping(n * 97, n)).ok());
    });
  }
  for (auto& thread : threads) thread.join();
  ASSERT_TRUE(inbox.wait_for_frames(kSenders * kFrames));
  std::map<NodeId, uint64_t> next;
  for (const Frame& frame : inbox.frames()) {
    EXPECT_EQ(frame.header.step.value, next[frame.header.source]++);
  }
}

TEST_P(LinkContract, AHeaderOfThousandsOfAssignmentsArrives) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto link = connect(*a, kB, *b);
  size_t expected = 0;
  for (const uint32_t rows : {1U, 100U, 125U, 130U, 700U, 2000U}) {
    Frame dispatch;
    dispatch.header = {.kind = FrameKind::kDispatch,
                       .epoch = Epoch{5},
                       .step = StepId{6},
                       .layer = 7,
                       .attempt = 8,
                       .num_rows = rows,
                       .hidden = 24,
                       .arithmetic_class = 9};
    for (uint32_t i = 0; i < rows * 8; ++i) {
      dispatch.header.assignments.push_back({.row = i / 8, .expert = i * 7 % 256});
    }
    auto payload = Buffer::allocate(rows * 24 * sizeof(float));
    for (size_t i = 0; i < rows * 24; ++i) payload->floats()[i] = static_cast<float>(i) * 0.5F;
    dispatch.payload = payload;
    ASSERT_TRUE(link->send(dispatch).ok());
    dispatch.header.cluster = kCluster;
    dispatch.header.source = kA;
    ASSERT_TRUE(inbox_b.wait_for_frames(++expected));
    EXPECT_EQ(inbox_b.frames().back().header, dispatch.header);
    EXPECT_TRUE(same_payload(inbox_b.frames().back(), dispatch));
  }
}

TEST_P(LinkContract, FramesOfAnotherClusterAreDroppedAndCounted) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a, kCluster + 1);
  auto b = open(kB, inbox_b);
  auto c = open(kC, inbox_a);
  auto stranger = connect(*a, kB, *b);
  auto friendly = connect(*c, kB, *b);
  ASSERT_TRUE(stranger->send(ping(100)).ok());
  ASSERT_TRUE(stranger->send(ping(100'000)).ok());
  // Shared memory is not even opened to a stranger: its hello is what is refused.
  const uint64_t num_refused = stranger->stats().transport == "ucx:shm" ? 1 : 2;
  EXPECT_TRUE(eventually([&] { return b->stats().frames_rejected == num_refused; }));
  ASSERT_TRUE(friendly->send(ping(5)).ok());
  ASSERT_TRUE(inbox_b.wait_for_frames(1));
  EXPECT_EQ(inbox_b.frames()[0].header.source, kC);
}

TEST_P(LinkContract, BytesThatAreNoFrameAreDroppedAndTheNextFramePasses) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto link = connect(*a, kB, *b);
  size_t num_bad = 0;
  for (const size_t size : {1, 8, 64, 4096, 9000, 20'000}) {
    EncodedFrame garbage;
    garbage.header.assign(size, std::byte{0xff});
    garbage.payload = ping(size).payload;
    ASSERT_TRUE(link->send_encoded(garbage).ok());
    ++num_bad;
    EncodedFrame other_version = std::move(link->encode(ping(100))).value();
    other_version.header[12] = std::byte{kProtocolVersion + 1};
    ASSERT_TRUE(link->send_encoded(other_version).ok());
    EncodedFrame cut = std::move(link->encode(ping(size))).value();
    cut.payload = ping(size - 1).payload;
    ASSERT_TRUE(link->send_encoded(cut).ok());
    num_bad += 2;
  }
  ASSERT_TRUE(link->send(ping(77, 1)).ok());
  ASSERT_TRUE(inbox_b.wait_for_frames(1));
  EXPECT_TRUE(same_payload(inbox_b.frames()[0], ping(77, 1)));
  EXPECT_EQ(b->stats().frames_rejected, num_bad);
}

TEST_P(LinkContract, AFrameNoReceiverWouldAcceptIsNotSent) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto link = connect(*a, kB, *b);
  Frame frame = ping(64);
  frame.header.kind = FrameKind::kDispatch;  // 64 bytes are not 0 rows
  const auto sent = link->send(frame);
  ASSERT_FALSE(sent.ok());
  EXPECT_EQ(sent.error().code, Code::kInvalidArgument);
}

TEST_P(LinkContract, AClosedLinkSendsNoMoreAndAnotherMayBeOpened) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto link = connect(*a, kB, *b);
  EXPECT_EQ(connect(*a, kB, *b), link) << "an open link is shared";
  ASSERT_TRUE(link->send(ping(1, 1)).ok());
  ASSERT_TRUE(inbox_b.wait_for_frames(1));
  link->close();
  EXPECT_EQ(link->send(ping(1, 2)).error().code, Code::kUnavailable);
  auto again = connect(*a, kB, *b);
  EXPECT_NE(again, link);
  ASSERT_TRUE(again->send(ping(1, 3)).ok());
  ASSERT_TRUE(inbox_b.wait_for_frames(2));
  EXPECT_EQ(inbox_b.frames()[1].header.step.value, 3U);
  EXPECT_TRUE(inbox_a.losses().empty());
}

TEST_P(LinkContract, ALinkOutlivesItsPort) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto link = connect(*a, kB, *b);
  ASSERT_TRUE(link->send(ping(1)).ok());
  ASSERT_TRUE(inbox_b.wait_for_frames(1));
  const Frame kept = inbox_b.frames()[0];
  a.reset();
  b.reset();
  EXPECT_EQ(link->send(ping(1)).error().code, Code::kUnavailable);
  link->close();
  EXPECT_TRUE(same_payload(kept, ping(1))) << "frames outlive the port they came by";
}

TEST_P(LinkContract, SendersMayMeetTheEndOfTheirPort) {
  for (int round = 0; round < 10; ++round) {
    Inbox inbox_a, inbox_b;
    auto a = open(kA, inbox_a, kCluster, /*max_queued_bytes=*/64 << 10);
    auto b = open(kB, inbox_b);
    auto link = connect(*a, kB, *b);
    std::vector<std::thread> senders;
    for (int i = 0; i < 2; ++i) {
      senders.emplace_back([&] {
        for (;;) {
          const auto sent = link->send(ping(64));
          if (sent.ok()) continue;
          if (sent.error().code == Code::kUnavailable) return;
          EXPECT_EQ(sent.error().code, Code::kResourceExhausted) << sent.error().message;
          std::this_thread::yield();
        }
      });
    }
    EXPECT_TRUE(inbox_b.wait_for_frames(100));
    a.reset();
    for (std::thread& sender : senders) sender.join();
    EXPECT_TRUE(inbox_a.losses().empty()) << "of an end that it made itself";
  }
}

TEST_P(LinkContract, ThePeersPortClosingIsToldOnce) {
  Inbox inbox_a, inbox_b;
  auto a = open(kA, inbox_a);
  auto b = open(kB, inbox_b);
  auto to_b = connect(*a, kB, *b);
  auto to_a = connect(*b, kA, *a);
  ASSERT_TRUE(to_b->send(ping(1)).ok());
  ASSERT_TRUE(to_a->send(ping(1)).ok());
  ASSERT_TRUE(inbox_a.wait_for_frames(1));
  ASSERT_TRUE(inbox_b.wait_for_frames(1));
  b.reset();
  ASSERT_TRUE(inbox_a.wait_for_losses(1));
  EXPECT_EQ(inbox_a.losses()[0].first, kB);
  EXPECT_EQ(inbox_a.losses()[0].second.code, Code::kUnavailable);
  EXPECT_EQ(to_b->send(ping(1)).error().code, Code::kUnavailable);
  EXPECT_TRUE(inbox_b.losses().empty());
}

TEST_P(LinkContract, DamagedAddressesAreRefused) {
  Inbox inbox;
  auto a = open(kA, inbox);
  auto b = open(kB, inbox);
  std::string address = b->address();
  EXPECT_TRUE(
      std::all_of(address.begin(), address.end(), [](char c) { return c > 32 && c < 127; }));
  for (const std::string& bad :
       {std::string(), std::string("x"), std::string("ucx1:"), std::string("ucx1:00"),
        std::string("loopback:"), std::string("loopback:1x"), std::string(100'000, '0'),
        "ucx1:" + std::string(1 << 17, '0'), address.substr(0, address.size() - 1),
        address + "0"}) {
    if (GetParam() == Wire::kLoopback && bad == address + "0") continue;  // a number like any other
    const auto link = a->connect(kB, bad);
    ASSERT_FALSE(link.ok()) << bad.substr(0, 40);
    EXPECT_EQ(link.error().code, Code::kInvalidArgument) << link.error().message;
  }
  if (GetParam() == Wire::kLoopback) return;
  for (size_t i = 0; i < address.size(); ++i) {
    std::string damaged = address;
    damaged[i] = damaged[i] == '0' ? '1' : '0';
    EXPECT_FALSE(a->connect(kB, damaged).ok()) << "character " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Wires, LinkContract,
                         testing::Values(Wire::kLoopback, Wire::kNet, Wire::kShm, Wire::kAuto),
                         name_of);

}  // namespace
}  // namespace troupe::transport
