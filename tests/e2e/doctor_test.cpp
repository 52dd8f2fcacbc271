// troupe doctor on the machine that runs the tests, whatever that has.

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <map>

#include "tests/e2e/processes.hpp"

namespace troupe {
namespace {

/// The JSON of a run, with its findings by the name of their check.
struct Examined {
  int code = 0;
  std::string verdict;
  std::map<std::string, boost::json::object> findings;
};

Examined examine(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"doctor", "--json"});
  const Finished run = troupe(std::move(arguments));
  boost::json::error_code error;
  const boost::json::value value = boost::json::parse(run.output, error);
  EXPECT_FALSE(error) << run.output;
  Examined examined{.code = run.code};
  if (error) return examined;
  examined.verdict = value.at("verdict").as_string().c_str();
  for (const boost::json::value& finding : value.at("findings").as_array()) {
    EXPECT_EQ(finding.at("advice").as_string().empty(), finding.at("verdict").as_string() == "ok");
    const std::string check = finding.at("check").as_string().c_str();
    EXPECT_TRUE(examined.findings.emplace(check, finding.as_object()).second) << check;
  }
  EXPECT_EQ(examined.code, examined.verdict == "problem" ? 1 : 0) << run.output;
  return examined;
}

std::string verdict_of(const Examined& examined, const std::string& check) {
  const auto at = examined.findings.find(check);
  return at == examined.findings.end() ? "missing" : at->second.at("verdict").as_string().c_str();
}

/// A configuration of the demo model with these ports.
std::string demo_config(const std::string& model, uint16_t control, uint16_t http) {
  return "model: " + model + "\ncontrol: {port: " + std::to_string(control) +
         "}\nhttp: {port: " + std::to_string(http) +
         "}\nnodes:\n  - {name: r, role: router}\n  - {name: s, role: experts}\n";
}

TEST(Doctor, ExaminesThisMachine) {
  const Examined examined = examine({});
  for (const char* check : {"instructions", "CPUs", "memory", "open files", "/dev/shm", "CUDA"}) {
    EXPECT_NE(verdict_of(examined, check), "missing") << check;
  }
  EXPECT_EQ(verdict_of(examined, "UCX network"), "ok");  // other tests need it, too
  EXPECT_EQ(verdict_of(examined, "model"), "missing");
  const Finished table = troupe({"doctor"});
  EXPECT_EQ(table.code, examined.code);
  EXPECT_TRUE(table.output.starts_with("CHECK")) << table.output;
}

TEST(Doctor, ExaminesWhatAConfigurationAsksFor) {
  const Scratch scratch;
  const std::string path = scratch / "cluster.yaml";
  std::ofstream(path) << demo_config(kDemo, free_port(), free_port());
  const Examined examined = examine({"--config", path});
  for (const char* check :
       {"model", "memory of nodes", "way to the head", "control port", "HTTP port"}) {
    EXPECT_EQ(verdict_of(examined, check), "ok") << check;
  }
}

/// Listens at a loopback address, as another program might.
class Listener {
 public:
  template <class Address>
  explicit Listener(Address address)
      : fd_(socket(reinterpret_cast<sockaddr&>(address).sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
    // At the same place for both kinds of address.
    port_ = ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
  }
  ~Listener() { close(fd_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  [[nodiscard]] uint16_t port() const { return port_; }

 private:
  int fd_;
  uint16_t port_ = 0;
};

TEST(Doctor, FailsForATakenPortAndAMissingModel) {
  const Listener taken(sockaddr_in{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}});
  const Scratch scratch;
  const std::string path = scratch / "cluster.yaml";
  std::ofstream(path) << demo_config("no-such-model", taken.port(), free_port());
  const Examined examined = examine({"--config", path});
  EXPECT_EQ(examined.code, 1);
  EXPECT_EQ(verdict_of(examined, "control port"), "problem");
  EXPECT_EQ(verdict_of(examined, "HTTP port"), "ok");
  EXPECT_EQ(verdict_of(examined, "model"), "problem");
}

TEST(Doctor, TriesTheAddressAtWhichTheGatewayListens) {
  if (!has_ipv6()) GTEST_SKIP() << "needs the address ::1";
  const Listener six(sockaddr_in6{.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT});
  const Scratch scratch;
  const std::string path = scratch / "cluster.yaml";
  const Listener four(sockaddr_in{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}});
  const std::tuple<const char*, uint16_t, const char*> kCases[] = {
      {"localhost", six.port(), "ok"},
      {"localhost", four.port(), "problem"},
      {"'::1'", six.port(), "problem"}};
  for (const auto& [host, port, verdict] : kCases) {
    std::string config = demo_config(kDemo, free_port(), port);
    config.insert(config.find("http: {") + 7, std::string("host: ") + host + ", ");
    std::ofstream(path) << config;
    EXPECT_EQ(verdict_of(examine({"--config", path}), "HTTP port"), verdict) << host;
  }
}

TEST(Doctor, RefusesWhatTheConfigurationDoesNotHave) {
  const Scratch scratch;
  const std::string path = scratch / "cluster.yaml";
  std::ofstream(path) << demo_config(kDemo, free_port(), free_port());
  EXPECT_EQ(troupe({"doctor", "--config", path, "--node", "x"}).code, 2);
  EXPECT_EQ(troupe({"doctor", "--node", "r"}).code, 2);
  EXPECT_EQ(troupe({"doctor", "--config", scratch / "missing.yaml"}).code, 2);
}

}  // namespace
}  // namespace troupe
