#include "transport/ucx_transports.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace troupe::transport {
namespace {

TEST(UcxTransports, ListWhatTestsOfLinksUse) {
  const auto transports = ucx_transports();
  ASSERT_TRUE(transports.ok()) << transports.error().message;
  EXPECT_NE(std::ranges::find(*transports, "posix", &UcxTransport::name), transports->end());
  EXPECT_TRUE(std::ranges::any_of(*transports, [](const UcxTransport& transport) {
    return transport.name == "tcp" && transport.device == "lo";
  }));
  EXPECT_NE(ucx_version().find('.'), std::string::npos);
}

TEST(UcxTransports, OverRdmaAreToldByTheirNames) {
  for (const char* name : {"rc_verbs", "rc_mlx5", "dc_mlx5", "ud_verbs"}) {
    EXPECT_TRUE((UcxTransport{name, "mlx5_0:1"}.is_rdma())) << name;
  }
  for (const char* name : {"self", "tcp", "posix", "sysv", "cma", "cuda_ipc"}) {
    EXPECT_FALSE((UcxTransport{name, ""}.is_rdma())) << name;
  }
}

TEST(UcxWires, OpenHereAndSayWhichDeviceIsMissing) {
  EXPECT_TRUE(try_ucx_wires(UcxWires::kShm).ok());
  EXPECT_TRUE(try_ucx_wires(UcxWires::kNet, "lo").ok());
  const auto missing = try_ucx_wires(UcxWires::kNet, "no-such-interface");
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find("no-such-interface"), std::string::npos)
      << missing.error().message;
}

}  // namespace
}  // namespace troupe::transport
