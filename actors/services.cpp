#include "actors/services.hpp"

#include "actors/messages.hpp"

namespace troupe::actors {

transport::PortOptions port_options_for(NodeId self, uint64_t cluster, const caf::actor& worker,
                                        RunHere* run_here) {
  transport::PortOptions options;
  options.self = self;
  options.cluster = cluster;
  options.on_frame = [worker, run_here](transport::Frame frame) {
    send(run_here, worker, FrameArrived{std::move(frame)});
  };
  options.on_link_down = [worker](NodeId peer, Error reason) {
    caf::anon_send(worker, LinkDown{peer, std::move(reason)});
  };
  return options;
}

uint64_t cluster_hash(const std::string& name) {
  uint64_t hash = 14695981039346656037U;  // FNV-1a: stable across builds, unlike std::hash
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return hash;
}

}  // namespace troupe::actors
