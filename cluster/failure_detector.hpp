#pragma once

// Suspicion from arrivals and time: which of the nodes watched have been silent for too long. Pure.

#include <map>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"

namespace troupe::cluster {

class FailureDetector {
 public:
  explicit FailureDetector(Duration timeout) : timeout_(timeout) {}

  /// Its silence counts from now on.
  void watch(NodeId node, Instant now) { watched_[node] = {.last = now}; }
  void clear() { watched_.clear(); }
  /// Something came from it. Others than the watched are nobody's concern.
  void heard(NodeId node, Instant now);

  /// Every node watched has been heard since then.
  [[nodiscard]] bool all_heard() const;
  /// Nodes that have been silent for the timeout, ascending; each is told once.
  [[nodiscard]] std::vector<NodeId> take_silent(Instant now);

 private:
  struct Watched {
    Instant last;
    bool heard = false;  ///< at all
    bool told = false;   ///< that it is silent
  };
  Duration timeout_;
  std::map<NodeId, Watched> watched_;
};

}  // namespace troupe::cluster
