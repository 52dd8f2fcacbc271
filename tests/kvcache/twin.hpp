#pragma once

// A holder that is too simple to be wrong and too slow to be used: a flat map from token prefix to
// entry, every question answered by looking at all entries. It has no tree, no nodes, no reference
// counts and no lists of leaves. It predicts every answer of kvcache::Holder but the ids of blocks
// and slots, which it takes from the answer and checks to be free.

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kvcache/holder.hpp"

namespace troupe::kvcache {

class Twin {
 public:
  using Tokens = std::vector<TokenId>;
  using Key = std::pair<std::string, Tokens>;  ///< namespace, all tokens up to the entry's last
  struct Entry {
    bool on_device = true;
    uint32_t place = 0;
    uint64_t uses = 1, value = 0, last_use = 0;
    [[nodiscard]] std::pair<uint64_t, uint64_t> rank() const { return {value, last_use}; }
  };
  struct Running {
    std::string ns;
    Tokens tokens;
    uint32_t num_computed = 0, num_entries = 0;
    std::vector<uint32_t> table;
    std::vector<std::pair<uint64_t, size_t>> waiters;
  };

  Twin(HolderOptions options) : options_(options) {
    for (uint32_t i = 0; i < options.num_blocks; ++i) free_blocks.insert(i);
    for (uint32_t i = 0; i < options.num_host_slots; ++i) free_slots.insert(i);
  }

  /// "" or where `effects` differ from what the event must lead to.
  std::string handle(const HolderEvent& event, const std::vector<HolderEffect>& effects) {
    ++now_;
    problem_.clear();
    actual_ = &effects;
    next_ = 0;
    std::visit([&](const auto& e) { on(e); }, event);
    if (next_ != effects.size()) fail("there are more effects than expected");
    return problem_;
  }

  [[nodiscard]] size_t match_len(const std::string& ns, const Tokens& tokens) const {
    size_t longest = 0;
    for (const auto& [key, entry] : entries) {
      if (key.first == ns) longest = std::max(longest, common(key.second, tokens));
    }
    return longest;
  }
  [[nodiscard]] std::set<uint32_t> used_blocks() const {
    std::set<uint32_t> used;
    for (const auto& [id, request] : running)
      used.insert(request.table.begin(), request.table.end());
    for (const auto& [key, entry] : entries) {
      if (entry.on_device && is_used(key, entry)) used.insert(entry.place);
    }
    return used;
  }

  std::map<Key, Entry> entries;
  std::map<uint64_t, Running> running;
  std::map<uint64_t, uint64_t> waiting;
  std::set<uint32_t> free_blocks, free_slots;
  uint64_t evicted = 0, offloaded = 0, brought_back = 0;
  uint64_t unpaid = 0;  ///< evicted and forgotten, because computing them again is cheaper
  [[nodiscard]] uint32_t max_copies() const { return options_.max_copies; }

 private:
  static size_t common(const Tokens& a, const Tokens& b) {
    size_t n = 0;
    while (n < a.size() && n < b.size() && a[n] == b[n]) ++n;
    return n;
  }
  static Tokens first(const Tokens& tokens, size_t n) {
    return {tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(n)};
  }
  static bool starts_with(const Tokens& tokens, const Tokens& prefix) {
    return common(tokens, prefix) == prefix.size();
  }
  /// A tail has nothing below it: a longer one is its sibling.
  [[nodiscard]] bool is_below(const Key& low, const Key& high) const {
    return low.first == high.first && high.second.size() % size() == 0 &&
           low.second.size() > high.second.size() && starts_with(low.second, high.second);
  }
  [[nodiscard]] size_t size() const { return options_.block_tokens; }
  [[nodiscard]] size_t blocks_for(size_t tokens) const { return (tokens + size() - 1) / size(); }
  void fail(const std::string& what) {
    if (problem_.empty()) problem_ = what;
  }

  template <class T>
  const T* expect(const char* what) {
    const T* effect = next_ < actual_->size() ? std::get_if<T>(&(*actual_)[next_]) : nullptr;
    ++next_;
    if (effect == nullptr) fail(std::string("expected ") + what);
    return effect;
  }

  /// In use by a request that found or published it, or by the request that is being granted.
  [[nodiscard]] bool is_used(const Key& key, const Entry& entry) const {
    if (pinned_.contains(key)) return true;
    for (const auto& [id, request] : running) {
      if (request.ns == key.first && key.second.size() % size() == 0 &&
          key.second.size() <= request.num_entries * size() &&
          starts_with(request.tokens, key.second)) {
        return true;
      }
      if (entry.on_device && std::ranges::count(request.table, entry.place) > 0) return true;
    }
    return false;
  }

  void touch(const Key& key) {
    for (auto& [other, entry] : entries) {
      if (other != key && !is_below(key, other)) continue;
      entry.value = age_ + entry.uses;
      entry.last_use = now_;
    }
  }

  void evict() {
    auto victim = entries.end();
    for (auto at = entries.begin(); at != entries.end(); ++at) {
      if (!at->second.on_device || is_used(at->first, at->second)) continue;
      const bool has_below = std::ranges::any_of(entries, [&](const auto& other) {
        return other.second.on_device && is_below(other.first, at->first);
      });
      if (has_below) continue;
      if (victim != entries.end() && at->second.rank() == victim->second.rank()) {
        fail("two entries of the same rank could go");
      }
      if (victim == entries.end() || at->second.rank() < victim->second.rank()) victim = at;
    }
    if (victim == entries.end()) return fail("nothing can be evicted");
    age_ = std::max(age_, victim->second.value);
    ++evicted;
    const bool holds_up = std::ranges::any_of(
        entries, [&](const auto& other) { return is_below(other.first, victim->first); });
    const auto index = static_cast<int64_t>(blocks_for(victim->first.second.size()) - 1);
    const int64_t compute_ns = costs_.compute.ns + index * costs_.compute_deeper.ns;
    if (options_.num_host_slots > 0 && !holds_up && 2 * costs_.copy.ns > compute_ns &&
        ++num_unpaid_ % PrefixCache::kMeasureOneOf != 0) {
      ++unpaid;
      free_blocks.insert(victim->second.place);
      entries.erase(victim);
      return;
    }
    if (free_slots.empty()) {
      auto worst = entries.end();
      for (auto at = entries.begin(); at != entries.end(); ++at) {
        if (at->second.on_device || pinned_.contains(at->first)) continue;
        const bool has_below = std::ranges::any_of(
            entries, [&](const auto& other) { return is_below(other.first, at->first); });
        if (has_below) continue;
        if (worst == entries.end() || at->second.rank() < worst->second.rank()) worst = at;
      }
      if (worst != entries.end() && worst->second.rank() <= victim->second.rank()) {
        free_slots.insert(worst->second.place);
        entries.erase(worst);
      }
    }
    free_blocks.insert(victim->second.place);
    if (free_slots.empty()) {
      const bool has_below = std::ranges::any_of(
          entries, [&](const auto& other) { return is_below(other.first, victim->first); });
      if (has_below) fail("an entry goes before what is below it");
      entries.erase(victim);
      return;
    }
    ++offloaded;
    const auto copy = next_copy<CopyToHost>("a copy to the host");
    if (copy.from.value != victim->second.place) fail("another block is evicted");
    if (free_slots.erase(copy.to.value) == 0) fail("the host slot is not free");
    victim->second.on_device = false;
    victim->second.place = copy.to.value;
  }

  void take_block(uint32_t block) {
    if (free_blocks.empty()) evict();
    if (free_blocks.erase(block) == 0) fail("the block is not free");
  }

  template <class T>
  T next_copy(const char* what) {
    const T* copy =
        next_copy_ < copies_->size() ? std::get_if<T>(&(*copies_)[next_copy_]) : nullptr;
    ++next_copy_;
    if (copy == nullptr) fail(std::string("expected ") + what);
    return copy == nullptr ? T{} : *copy;
  }
  void begin_copies(const std::vector<Copy>& copies) {
    copies_ = &copies;
    next_copy_ = 0;
  }
  void end_copies() {
    if (next_copy_ != copies_->size()) fail("there are more copies than expected");
  }

  void stop_waiting(uint64_t request) {
    const auto found = waiting.find(request);
    if (found == waiting.end()) return;
    std::erase_if(running[found->second].waiters, [&](auto& w) { return w.first == request; });
    waiting.erase(found);
  }

  /// The entry that holds the rest of a match: of those that share most with `query`, the next one
  /// in the order of tokens, or else the one before.
  [[nodiscard]] std::optional<Key> source_of(const std::string& ns, const Tokens& query,
                                             size_t matched) const {
    const size_t whole = matched / size() * size();
    if (matched == whole) return std::nullopt;
    const Tokens wanted = first(query, std::min(query.size(), whole + size()));
    std::optional<Key> next, before;
    for (const auto& [key, entry] : entries) {  // in the order of tokens
      if (key.first != ns || key.second.size() <= whole || key.second.size() > whole + size() ||
          common(key.second, query) != matched) {
        continue;
      }
      if (key.second < wanted) before = key;
      if (key.second >= wanted && !next) next = key;
    }
    return next ? next : before;
  }

  void on(const Reserve& e) {
    const uint64_t id = e.request.value;
    if (running.contains(id)) return;
    stop_waiting(id);
    const Tokens query = first(e.tokens, e.tokens.size() - 1);
    const size_t matched = match_len(e.cache_namespace, query);
    const size_t whole = matched / size();
    const size_t end = (whole + 1) * size();
    if (!e.cached_only && e.tokens.size() >= end && matched < std::min(end, query.size())) {
      for (auto& [other, request] : running) {
        const size_t shared = common(request.tokens, e.tokens);
        if (request.ns != e.cache_namespace || shared < end || request.num_computed >= end)
          continue;
        const auto* pending = expect<Pending>("Pending");
        if (pending != nullptr && pending->computing.value != other) fail("waits for another one");
        request.waiters.emplace_back(id, shared / size() * size());
        waiting[id] = other;
        return;
      }
    }
    // Which blocks would be in use?
    std::vector<Key> path;
    for (size_t i = 1; i <= whole; ++i)
      path.emplace_back(e.cache_namespace, first(query, i * size()));
    auto source = e.cached_only ? std::nullopt : source_of(e.cache_namespace, query, matched);
    size_t on_device = 0;
    for (const Key& key : path) {
      pinned_.insert(key);
      if (entries.at(key).on_device) ++on_device;
    }
    if (source) pinned_.insert(*source);
    const size_t num_blocks = e.cached_only ? whole : blocks_for(e.num_tokens);
    const auto has_room = [&] {
      return options_.num_blocks - used_blocks().size() >= num_blocks - on_device;
    };
    if (!has_room() && source) {
      pinned_.erase(*source);
      source.reset();
    }
    if (!has_room()) {
      pinned_.clear();
      expect<Refused>("Refused");
      return;
    }
    static const Granted kNotGranted;
    const auto* copies_first =
        actual_->empty() ? nullptr : std::get_if<CopiesFirst>(&actual_->front());
    if (copies_first != nullptr) ++next_;
    const Granted* granted = copies_first != nullptr ? &kNotGranted : expect<Granted>("Granted");
    if (granted == nullptr) return;
    begin_copies(copies_first != nullptr ? copies_first->copies : granted->copies);
    const uint64_t age = age_;
    // Turn by turn: what lies on the host, room for the rest, the beginning of a block.
    bool complete = true;
    for (const Key& key : path) {
      Entry& entry = entries.at(key);
      if (entry.on_device) continue;
      complete = complete && next_copy_ + 2 <= options_.max_copies;
      if (!complete) continue;
      if (free_blocks.empty()) evict();
      const auto copy = next_copy<CopyToDevice>("a copy to the device");
      if (copy.from.value != entry.place) fail("another copy");
      if (free_blocks.erase(copy.to.value) == 0) fail("the block is not free");
      free_slots.insert(entry.place);
      entry.on_device = true;
      entry.place = copy.to.value;
      ++brought_back;
    }
    for (size_t needed = 1; complete && needed <= num_blocks - whole; ++needed) {
      if (free_blocks.size() >= needed) continue;
      complete = next_copy_ + 2 <= options_.max_copies;
      if (complete) evict();
    }
    complete = complete && (!source || next_copy_ < options_.max_copies);
    if (source && complete) {
      const Entry& entry = entries.at(*source);
      const BlockId to = whole < granted->table.size() ? granted->table[whole] : BlockId{};
      if (entry.on_device) {
        const auto copy = next_copy<CopyBlock>("a copy of a block");
        if (copy.from.value != entry.place || copy.to != to) fail("another copy");
      } else {
        const auto copy = next_copy<CopyToDevice>("a copy of a host slot");
        if (copy.from.value != entry.place || copy.to != to) fail("another copy");
      }
    }
    end_copies();
    pinned_.clear();
    const auto touch_or_use = [&](Entry& entry) {
      if (complete) entry.uses = std::min<uint64_t>(entry.uses + 1, PrefixCache::kMaxUses);
      entry.value = age + entry.uses;
      entry.last_use = now_;
    };
    for (const Key& key : path) touch_or_use(entries.at(key));
    if (source) touch_or_use(entries.at(*source));
    if (complete != (copies_first == nullptr)) return fail("it is granted too late or too early");
    if (!complete) {
      const Reserve& again = copies_first->again;
      if (again.request != e.request || again.tokens != e.tokens ||
          again.num_tokens != e.num_tokens || again.cache_namespace != e.cache_namespace ||
          again.cached_only != e.cached_only) {
        fail("another request is to come again");
      }
      return;
    }
    if (granted->request != e.request) fail("another request is granted");
    if (granted->table.size() != num_blocks) return fail("the table has another length");
    const size_t cached = source ? matched : whole * size();
    if (granted->cached_len != cached) fail("another cached_len");
    for (size_t i = 0; i < whole; ++i) {
      if (granted->table[i].value != entries.at(path[i]).place) {
        fail("a block is not the shared one");
      }
    }
    for (size_t i = whole; i < num_blocks; ++i) {
      if (free_blocks.erase(granted->table[i].value) == 0) fail("the block is not free");
    }
    Running& request = running[id];
    request = {.ns = e.cache_namespace,
               .tokens = e.cached_only ? first(e.tokens, cached) : e.tokens,
               .num_computed = static_cast<uint32_t>(cached),
               .num_entries = static_cast<uint32_t>(whole),
               .table = {},
               .waiters = {}};
    for (const BlockId block : granted->table) request.table.push_back(block.value);
  }

  void on(const Extend& e) {
    const auto found = running.find(e.request.value);
    if (found == running.end()) return;
    auto& table = found->second.table;
    const size_t wanted = std::max(blocks_for(e.num_tokens), table.size());
    if (options_.num_blocks - used_blocks().size() < wanted - table.size()) {
      expect<Refused>("Refused");
      return;
    }
    const auto* extended = expect<Extended>("Extended");
    if (extended == nullptr) return;
    if (extended->blocks.size() != wanted - table.size()) fail("another number of blocks");
    begin_copies(extended->copies);
    for (const BlockId block : extended->blocks) {
      take_block(block.value);
    }
    end_copies();
    for (const BlockId block : extended->blocks) table.push_back(block.value);
  }

  void on(const Computed& e) {
    const auto found = running.find(e.request.value);
    if (found == running.end()) return;
    Running& request = found->second;
    const size_t end = e.first_position + e.tokens.size();
    if (end <= request.num_computed) return;
    for (size_t p = request.tokens.size(); p < end; ++p) {
      request.tokens.push_back(e.tokens[p - e.first_position]);
    }
    request.num_computed = static_cast<uint32_t>(end);
    for (size_t i = request.num_entries; i * size() < end; ++i) {
      publish(request, i, std::min(end, (i + 1) * size()));
    }
    request.num_entries = static_cast<uint32_t>(end / size());
    const auto waiters = std::exchange(request.waiters, {});
    for (const auto& waiter : waiters) {
      if (waiter.second > end) {
        request.waiters.push_back(waiter);
      } else {
        wake(waiter.first);
      }
    }
  }

  void publish(const Running& request, size_t i, size_t end) {
    const Key key{request.ns, first(request.tokens, end)};
    auto own = entries.end(), cover = entries.end();
    for (auto at = entries.begin(); at != entries.end(); ++at) {
      if (at->second.on_device && at->second.place == request.table[i]) own = at;
      const bool covers = at->first.first == request.ns &&
                          blocks_for(at->first.second.size()) == i + 1 &&
                          starts_with(at->first.second, key.second);
      if (covers && cover == entries.end()) cover = at;  // the shortest comes first
    }
    if (cover != entries.end()) {
      if (own != entries.end()) entries.erase(own);
      Entry& entry = cover->second;
      if (entry.on_device || cover->first != key) return;
      free_slots.insert(entry.place);
      entry.on_device = true;
      entry.place = request.table[i];
      return;
    }
    const size_t matched = match_len(key.first, key.second);
    auto shorter = source_of(key.first, key.second, matched);
    if (own != entries.end() || (shorter && shorter->second.size() > matched) ||
        (shorter && is_used(*shorter, entries.at(*shorter)))) {
      shorter.reset();
    }
    Entry entry{.place = request.table[i]};
    if (own != entries.end()) {
      entry = own->second;
      entries.erase(own);
    }
    entries.emplace(key, entry);
    if (!shorter) return;
    const Entry useless = entries.at(*shorter);
    (useless.on_device ? free_blocks : free_slots).insert(useless.place);
    entries.erase(*shorter);
  }

  void on(const CostsMeasured& e) {
    costs_ = e.costs;
    if (costs_.copy.ns <= 0) return;
    options_.max_copies = 8;
    while (options_.max_copies < 1 << 20 &&
           (options_.max_copies + 1) * costs_.copy.ns <= options_.copies_target.ns) {
      ++options_.max_copies;
    }
  }
  void on(const Release& e) {
    stop_waiting(e.request.value);
    const auto found = running.find(e.request.value);
    if (found == running.end()) return;
    const Running request = found->second;
    std::optional<Key> last;
    for (const auto& [key, entry] : entries) {
      const bool is_tail = request.num_entries < request.table.size() && entry.on_device &&
                           entry.place == request.table[request.num_entries];
      if (is_tail) last = key;
    }
    if (!last && request.num_entries > 0) {
      last = {request.ns, first(request.tokens, request.num_entries * size())};
    }
    if (last) touch(*last);
    running.erase(found);
    for (const uint32_t block : request.table) {
      const bool is_entry = std::ranges::any_of(entries, [&](const auto& other) {
        return other.second.on_device && other.second.place == block;
      });
      if (!is_entry) free_blocks.insert(block);
    }
    for (const auto& waiter : request.waiters) wake(waiter.first);
  }

  void wake(uint64_t request) {
    const auto* wake = expect<Wake>("Wake");
    if (wake != nullptr && wake->request.value != request) fail("another request is woken");
    waiting.erase(request);
  }

  HolderOptions options_;
  BlockCosts costs_;
  uint32_t num_unpaid_ = 0;
  uint64_t now_ = 0, age_ = 0;
  std::set<Key> pinned_;  ///< by the request that is being granted
  std::string problem_;
  const std::vector<HolderEffect>* actual_ = nullptr;
  size_t next_ = 0;
  const std::vector<Copy>* copies_ = nullptr;
  size_t next_copy_ = 0;
};

}  // namespace troupe::kvcache
