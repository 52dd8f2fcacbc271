#include "scheduler/router_pool.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/check.hpp"

namespace troupe::scheduler {

RouterPool::RouterPool(RouterPoolOptions options) : options_(options), index_(options.index) {
  CHECK_GE(options.max_running, 1U);
}

void RouterPool::up(NodeId router, Instant now) {
  routers_.try_emplace(router);
  heard(router, now);
}

void RouterPool::down(NodeId router) {
  const auto found = routers_.find(router);
  if (found == routers_.end()) return;
  CHECK_EQ(found->second.num_running, 0U);
  routers_.erase(found);
}

void RouterPool::drain(NodeId router, bool drained) {
  const auto found = routers_.find(router);
  if (found != routers_.end()) found->second.drained = drained;
}

void RouterPool::heard(NodeId router, Instant now) {
  const auto found = routers_.find(router);
  if (found != routers_.end()) found->second.last_heard = now;
}

bool RouterPool::any_undrained() const {
  return std::ranges::any_of(routers_, [](const auto& r) { return !r.second.drained; });
}

bool RouterPool::any_place(std::optional<NodeId> except) const {
  return std::ranges::any_of(routers_, [&](const auto& r) {
    return !r.second.drained && r.second.num_running < options_.max_running && r.first != except;
  });
}

std::optional<RouterShare> RouterPool::choose(const std::string& cache_namespace,
                                              std::span<const TokenId> known,
                                              std::optional<NodeId> except,
                                              const RouterShare* leaving) const {
  const std::vector<PrefixIndex::Match> matches = index_.match(cache_namespace, known);
  std::optional<RouterShare> best;
  using Cost = std::tuple<uint64_t, uint32_t>;  // equal work: where fewer run; then by id
  std::optional<Cost> least;
  for (auto [id, router] : routers_) {
    if (leaving != nullptr && id == leaving->router) leave(router, *leaving);
    if (router.drained || router.num_running >= options_.max_running || id == except) continue;
    const auto match = std::ranges::find(matches, id, &PrefixIndex::Match::router);
    // The last known token is computed in any case.
    const auto num_known = static_cast<uint32_t>(known.size());
    const uint32_t num_cached =
        match == matches.end() ? 0 : std::min(match->num_tokens, num_known - 1);
    const RouterShare share{.router = id,
                            .num_prefill = num_known - num_cached,
                            .num_kv = uint64_t{num_known} - num_cached + 1,
                            .num_guessed = num_cached};
    const bool fits = options_.kv_tokens == 0 || router.num_kv + share.num_kv <= options_.kv_tokens;
    if (!fits && router.num_running > 0) continue;
    const Cost cost{router.num_prefill + share.num_prefill +
                        uint64_t{options_.running_cost} * router.num_running,
                    router.num_running};
    if (least && *least <= cost) continue;
    least = cost;
    best = share;
  }
  if (!best) return best;
  uint32_t most = best->num_guessed + options_.min_fetch_tokens - 1;
  for (const PrefixIndex::Match& match : matches) {
    if (match.num_tokens <= most || match.router == best->router || !is_up(match.router)) continue;
    most = match.num_tokens;
    best->fetch_from = match.router;
  }
  return best;
}

void RouterPool::start(const RouterShare& share, const std::string& cache_namespace,
                       std::span<const TokenId> known) {
  Router& router = routers_.at(share.router);
  ++router.num_running;
  router.num_prefill += share.num_prefill;
  router.num_kv += share.num_kv;
  index_.add(share.router, cache_namespace, known);
}

void RouterPool::emitted(RouterShare& share, uint64_t num_tokens, uint32_t num_cached) {
  Router& router = routers_.at(share.router);
  uint64_t more = num_tokens;
  if (share.num_prefill > 0) {  // these are the first
    router.num_prefill -= std::exchange(share.num_prefill, 0);
    if (num_cached < share.num_guessed) more += share.num_guessed - num_cached;
  }
  share.num_kv += more;
  router.num_kv += more;
}

void RouterPool::computed(NodeId router, const std::string& cache_namespace,
                          std::span<const TokenId> tokens) {
  index_.add(router, cache_namespace, tokens);
}

void RouterPool::leave(const RouterShare& share) { leave(routers_.at(share.router), share); }

void RouterPool::leave(Router& router, const RouterShare& share) {
  CHECK_GE(router.num_running, 1U);
  --router.num_running;
  router.num_prefill -= share.num_prefill;
  router.num_kv -= share.num_kv;
}

std::vector<NodeId> RouterPool::overcommitted() const {
  std::vector<NodeId> routers;
  if (options_.kv_tokens == 0) return routers;
  for (const auto& [id, router] : routers_) {
    if (router.num_kv > options_.kv_tokens && router.num_running > 1) routers.push_back(id);
  }
  return routers;
}

std::string RouterPool::check(const std::vector<RouterShare>& shares) const {
  std::map<NodeId, Router> sums;
  for (const RouterShare& share : shares) {
    if (!is_up(share.router)) return "a request runs on a router that is down";
    Router& sum = sums[share.router];
    ++sum.num_running;
    sum.num_prefill += share.num_prefill;
    sum.num_kv += share.num_kv;
  }
  for (const auto& [id, router] : routers_) {
    const Router& sum = sums[id];
    const std::string who = "router " + std::to_string(id.value);
    if (sum.num_running != router.num_running || sum.num_prefill != router.num_prefill ||
        sum.num_kv != router.num_kv) {
      return who + " counts its requests wrongly";
    }
    if (router.num_running > options_.max_running) return who + " runs too many requests";
  }
  return index_.check();
}

}  // namespace troupe::scheduler
