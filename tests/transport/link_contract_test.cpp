// What every Link promises, run over each wire.

#include <gtest/gtest.h>

#include "tests/transport/inbox.hpp"
#include "transport/ports.hpp"

namespace troupe::transport {
namespace {

enum class Wire { kLoopback, kNet, kShm, kAuto };

std::string name_of(const testing::TestParamInfo<Wire>& info) {
  switch (info.param) {
    case Wire::kLoopback:
      return "Loopback";
    case Wire::kNet:
      return "UcxNet";
    case Wire::kShm:
      return "UcxShm";
    case Wire::kAuto:
      return "UcxAuto";
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

INSTANTIATE_TEST_SUITE_P(Wires, LinkContract,
                         testing::Values(Wire::kLoopback, Wire::kNet, Wire::kShm, Wire::kAuto),
                         name_of);

}  // namespace
}  // namespace troupe::transport
