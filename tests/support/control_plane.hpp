#pragma once

// The processes of a cluster under virtual time, and what joins them. All actors share the head's
// process; or, networked, each start of a node is a process of its own with a control connection to
// the head.

#include <memory>
#include <string>
#include <vector>

#include "tests/support/cluster_nodes.hpp"
#include "tests/support/virtual_process.hpp"

namespace troupe::actors {

class ControlPlane {
 public:
  struct Process {
    std::string node;
    std::unique_ptr<VirtualProcess> process;
    bool alive = true;
  };

  ControlPlane(bool networked, Instant now);

  /// The head's first; dead ones, too.
  [[nodiscard]] const std::vector<Process>& processes() const { return processes_; }
  [[nodiscard]] VirtualProcess& head() const { return *processes_.front().process; }
  /// Index of the process in which an actor lives.
  [[nodiscard]] size_t home_of(const caf::actor& actor) const;

  /// @param settle lets everything happen that can happen now: CAF's connect blocks, and has to
  /// find its answer ready.
  ClusterHost::Process start(const std::string& node, const caf::actor& scheduler, Instant now,
                             std::function<void()> settle);
  /// Nothing comes out of this node's process any more; the head can hear that it is gone.
  void kill(const std::string& node);
  /// From now on the connection of this node carries nothing, and nobody is told.
  void cut(const std::string& node);
  void mend() {
    for (VirtualConnection& connection : connections_) connection.cut = false;
  }

  std::vector<VirtualConnection>& connections() { return connections_; }
  /// The process at this end lives.
  [[nodiscard]] bool alive(const VirtualConnection& connection, size_t end) const;
  void advance_to(Instant now);
  /// Lets CAF's network threads do what they have to do, but for reading.
  void run_networks();

 private:
  const bool networked_;
  std::vector<Process> processes_;
  std::vector<VirtualConnection> connections_;
};

}  // namespace troupe::actors
