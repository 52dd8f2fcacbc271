#include "tests/support/virtual_cluster.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace troupe::actors {
namespace {

constexpr Duration kPatience = seconds(300);

}  // namespace

VirtualCluster::VirtualCluster(const ClusterOptions& options, const VirtualWorldOptions& world)
    : world_(world), nodes_(world_, options) {}

std::shared_ptr<Stream> VirtualCluster::submit(const scheduler::RequestSpec& spec) {
  auto stream = std::make_shared<Stream>();
  stream->request =
      nodes_.client().submit(spec, [this, stream](const scheduler::ClientEvent& event) {
        stream->take(event);
        stream->ended_at = world_.now();
      });
  return stream;
}

VirtualCluster::Streams VirtualCluster::submit_all(
    const std::vector<scheduler::RequestSpec>& specs) {
  Streams streams;
  for (const auto& spec : specs) streams.push_back(submit(spec));
  return streams;
}

bool VirtualCluster::run_until(const std::function<bool()>& done) {
  return world_.run_until(
      [&] {
        restart_what_gave_up();
        return done();
      },
      kPatience);
}

void VirtualCluster::restart_what_gave_up() {
  for (auto& [name, restart_at] : supervised_) {
    const ClusterNodes::Node* node = nodes_.find(name);
    if (node == nullptr || !node->ended) {
      restart_at.reset();
    } else if (!restart_at) {
      restart_at = world_.now() + seconds(1);
      world_.wake_at(*restart_at);
    } else if (*restart_at <= world_.now()) {
      nodes_.kill(name);
      nodes_.add(name);
    }
  }
}

bool VirtualCluster::run_until_serving() {
  return run_until([this] { return nodes_.client().serving(); });
}

bool VirtualCluster::run_until_ended(const Streams& streams) {
  return run_until([&] {
    return std::ranges::all_of(streams, [](const auto& stream) { return stream->ended(); });
  });
}

void VirtualCluster::run_for(Duration span, uint64_t max_steps) {
  world_.run_for(span, max_steps, [this] { restart_what_gave_up(); });
}

ClusterStatus VirtualCluster::status() {
  std::optional<ClusterStatus> answer;
  nodes_.client().status(true, [&](ClusterStatus status) { answer = std::move(status); });
  CHECK(world_.run_until([&] { return answer.has_value(); }, seconds(2)));
  return *answer;
}

void VirtualCluster::crash_client() {
  nodes_.end_client();
  world_.end_ready("gateway");  // it has a message: to end in order, after those before
  nodes_.start_client();
}

std::string VirtualCluster::left_over() {
  run_for(seconds(1));
  const ClusterStatus now = status();
  if (!now.problem.empty()) return "the head says: " + now.problem;
  for (const NodeStatus& node : now.nodes) {
    if (!node.problem.empty()) return node.member.info.name + " says: " + node.problem;
  }
  if (now.counts.queued + now.counts.running != 0) {
    return std::to_string(now.counts.queued) + " requests are queued and " +
           std::to_string(now.counts.running) + " run";
  }
  for (const NodeStatus& node : now.nodes) {
    if (node.kv_blocks_used != 0) {
      return node.member.info.name + " holds " + std::to_string(node.kv_blocks_used) + " KV blocks";
    }
  }
  return "";
}

}  // namespace troupe::actors
