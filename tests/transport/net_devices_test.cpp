#include "transport/net_devices.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>

namespace troupe::transport {
namespace {

namespace fs = std::filesystem;

TEST(InterfaceTowards, NamesTheOneThatHasOurAddress) {
  for (const char* self : {"127.0.0.1", "127.0.0.9", "localhost"}) {
    const auto interface = interface_towards(self);
    ASSERT_TRUE(interface.ok()) << interface.error().message;
    EXPECT_EQ(*interface, "lo") << self;
  }
}

TEST(InterfaceTowards, SaysWhichHostCannotBeReached) {
  const auto interface = interface_towards("no-such-host.invalid");
  ASSERT_FALSE(interface.ok());
  EXPECT_EQ(interface.error().code, Code::kUnavailable);
  EXPECT_NE(interface.error().message.find("no-such-host.invalid"), std::string::npos);
}

TEST(UcxDevices, AreTheInterfaceAndRdmaPortsThatAreUp) {
  std::string name = (fs::temp_directory_path() / "troupe-test-XXXXXX").string();
  const fs::path rdma = mkdtemp(name.data());
  const auto add_port = [&](const char* port, const char* state) {
    fs::create_directories(rdma / port);
    std::ofstream(rdma / port / "state") << state << "\n";
  };
  EXPECT_EQ(ucx_devices("eth0", rdma), "eth0");
  add_port("mlx5_1/ports/1", "4: ACTIVE");
  add_port("mlx5_0/ports/1", "4: ACTIVE");
  add_port("mlx5_0/ports/2", "1: DOWN");
  EXPECT_EQ(ucx_devices("eth0", rdma), "eth0,mlx5_0:1,mlx5_1:1");
  const auto ports = rdma_ports(rdma);
  ASSERT_EQ(ports.size(), 3U);
  EXPECT_EQ(ports[1].name, "mlx5_0:2");
  EXPECT_EQ(ports[1].state, "1: DOWN");
  EXPECT_EQ(ports[1].rate, "");
  EXPECT_EQ(ucx_devices("eth0", rdma / "missing"), "eth0");
  fs::remove_all(rdma);
}

}  // namespace
}  // namespace troupe::transport
