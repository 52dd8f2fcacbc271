#include "scheduler/fair_queue.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/check.hpp"

namespace troupe::scheduler {
namespace {

/// Keeps weights that do not divide exact enough.
constexpr uint64_t kScale = 1024;

}  // namespace

FairQueue::FairQueue(FairQueueOptions options) : options_(std::move(options)) {
  CHECK_GT(options_.ageing.ns, 0);
  CHECK_GE(options_.max_tenants, 1U);
  for (const auto& [tenant, weight] : options_.weights) CHECK_GE(weight, 1U);
}

void FairQueue::push(const Item& item) {
  const Place place{.fresh = !item.resumed,
                    .urgent_from = item.submitted + options_.ageing * item.priority,
                    .submitted = item.submitted,
                    .sequence = item.sequence,
                    .request = item.request};
  CHECK(places_.try_emplace(item.request, item.tenant, place).second);
  const auto found = tenants_.try_emplace(item.tenant).first;
  Tenant& tenant = found->second;
  if (tenant.waiting.empty()) {
    // Time without work earns nothing: a tenant comes back at the level of those who wait, or, if
    // nobody does, of the one who waited last.
    std::optional<uint64_t> level;
    for (const auto& [name, other] : tenants_) {
      if (!other.waiting.empty()) level = std::min(level.value_or(other.served), other.served);
    }
    if (const auto last = tenants_.find(last_left_); !level && last != tenants_.end()) {
      level = last->second.served;
    }
    tenant.served = std::max(tenant.served, level.value_or(0));
    ++num_waiting_tenants_;
  }
  tenant.waiting.insert(place);
  forget_idle_tenants();
}

int64_t FairQueue::urgency(const Place& place, Instant now) const {
  if (!place.fresh) return -1;
  const int64_t ahead_ns = (place.urgent_from - now).ns;
  return ahead_ns <= 0 ? 0 : 1 + (ahead_ns - 1) / options_.ageing.ns;
}

std::optional<RequestId> FairQueue::front(Instant now) const {
  using Rank = std::tuple<int64_t, uint64_t, Place>;
  std::optional<Rank> best;
  for (const auto& [name, tenant] : tenants_) {
    if (tenant.waiting.empty()) continue;
    const Place& head = *tenant.waiting.begin();
    const Rank rank{urgency(head, now), tenant.served, head};
    if (!best || rank < *best) best = rank;
  }
  if (!best) return std::nullopt;
  return std::get<Place>(*best).request;
}

std::optional<RequestId> FairQueue::front_of_fewest(
    const std::map<std::string, uint64_t>& held) const {
  using Rank = std::tuple<uint64_t, uint64_t, Place>;
  std::optional<Rank> best;
  for (const auto& [name, tenant] : tenants_) {
    if (tenant.waiting.empty()) continue;
    const auto own = held.find(name);
    const Rank rank{own == held.end() ? 0 : by_weight(name, own->second), tenant.served,
                    *tenant.waiting.begin()};
    if (!best || rank < *best) best = rank;
  }
  if (!best) return std::nullopt;
  return std::get<Place>(*best).request;
}

std::vector<RequestId> FairQueue::before(const std::string& tenant, uint32_t priority, Instant now,
                                         size_t most) const {
  const Place own{.urgent_from = now + options_.ageing * priority,
                  .submitted = now,
                  .sequence = UINT64_MAX,
                  .request = {}};
  std::vector<RequestId> before;
  if (const auto found = tenants_.find(tenant); found != tenants_.end()) {
    for (const Place& place : found->second.waiting) {
      if (before.size() == most || own < place) break;
      before.push_back(place.request);
    }
  }
  const uint64_t num_turns = before.size() + 1;
  for (const auto& [name, other] : tenants_) {
    if (name == tenant) continue;
    uint64_t num_left = num_turns * weight(name) / weight(tenant);
    for (const Place& place : other.waiting) {
      if (before.size() == most || num_left-- == 0 || urgency(place, now) > int64_t{priority}) {
        break;
      }
      before.push_back(place.request);
    }
  }
  return before;
}

void FairQueue::erase(RequestId request) {
  const auto found = places_.find(request);
  if (found == places_.end()) return;
  const auto& [tenant, place] = found->second;
  auto& waiting = tenants_.at(tenant).waiting;
  waiting.erase(place);
  if (waiting.empty() && --num_waiting_tenants_ == 0) last_left_ = tenant;
  places_.erase(found);
}

void FairQueue::charge(const std::string& tenant, uint64_t tokens) {
  tenants_[tenant].served += by_weight(tenant, tokens);
  forget_idle_tenants();
}

uint32_t FairQueue::weight(const std::string& tenant) const {
  const auto found = options_.weights.find(tenant);
  return found == options_.weights.end() ? 1 : found->second;
}

uint64_t FairQueue::by_weight(const std::string& tenant, uint64_t amount) const {
  return amount * kScale / weight(tenant);
}

uint64_t FairQueue::served(const std::string& tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? 0 : found->second.served;
}

size_t FairQueue::waiting(const std::string& tenant) const {
  const auto found = tenants_.find(tenant);
  return found == tenants_.end() ? 0 : found->second.waiting.size();
}

/// The least served of those without work: they would come back at the level of the others anyway.
void FairQueue::forget_idle_tenants() {
  while (tenants_.size() > options_.max_tenants) {
    auto least = tenants_.end();
    for (auto at = tenants_.begin(); at != tenants_.end(); ++at) {
      if (!at->second.waiting.empty()) continue;
      if (least == tenants_.end() || at->second.served < least->second.served) least = at;
    }
    if (least == tenants_.end()) return;  // all of them wait: the queue's own bound holds
    tenants_.erase(least);
  }
}

std::string FairQueue::check() const {
  size_t num_waiting = 0, num_tenants = 0;
  for (const auto& [name, tenant] : tenants_) {
    num_waiting += tenant.waiting.size();
    num_tenants += tenant.waiting.empty() ? 0 : 1;
  }
  if (num_tenants != num_waiting_tenants_) return "the tenants that wait are counted wrongly";
  if (num_waiting != places_.size()) return "a waiting request is lost or doubled";
  for (const auto& [request, where] : places_) {
    const auto tenant = tenants_.find(where.first);
    if (tenant == tenants_.end() || !tenant->second.waiting.contains(where.second)) {
      return "request " + std::to_string(request.value) + " waits nowhere";
    }
  }
  return "";
}

}  // namespace troupe::scheduler
