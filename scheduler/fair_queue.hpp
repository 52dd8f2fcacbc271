#pragma once

// The order in which waiting requests of many tenants start. Among tenants the one that has been
// served least goes first (virtual token counters: Sheng et al., "Fairness in serving large
// language models", OSDI 2024); within a tenant the most urgent, then the oldest. A priority class
// is a head start of so many ageing periods, so that nobody is passed for ever: a request that has
// waited its class's periods competes with the most urgent ones. Pure.
//
// How often may front() pass a request? Of its own tenant, later ones go first only if their class
// is more urgent and they come by fewer ageing periods later than it is. Of other tenants, once the
// request has waited its class's periods, those go first that ran before (resumed), and others only
// as long as their tenant has been served no more than its own: if each is charged when it starts,
// at most once for each token, by weight, that its own tenant is ahead by then, and once more.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"

namespace troupe::scheduler {

struct FairQueueOptions {
  Duration ageing = seconds(10);  ///< a class waits so much longer than the one above it; > 0
  /// Remembered; of more, those are forgotten that have nothing waiting, the least served first.
  uint32_t max_tenants = 1024;
  /// What tenants may have for each one of another's, >= 1; of those not in it: 1.
  std::map<std::string, uint32_t> weights = {};
};

class FairQueue {
 public:
  explicit FairQueue(FairQueueOptions options);

  struct Item {
    RequestId request;
    std::string tenant;
    uint32_t priority = 0;  ///< 0 is the most urgent
    Instant submitted;
    uint64_t sequence = 0;  ///< orders what was submitted at the same time
    /// It ran before: its client is in the middle of a stream, so it is next.
    bool resumed = false;
  };
  /// REQUIRES: the request does not wait here. Cost: O(log waiting of the tenant), and
  /// O(tenants remembered) if it has none.
  void push(const Item& item);
  /// Whose turn it is. Cost: O(tenants remembered).
  [[nodiscard]] std::optional<RequestId> front(Instant now) const;
  /// The first one of the tenant that holds the fewest; of equal ones the one that was served
  /// least.
  /// @param held places or blocks of tenants, compared by weight; those not in it have none. Cost:
  /// as front().
  [[nodiscard]] std::optional<RequestId> front_of_fewest(
      const std::map<std::string, uint64_t>& held) const;
  /// Who is probably served before a request that comes now: those before it in its tenant's line,
  /// and of each other tenant one for each of them and one for itself, or as many as weights say;
  /// nobody who is less urgent by now. Of more than `most` only so many, its own tenant's first.
  /// Cost: O(tenants remembered + most).
  [[nodiscard]] std::vector<RequestId> before(const std::string& tenant, uint32_t priority,
                                              Instant now, size_t most) const;
  /// Takes a request out; harmless if it does not wait here.
  void erase(RequestId request);
  /// The tenant was served so many tokens.
  void charge(const std::string& tenant, uint64_t tokens);

  [[nodiscard]] uint32_t weight(const std::string& tenant) const;
  /// What so many tokens, places or blocks of a tenant count when tenants are compared.
  [[nodiscard]] uint64_t by_weight(const std::string& tenant, uint64_t amount) const;
  /// Tokens by weight, as far as is remembered.
  [[nodiscard]] uint64_t served(const std::string& tenant) const;
  [[nodiscard]] size_t size() const { return places_.size(); }
  [[nodiscard]] bool empty() const { return places_.empty(); }
  [[nodiscard]] size_t waiting(const std::string& tenant) const;
  [[nodiscard]] size_t num_waiting_tenants() const { return num_waiting_tenants_; }
  [[nodiscard]] bool contains(RequestId request) const { return places_.contains(request); }
  [[nodiscard]] std::string check() const;

 private:
  struct Place {
    bool fresh = true;
    Instant urgent_from;  ///< from here on the request is as urgent as class 0
    Instant submitted;
    uint64_t sequence = 0;
    RequestId request;
    friend auto operator<=>(const Place&, const Place&) = default;
  };
  struct Tenant {
    uint64_t served = 0;  ///< by weight
    std::set<Place> waiting;
  };
  /// Ageing periods, begun ones counted whole, until it is as urgent as class 0.
  [[nodiscard]] int64_t urgency(const Place& place, Instant now) const;
  void forget_idle_tenants();

  FairQueueOptions options_;
  std::map<std::string, Tenant> tenants_;
  size_t num_waiting_tenants_ = 0;
  std::string last_left_;  ///< the tenant whose request was the last to wait
  std::map<RequestId, std::pair<std::string, Place>> places_;
};

}  // namespace troupe::scheduler
