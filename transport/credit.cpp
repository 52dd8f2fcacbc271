#include "transport/credit.hpp"

#include <string>

namespace troupe::transport {
namespace {

Error unknown_peer(NodeId peer) {
  return Error{Code::kNotFound, "no credit was granted for node " + std::to_string(peer.value)};
}

uint64_t left(uint64_t limit, uint64_t used) { return limit > used ? limit - used : 0; }

}  // namespace

void CreditLedger::grant(NodeId peer, Credit limit) { accounts_[peer].limit = limit; }

Result<void> CreditLedger::take(NodeId peer, uint64_t bytes) {
  const auto found = accounts_.find(peer);
  if (found == accounts_.end()) return unknown_peer(peer);
  Account& account = found->second;
  if (bytes > account.limit.bytes || account.limit.frames == 0) {
    return Error{Code::kInvalidArgument,
                 "a frame of " + std::to_string(bytes) + " bytes never fits the credit of " +
                     std::to_string(account.limit.bytes) + " bytes; send smaller frames"};
  }
  if (bytes > left(account.limit.bytes, account.outstanding.bytes) ||
      account.outstanding.frames >= account.limit.frames) {
    return Error{Code::kResourceExhausted,
                 "node " + std::to_string(peer.value) + " still owes answers to " +
                     std::to_string(account.outstanding.frames) + " frames of " +
                     std::to_string(account.outstanding.bytes) + " bytes; send when it answers"};
  }
  account.outstanding.bytes += bytes;
  account.outstanding.frames += 1;
  return {};
}

Result<void> CreditLedger::give_back(NodeId peer, uint64_t bytes) {
  const auto found = accounts_.find(peer);
  if (found == accounts_.end()) return unknown_peer(peer);
  Credit& outstanding = found->second.outstanding;
  if (outstanding.frames == 0 || bytes > outstanding.bytes) {
    return Error{Code::kInvalidArgument, "more credit came back from node " +
                                             std::to_string(peer.value) + " than was taken"};
  }
  outstanding.bytes -= bytes;
  outstanding.frames -= 1;
  return {};
}

Credit CreditLedger::outstanding(NodeId peer) const {
  const auto found = accounts_.find(peer);
  return found == accounts_.end() ? Credit{} : found->second.outstanding;
}

Credit CreditLedger::available(NodeId peer) const {
  const auto found = accounts_.find(peer);
  if (found == accounts_.end()) return {};
  const Account& account = found->second;
  return {.bytes = left(account.limit.bytes, account.outstanding.bytes),
          .frames = left(account.limit.frames, account.outstanding.frames)};
}

}  // namespace troupe::transport
