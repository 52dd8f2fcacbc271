#include "cluster/failure_detector.hpp"

#include <algorithm>

namespace troupe::cluster {

void FailureDetector::heard(NodeId node, Instant now) {
  const auto found = watched_.find(node);
  if (found != watched_.end()) found->second = {.last = now, .heard = true};
}

bool FailureDetector::all_heard() const {
  return std::ranges::all_of(watched_, [](const auto& entry) { return entry.second.heard; });
}

std::vector<NodeId> FailureDetector::take_silent(Instant now) {
  std::vector<NodeId> silent;
  for (auto& [node, watched] : watched_) {
    if (watched.told || now - watched.last < timeout_) continue;
    watched.told = true;
    silent.push_back(node);
  }
  return silent;
}

}  // namespace troupe::cluster
