#include "kvcache/holder.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"

namespace troupe::kvcache {

namespace {
/// Fewer at once would keep long prompts waiting for many steps.
constexpr int64_t kMinCopies = 8;
constexpr int64_t kMaxCopies = 1 << 20;

using Tokens = std::span<const TokenId>;

bool agree(Tokens a, Tokens b, uint32_t first, uint32_t end) {
  return std::ranges::equal(a.subspan(first, end - first), b.subspan(first, end - first));
}
/// What a request may find cached: its last token must be computed.
Tokens cacheable(Tokens tokens) { return tokens.first(tokens.size() - 1); }
}  // namespace

Holder::Holder(HolderOptions options)
    : copies_target_(options.copies_target),
      max_copies_(options.max_copies),
      cache_(options.num_blocks, options.num_host_slots, options.block_tokens) {}

std::vector<HolderEffect> Holder::handle(const HolderEvent& event) {
  cache_.tick();
  std::vector<HolderEffect> effects;
  std::visit([&](const auto& e) { on(e, effects); }, event);
  return effects;
}

void Holder::on(const Reserve& event, Effects& effects) {
  CHECK_GE(event.tokens.size(), size_t{1});
  CHECK(event.cached_only || event.tokens.size() <= event.num_tokens);
  if (running_.contains(event.request)) return;
  stop_waiting(event.request);
  Tokens tokens = event.tokens;
  uint32_t room = event.num_tokens;
  auto match = cache_.match(event.cache_namespace, cacheable(tokens));
  if (event.cached_only) {
    room = match.num_tokens - match.num_tokens % cache_.block_tokens();
    tokens = tokens.first(room);
    match = cache_.match(event.cache_namespace, tokens);
  } else if (const auto other = computing(event, match.num_tokens)) {
    Running& ahead = running_.at(*other);
    const auto differ = std::ranges::mismatch(ahead.tokens, event.tokens).in1;
    const auto shared = static_cast<uint32_t>(differ - ahead.tokens.begin());
    ahead.waiters.push_back({event.request, shared - shared % cache_.block_tokens()});
    waiting_.emplace(event.request, *other);
    if (!is_guest(event.request)) ++totals_.pending_total;
    effects.emplace_back(Pending{event.request, *other});
    return;
  }
  auto taken = cache_.take(match, cache_.blocks_for(room), max_copies_);
  if (!taken) {
    if (!is_guest(event.request)) ++totals_.refused_total;
    effects.emplace_back(Refused{event.request});
    return;
  }
  if (!is_guest(event.request)) totals_.host_hit_tokens_total += taken->host_len;
  if (!taken->complete) {
    effects.emplace_back(CopiesFirst{event, std::move(taken->copies)});
    return;
  }
  if (!is_guest(event.request)) {
    totals_.queried_tokens_total += event.tokens.size();
    totals_.hit_tokens_total += taken->cached_len;
  }
  running_.emplace(event.request, Running{.cache_namespace = event.cache_namespace,
                                          .tokens = {tokens.begin(), tokens.end()},
                                          .num_computed = taken->cached_len,
                                          .table = taken->table,
                                          .entries = {taken->table.begin(),
                                                      taken->table.begin() + taken->num_shared},
                                          .waiters = {}});
  effects.emplace_back(
      Granted{event.request, std::move(taken->table), taken->cached_len, std::move(taken->copies)});
}

/// The request that is about to compute the first whole block of these tokens that is not cached,
/// if waiting for it gains anything. (Had it computed that block, it would be cached.) Cost: one
/// comparison of a block per running request.
std::optional<RequestId> Holder::computing(const Reserve& event, uint32_t num_cached) const {
  const uint32_t first = num_cached - num_cached % cache_.block_tokens();
  const uint64_t end = uint64_t{first} + cache_.block_tokens();
  if (event.tokens.size() < end) return std::nullopt;
  if (std::min<uint64_t>(end, event.tokens.size() - 1) <= num_cached) return std::nullopt;
  for (const auto& [request, other] : running_) {
    if (other.tokens.size() < end || other.cache_namespace != event.cache_namespace) continue;
    if (agree(other.tokens, event.tokens, first, static_cast<uint32_t>(end)) &&
        agree(other.tokens, event.tokens, 0, first)) {
      return request;
    }
  }
  return std::nullopt;
}

void Holder::on(const Extend& event, Effects& effects) {
  const auto found = running_.find(event.request);
  if (found == running_.end()) return;
  std::vector<BlockId>& table = found->second.table;
  const size_t wanted = std::max<size_t>(cache_.blocks_for(event.num_tokens), table.size());
  auto allocated = cache_.allocate(static_cast<uint32_t>(wanted - table.size()));
  if (!allocated) {
    ++totals_.refused_total;
    effects.emplace_back(Refused{event.request});
    return;
  }
  table.insert(table.end(), allocated->blocks.begin(), allocated->blocks.end());
  effects.emplace_back(
      Extended{event.request, std::move(allocated->blocks), std::move(allocated->copies)});
}

void Holder::on(const Computed& event, Effects& effects) {
  const auto found = running_.find(event.request);
  if (found == running_.end()) return;
  Running& request = found->second;
  CHECK_LE(event.first_position, request.num_computed);
  const auto known = static_cast<uint32_t>(request.tokens.size());
  const auto end = static_cast<uint32_t>(event.first_position + event.tokens.size());
  CHECK_LE(cache_.blocks_for(end), request.table.size());
  const uint32_t num_known = std::min(end, known) - event.first_position;  // of those told
  CHECK(std::ranges::equal(Tokens(event.tokens).first(num_known),
                           Tokens(request.tokens).subspan(event.first_position, num_known)));
  if (end <= request.num_computed) return;
  request.tokens.insert(request.tokens.end(), event.tokens.begin() + num_known, event.tokens.end());
  request.num_computed = end;
  publish(request);
  std::erase_if(request.waiters, [&](const Waiter& waiter) {
    if (waiter.num_tokens > end) return false;
    waiting_.erase(waiter.request);
    effects.emplace_back(Wake{waiter.request});
    return true;
  });
}

void Holder::publish(Running& request) {
  const uint32_t size = cache_.block_tokens();
  const Tokens computed = Tokens(request.tokens).first(request.num_computed);
  std::vector<BlockId>& entries = request.entries;
  for (size_t first = entries.size() * size; first < computed.size(); first += size) {
    const Tokens tokens = computed.subspan(first, std::min<size_t>(size, computed.size() - first));
    const BlockId own = request.table[first / size];
    const BlockId entry = cache_.publish(request.cache_namespace, entries, tokens, own);
    if (tokens.size() < size) return;
    if (entry != own) cache_.share(entry);
    entries.push_back(entry);
  }
}

void Holder::on(const Release& event, Effects& effects) {
  stop_waiting(event.request);
  const auto found = running_.find(event.request);
  if (found == running_.end()) return;
  const Running& request = found->second;
  const auto num_entries = static_cast<uint32_t>(request.entries.size());
  if (num_entries < request.table.size() && cache_.is_entry(request.table[num_entries])) {
    cache_.touch(request.table[num_entries], num_entries);  // its tail
  } else if (num_entries > 0) {
    cache_.touch(request.entries.back(), num_entries - 1);
  }
  // Backwards, so that the same blocks come out in the same order next time.
  for (size_t i = request.table.size(); i-- > 0;) {
    if (i < num_entries && request.entries[i] != request.table[i]) {
      cache_.release(request.entries[i]);
    }
    cache_.release(request.table[i]);
  }
  for (const Waiter& waiter : request.waiters) {
    waiting_.erase(waiter.request);
    effects.emplace_back(Wake{waiter.request});
  }
  running_.erase(found);
}

void Holder::on(const CostsMeasured& event, Effects&) {
  cache_.set_costs(event.costs);
  const int64_t copy_ns = event.costs.copy.ns;
  if (copy_ns <= 0) return;
  max_copies_ =
      static_cast<uint32_t>(std::clamp(copies_target_.ns / copy_ns, kMinCopies, kMaxCopies));
}

void Holder::stop_waiting(RequestId request) {
  const auto waiting = waiting_.find(request);
  if (waiting == waiting_.end()) return;
  std::erase_if(running_.at(waiting->second).waiters,
                [&](const Waiter& waiter) { return waiter.request == request; });
  waiting_.erase(waiting);
}

uint32_t Holder::match_len(const std::string& cache_namespace, Tokens tokens) const {
  return tokens.empty() ? 0 : cache_.match(cache_namespace, cacheable(tokens)).num_tokens;
}

HolderStats Holder::stats() const {
  HolderStats stats = totals_;
  stats.cache = cache_.stats();
  stats.running = static_cast<uint32_t>(running_.size());
  stats.waiting = static_cast<uint32_t>(waiting_.size());
  return stats;
}

}  // namespace troupe::kvcache
