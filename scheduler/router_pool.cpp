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
    const Cost cost{work(router.num_prefill + share.num_prefill, router.num_running),
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

uint32_t RouterPool::most_cached(const std::string& cache_namespace,
                                 std::span<const TokenId> known) const {
  uint32_t most = 0;
  for (const PrefixIndex::Match& match : index_.match(cache_namespace, known)) {
    most = std::max(most, match.num_tokens);
  }
  return std::min(most, static_cast<uint32_t>(known.size()) - 1);
}

bool RouterPool::is_sooner(uint64_t there, const Router& than, const Behind& behind) const {
  const uint64_t here =
      work(than.num_prefill - behind.num_prefill, than.num_running - behind.num_running - 1);
  return there + std::max<uint64_t>({1, options_.min_gain_tokens, here / 4}) <= here;
}

bool RouterPool::any_sooner(NodeId router, const Behind& behind) const {
  const Router& here = routers_.at(router);
  if (here.num_running == behind.num_running) return false;
  return std::ranges::any_of(routers_, [&](const auto& other) {
    const auto& [id, there] = other;
    return id != router && !there.drained && there.num_running < options_.max_running &&
           is_sooner(work(there.num_prefill + 1, there.num_running), here, behind);
  });
}

std::optional<RouterShare> RouterPool::choose_sooner(const RouterShare& waits, const Behind& behind,
                                                     const std::string& cache_namespace,
                                                     std::span<const TokenId> known) const {
  auto share = choose(cache_namespace, known, waits.router);
  if (!share) return std::nullopt;
  const Router& there = routers_.at(share->router);
  const uint64_t work_there = work(there.num_prefill + share->num_prefill, there.num_running);
  if (!is_sooner(work_there, routers_.at(waits.router), behind)) return std::nullopt;
  const bool has_no_more = waits.num_guessed < share->num_guessed + options_.min_fetch_tokens;
  if (share->fetch_from == waits.router && has_no_more) share->fetch_from.reset();
  return share;
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
