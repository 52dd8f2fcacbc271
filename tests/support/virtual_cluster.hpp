#pragma once

// A whole cluster under virtual time: ClusterNodes in a VirtualWorld.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tests/support/cluster_nodes.hpp"
#include "tests/support/stream.hpp"
#include "tests/support/virtual_world.hpp"

namespace troupe::actors {

class VirtualCluster {
 public:
  using Streams = std::vector<std::shared_ptr<Stream>>;

  VirtualCluster(const ClusterOptions& options, const VirtualWorldOptions& world);

  VirtualWorld& world() { return world_; }
  ClusterNodes& nodes() { return nodes_; }

  std::shared_ptr<Stream> submit(const scheduler::RequestSpec& spec);
  Streams submit_all(const std::vector<scheduler::RequestSpec>& specs);

  /// From now on this node is started again a second after it gave up, as `troupe up` does it.
  void supervise(const std::string& node) { supervised_.push_back({node, std::nullopt}); }

  // Within five minutes of virtual time, or the test fails; false then.
  [[nodiscard]] bool run_until(const std::function<bool()>& done);
  [[nodiscard]] bool run_until_serving();
  [[nodiscard]] bool run_until_ended(const Streams& streams);

  /// Lets so much virtual time pass, or so many steps, whichever ends first.
  void run_for(Duration span, uint64_t max_steps = VirtualWorld::kMaxSteps);

  /// As the client hears it, within the two seconds that it is promised.
  ClusterStatus status();
  /// Ends the gateway actor as a crash would, and starts another. Its streams hear nothing more.
  void crash_client();

  /// "" if no request is queued or runs, all KV blocks are free and nobody finds anything wrong
  /// with itself, as it should be when all streams have ended; else what is left or wrong. Lets a
  /// second pass first, for what is under way.
  [[nodiscard]] std::string left_over();

 private:
  struct Supervised {
    std::string name;
    std::optional<Instant> restart_at;
  };
  void restart_what_gave_up();

  VirtualWorld world_;
  ClusterNodes nodes_;
  std::vector<Supervised> supervised_;
};

}  // namespace troupe::actors
