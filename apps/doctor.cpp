// troupe doctor: what of this machine would stop a cluster or slow it down, and what to do.

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "apps/command.hpp"
#include "apps/machine_facts.hpp"
#include "cluster/machine_findings.hpp"
#include "transport/net_devices.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace json = boost::json;
namespace {

using cluster::Finding;
using cluster::Verdict;

void print_table(const std::vector<Finding>& findings) {
  std::printf("%-18s %-8s %s\n", "CHECK", "VERDICT", "FOUND");
  for (const Finding& finding : findings) {
    std::printf("%-18s %-8s %s\n", finding.check.c_str(),
                std::string(to_string(finding.verdict)).c_str(), finding.found.c_str());
    if (!finding.advice.empty()) std::printf("%27s %s\n", "->", finding.advice.c_str());
  }
  const auto count = [&](Verdict verdict) {
    return std::ranges::count(findings, verdict, &Finding::verdict);
  };
  std::printf("\nproblems: %td, notes: %td\n", count(Verdict::kProblem), count(Verdict::kNote));
}

void print_json(const std::vector<Finding>& findings) {
  json::array list;
  for (const Finding& finding : findings) {
    list.push_back(json::object{{"check", finding.check},
                                {"verdict", to_string(finding.verdict)},
                                {"found", finding.found},
                                {"advice", finding.advice}});
  }
  const Verdict worst = std::ranges::max(findings, {}, &Finding::verdict).verdict;
  std::printf("%s\n", json::serialize(json::object{{"verdict", to_string(worst)},
                                                   {"findings", std::move(list)}})
                          .c_str());
}

Result<std::vector<Finding>> diagnose(const Values& values) {
  const auto names = values.count("node") != 0 ? values["node"].as<std::vector<std::string>>()
                                               : std::vector<std::string>();
  std::optional<cluster::ClusterFacts> cluster;
  if (values.count("config") != 0) {
    cluster = TRY(
        read_cluster(TRY(cluster::load_cluster_config(values["config"].as<std::string>())), names));
  } else if (!names.empty()) {
    return Error{Code::kInvalidArgument, "--node needs --config, which says what that node is"};
  }
  const bool leads_to_head = cluster && cluster->interface.ok();
  cluster::MachineFacts facts =
      read_machine(leads_to_head ? transport::ucx_devices(*cluster->interface) : "");
  facts.cluster = std::move(cluster);
  return cluster::examine(facts);
}

}  // namespace

int run_doctor(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe doctor [--config FILE [--node NAME]...]",
      .text =
          "Looks at this machine: CPUs, memory, limits, clock, GPUs, UCX and RDMA, and\n"
          "with a configuration at what that asks of it. Says what to do about each\n"
          "finding. Exits with 0 if there is no problem, with 1 if there is one.\n\n"
          "  troupe doctor --config deploy/demo.yaml"};
  line.options.add_options()("config", po::value<std::string>(), "configuration of a cluster")(
      "node", po::value<std::vector<std::string>>(),
      "a node of it that runs here; may be repeated (all, where the head is on the loopback "
      "interface)")("json", "print one JSON object");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto findings = diagnose(values);
  if (!findings.ok()) return fail(findings.error());
  if (values.count("json") != 0) {
    print_json(*findings);
  } else {
    print_table(*findings);
  }
  return std::ranges::count(*findings, Verdict::kProblem, &Finding::verdict) == 0 ? kSuccess
                                                                                  : kFailure;
}

}  // namespace troupe::apps
