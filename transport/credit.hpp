#pragma once

// Backpressure by credits: a sender may have only so many bytes and frames under way to a peer, and
// gets them back when the peer has answered. Pure accounting; nobody waits in here. Links bound
// their queues too, but only a credit scheme bounds what lies in the peer's memory.

#include <cstdint>
#include <map>

#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::transport {

/// An amount of credit: of both, or of each on its own.
struct Credit {
  uint64_t bytes = 0;
  uint64_t frames = 0;
  friend bool operator==(const Credit&, const Credit&) = default;
};

/// What may be and what is outstanding, per peer.
/// Invariant: outstanding <= granted in bytes and frames, unless a grant was lowered below what was
/// outstanding at that moment; then nothing more can be taken until enough has come back.
class CreditLedger {
 public:
  /// Sets how much may be outstanding to a peer from now on; a new peer starts with nothing
  /// outstanding.
  void grant(NodeId peer, Credit limit);

  /// Takes one frame of `bytes`. @errors kResourceExhausted when too much is outstanding: try again
  /// after give_back; kInvalidArgument when the frame is larger than the whole grant; kNotFound for
  /// a peer without grant. Nothing is taken then.
  Result<void> take(NodeId peer, uint64_t bytes);

  /// Gives one frame of `bytes` back. @errors kInvalidArgument when more would come back than was
  /// taken (a duplicate answer): nothing changes; kNotFound for a peer without grant.
  Result<void> give_back(NodeId peer, uint64_t bytes);

  /// Forgets a lost peer and all that was outstanding to it.
  void forget(NodeId peer) { accounts_.erase(peer); }

  /// Zero for a peer without grant.
  [[nodiscard]] Credit outstanding(NodeId peer) const;
  [[nodiscard]] Credit available(NodeId peer) const;

 private:
  struct Account {
    Credit limit;
    Credit outstanding;
  };
  std::map<NodeId, Account> accounts_;
};

}  // namespace troupe::transport
