#pragma once

// Random use of a holder by requests that come, wait, grow, are preempted, resume and leave, by
// readers of what is cached, with repeated and unknown events between. After every event the holder
// is compared with its twin, its invariants are checked, and so is the content of the memory that a
// shell would keep: every cell is a hash of all that its KV depends on, copies and steps are
// carried out in order.

#include <gtest/gtest.h>

#include "base/random.hpp"
#include "tests/kvcache/twin.hpp"
#include "tests/support/seeds.hpp"

namespace troupe::kvcache {

class RandomWorld {
 public:
  RandomWorld(uint64_t seed, HolderOptions options)
      : seed_(seed),
        options_(options),
        holder_(options),
        twin_(options),
        device_(options.num_blocks * size_t{options.block_tokens}, 0),
        host_(options.num_host_slots * size_t{options.block_tokens}, 0) {}

  void act() {
    switch (draw(16)) {
      case 0:
      case 1: return arrive();
      case 2: return draw(4) == 0 ? read() : arrive();
      case 3: return draw(8) == 0 ? flood() : leave();
      case 4: return draw(3) == 0 ? repeat() : measures() && draw(8) == 0 ? measure() : strange();
      case 5: return extend();
      case 6: return ask_again();
      default: return step();
    }
  }

  /// Everybody leaves: nobody waits, and every block is free or idle.
  void settle() {
    while (!requests_.empty()) {
      const auto& [id, request] = *requests_.begin();
      if (request.step > 0) {
        ASSERT_NO_FATAL_FAILURE(end_step(id));
      }
      ASSERT_NO_FATAL_FAILURE(release(id, false));
    }
    const HolderStats stats = holder_.stats();
    ASSERT_EQ(stats.running, 0U);
    ASSERT_EQ(stats.waiting, 0U);
    ASSERT_EQ(stats.cache.used_blocks, 0U);
  }

  [[nodiscard]] HolderStats stats() const { return holder_.stats(); }
  [[nodiscard]] uint64_t num_events() const { return num_events_; }
  [[nodiscard]] uint64_t num_parts() const { return num_parts_; }
  [[nodiscard]] uint64_t num_read() const { return num_read_; }
  [[nodiscard]] uint64_t num_unpaid() const { return twin_.unpaid; }
  /// Costs are told: not where a low max_copies is to stay, nor where few slots are to hold much.
  [[nodiscard]] bool measures() const {
    return options_.block_tokens > 1 && options_.num_host_slots > 0 &&
           options_.max_copies == HolderOptions().max_copies;
  }

 private:
  using Tokens = std::vector<TokenId>;
  enum class State : uint8_t { kIdle, kRunning, kPending, kWoken };
  struct Request {
    std::string ns;
    Tokens known;        ///< prompt and what was sampled
    size_t end = 0;      ///< tokens after which it leaves
    bool reads = false;  ///< cached blocks, and no more
    State state = State::kIdle;
    std::optional<Reserve> again;  ///< after CopiesFirst
    std::vector<uint32_t> table;
    size_t num_computed = 0;
    size_t step = 0;       ///< positions in the step that is running
    bool written = false;  ///< the step has written its KV already
  };

  uint64_t draw(uint64_t n) { return random_bits(seed_, draws_++) % n; }
  size_t size() const { return options_.block_tokens; }

  // --- the shell --------------------------------------------------------------------------------

  /// KV of the last of `tokens`: depends on the namespace (which stands for nothing else that could
  /// tell two tenants apart) and on all tokens up to it.
  static uint64_t kv(const std::string& ns, const Tokens& tokens, size_t end) {
    uint64_t hash = std::hash<std::string>()(ns);
    for (size_t i = 0; i < end; ++i) hash = random_bits(hash, static_cast<uint64_t>(tokens[i]));
    return hash;
  }

  void expect_content(const char* who, const std::string& ns, const Tokens& tokens, size_t from,
                      size_t end, const std::vector<uint64_t>& memory,
                      const std::vector<uint32_t>& table) {
    uint64_t hash = std::hash<std::string>()(ns);
    for (size_t p = 0; p < end; ++p) {
      hash = random_bits(hash, static_cast<uint64_t>(tokens[p]));
      if (p < from) continue;
      const size_t block = table[(p - from / size() * size()) / size()];
      ASSERT_EQ(memory[block * size() + p % size()], hash)
          << who << " does not hold the KV of position " << p;
    }
  }

  void carry_out(const std::vector<Copy>& copies) {
    const auto copy = [&](const std::vector<uint64_t>& from, uint32_t a, std::vector<uint64_t>& to,
                          uint32_t b) {
      for (size_t i = 0; i < size(); ++i) to[b * size() + i] = from[a * size() + i];
    };
    for (const Copy& one : copies) {
      if (const auto* out = std::get_if<CopyToHost>(&one)) {
        copy(device_, out->from.value, host_, out->to.value);
      } else if (const auto* in = std::get_if<CopyToDevice>(&one)) {
        copy(host_, in->from.value, device_, in->to.value);
      } else {
        const auto& within = std::get<CopyBlock>(one);
        copy(device_, within.from.value, device_, within.to.value);
      }
    }
  }

  void tell(const HolderEvent& event) {
    ++num_events_;
    const std::vector<HolderEffect> effects = holder_.handle(event);
    ASSERT_EQ(twin_.handle(event, effects), "") << "event " << num_events_;
    ASSERT_EQ(holder_.check(), "") << "event " << num_events_;
    for (const HolderEffect& effect : effects) {
      if (const auto* granted = std::get_if<Granted>(&effect)) {
        ASSERT_LE(granted->copies.size(), twin_.max_copies());
        carry_out(granted->copies);
        Request& request = requests_.at(granted->request.value);
        request.state = State::kRunning;
        request.num_computed = granted->cached_len;
        request.table.clear();
        for (const BlockId block : granted->table) request.table.push_back(block.value);
        ASSERT_LT(granted->cached_len, request.known.size());
        if (request.reads) num_read_ += granted->table.size();
      } else if (const auto* first = std::get_if<CopiesFirst>(&effect)) {
        ASSERT_LE(first->copies.size(), twin_.max_copies());
        carry_out(first->copies);
        requests_.at(first->again.request.value).again = first->again;
        ++num_parts_;
      } else if (const auto* extended = std::get_if<Extended>(&effect)) {
        carry_out(extended->copies);
        auto& table = requests_.at(extended->request.value).table;
        for (const BlockId block : extended->blocks) table.push_back(block.value);
      } else if (const auto* pending = std::get_if<Pending>(&effect)) {
        requests_.at(pending->request.value).state = State::kPending;
      } else if (const auto* wake = std::get_if<Wake>(&effect)) {
        Request& request = requests_.at(wake->request.value);
        ASSERT_EQ(request.state, State::kPending);
        request.state = State::kWoken;
      }
    }
    compare();
  }

  void compare() {
    const HolderStats stats = holder_.stats();
    ASSERT_EQ(stats.running, twin_.running.size());
    ASSERT_EQ(stats.waiting, twin_.waiting.size());
    ASSERT_EQ(stats.cache.free_blocks, twin_.free_blocks.size());
    ASSERT_EQ(stats.cache.used_blocks, twin_.used_blocks().size());
    ASSERT_EQ(stats.cache.host_entries, options_.num_host_slots - twin_.free_slots.size());
    ASSERT_EQ(stats.cache.evicted_total, twin_.evicted);
    ASSERT_EQ(stats.cache.offloaded_total, twin_.offloaded);
    ASSERT_EQ(stats.cache.brought_back_total, twin_.brought_back);
    for (const auto& [id, request] : requests_) {
      if (request.state != State::kRunning) continue;
      ASSERT_NO_FATAL_FAILURE(expect_content("a table", request.ns, request.known, 0,
                                             request.num_computed, device_, request.table));
    }
    for (const auto& [key, entry] : twin_.entries) {
      const auto& [ns, tokens] = key;
      ASSERT_NO_FATAL_FAILURE(expect_content("an entry", ns, tokens,
                                             (tokens.size() - 1) / size() * size(), tokens.size(),
                                             entry.on_device ? device_ : host_, {entry.place}));
    }
    if (num_events_ % 32 != 0) return;
    // Every way to leave the twin's entries by one token: the two hold the same tokens.
    std::set<Twin::Key> probes;
    for (const char* ns : {"", "a", "b"}) {
      for (TokenId token = 0; token < 4; ++token) probes.insert({ns, {token}});
    }
    for (const auto& [key, entry] : twin_.entries) {
      for (TokenId token = 0; token < 4; ++token) {
        for (size_t length = (key.second.size() - 1) / size() * size() + 1;
             length <= key.second.size(); ++length) {
          Tokens probe(key.second.begin(), key.second.begin() + static_cast<ptrdiff_t>(length));
          probe.push_back(token);
          probes.insert({key.first, probe});
        }
      }
    }
    for (const auto& [ns, tokens] : probes) {
      Tokens known = tokens;
      known.push_back(0);  // the last token is never counted
      ASSERT_EQ(holder_.match_len(ns, known), twin_.match_len(ns, tokens));
    }
  }

  // --- requests ---------------------------------------------------------------------------------

  void arrive() {
    if (requests_.size() >= 6) return leave();
    Request request;
    request.ns = draw(8) == 0 ? "b" : "a";
    if (!seen_.empty() && draw(4) != 0) {  // goes on from a beginning of what was there
      const Tokens& old = seen_[draw(seen_.size())];
      const size_t length = draw(3) == 0 ? old.size() : draw(old.size() + 1);
      request.known.assign(old.begin(), old.begin() + static_cast<ptrdiff_t>(length));
    }
    for (uint64_t i = draw(2 * size()) + (request.known.empty() ? 1 : 0); i > 0; --i) {
      request.known.push_back(static_cast<TokenId>(draw(3)));
    }
    const size_t most = options_.num_blocks * size() / 3;
    if (request.known.size() > most) request.known.resize(most);
    request.end = request.known.size() + draw(2 * size()) + 1;
    remember(request.known);
    requests_.emplace(++last_, request);
    const uint64_t choices = draw(6) == 0 ? 3 : 1;  // n > 1
    for (uint64_t i = 1; i < choices; ++i) requests_.emplace(++last_, request);
    for (uint64_t id = last_ - choices + 1; id <= last_; ++id) {
      ASSERT_NO_FATAL_FAILURE(reserve(id));
    }
  }
  /// Prompts that nobody asks again.
  void flood() {
    const uint64_t id = ++last_;
    Request& request = requests_[id];
    request.ns = "a";
    for (size_t i = 0; i < 4 * size(); ++i) request.known.push_back(static_cast<TokenId>(draw(90)));
    request.end = request.known.size();
    reserve(id);
  }
  /// What another router asks for, which may be more than is cached.
  void read() {
    if (seen_.empty() || requests_.size() >= 6) return leave();
    Request& request = requests_[++last_];
    request.ns = "a";
    request.known = seen_[draw(seen_.size())];
    request.known.push_back(static_cast<TokenId>(draw(3)));
    request.reads = true;
    reserve(last_);
  }
  void remember(const Tokens& tokens) {
    seen_.push_back(tokens);
    if (seen_.size() > 12) seen_.erase(seen_.begin() + static_cast<ptrdiff_t>(draw(12)));
  }
  void reserve(uint64_t id) {
    Request& request = requests_.at(id);
    if (request.again) return tell(*std::exchange(request.again, std::nullopt));
    const size_t room = request.reads ? 0 : request.known.size() + draw(2 * size());
    tell(Reserve{RequestId{id}, request.ns, request.known, static_cast<uint32_t>(room),
                 request.reads});
  }

  template <class Wanted>
  std::optional<uint64_t> pick(Wanted wanted) {
    std::vector<uint64_t> ids;
    for (const auto& [id, request] : requests_) {
      if (wanted(request)) ids.push_back(id);
    }
    if (ids.empty()) return std::nullopt;
    return ids[draw(ids.size())];
  }

  void ask_again() {
    if (const auto id = pick([](const Request& r) { return r.state != State::kRunning; })) {
      requests_.at(*id).state = State::kIdle;
      reserve(*id);
    }
  }

  void step() {
    const auto id = pick([](const Request& r) { return r.state == State::kRunning; });
    if (!id) return ask_again();
    Request& request = requests_.at(*id);
    if (request.reads) return release(*id, false);
    if (request.step > 0) return end_step(*id);
    const size_t room = request.table.size() * size();
    const size_t end = std::min(room, request.known.size());
    if (request.num_computed == request.known.size() && request.known.size() >= request.end) {
      return release(*id, false);
    }
    if (end == request.num_computed) return extend_or_preempt(*id);
    request.step = 1 + draw(std::min(end - request.num_computed, 3 * size()));
    request.written = draw(2) == 0;
    if (request.written) write(request);
  }
  void write(const Request& request) {
    for (size_t p = request.num_computed; p < request.num_computed + request.step; ++p) {
      device_[request.table[p / size()] * size() + p % size()] =
          kv(request.ns, request.known, p + 1);
    }
  }
  void end_step(uint64_t id) {
    Request& request = requests_.at(id);
    if (!request.written) write(request);
    const size_t again = draw(4) == 0 ? draw(request.num_computed + 1) : 0;  // told before
    const size_t first = request.num_computed - again;
    request.num_computed += request.step;
    request.step = 0;
    const Computed computed{RequestId{id},
                            static_cast<uint32_t>(first),
                            {request.known.begin() + static_cast<ptrdiff_t>(first),
                             request.known.begin() + static_cast<ptrdiff_t>(request.num_computed)}};
    if (request.num_computed == request.known.size()) {
      request.known.push_back(static_cast<TokenId>(draw(3)));
    }
    said_.emplace_back(id, computed);
    if (said_.size() > 20) said_.erase(said_.begin());
    tell(computed);
  }
  void extend_or_preempt(uint64_t id) {
    const Request& request = requests_.at(id);
    if (draw(4) == 0) return release(id, true);
    tell(Extend{RequestId{id}, static_cast<uint32_t>(request.known.size() + draw(size() + 1))});
  }
  void extend() {
    const auto id = pick([](const Request& r) { return r.state == State::kRunning && !r.reads; });
    if (!id) return;
    const size_t now = requests_.at(*id).table.size() * size();
    tell(Extend{RequestId{*id}, static_cast<uint32_t>(draw(now + 3 * size()))});
  }
  void leave() {
    const bool preempted = draw(2) == 0;
    const auto id = pick([](const Request& r) { return r.step == 0; });
    if (id) release(*id, preempted);
  }
  /// The request is gone, or will be reserved again with what it knows.
  void release(uint64_t id, bool preempted) {
    Request& request = requests_.at(id);
    if (request.known.size() < options_.num_blocks * size() / 3) remember(request.known);
    if (preempted) {
      request.state = State::kIdle;
    } else {
      requests_.erase(id);
    }
    // What was said about its former life is out of date, and the contract forbids to say it again.
    std::erase_if(said_, [&](const auto& said) { return said.first == id; });
    if (preempted) request.again.reset();
    tell(Release{RequestId{id}});
  }
  void repeat() {
    if (const auto id = pick([](const Request& r) { return r.state == State::kRunning; })) {
      ASSERT_NO_FATAL_FAILURE(reserve(*id));
    }
    if (!said_.empty()) tell(said_[draw(said_.size())].second);
  }
  /// Copying costs as much as computing, more or less.
  void measure() {
    const auto ms = [&](uint64_t n) { return milliseconds(static_cast<int64_t>(draw(n))); };
    tell(CostsMeasured{{.copy = ms(2), .compute = ms(5), .compute_deeper = ms(2)}});
  }
  void strange() {
    const RequestId unknown{draw(2) == 0 ? 0 : last_ + 1};
    switch (draw(3)) {
      case 0: return tell(Extend{unknown, 100});
      case 1: return tell(Computed{unknown, 0, {1, 2, 3}});
      default: return tell(Release{unknown});
    }
  }

  uint64_t seed_, draws_ = 0, last_ = 0, num_events_ = 0;
  uint64_t num_parts_ = 0;  ///< copies that were to be carried out before a request is granted
  uint64_t num_read_ = 0;   ///< blocks that readers were granted
  HolderOptions options_;
  Holder holder_;
  Twin twin_;
  std::vector<uint64_t> device_, host_;  ///< [block or slot][block_tokens]
  std::map<uint64_t, Request> requests_;
  std::vector<Tokens> seen_;
  std::vector<std::pair<uint64_t, Computed>> said_;
};

/// The run is worth something only if all this happens often.
inline void expect_variety(const RandomWorld& world, const HolderOptions& shape,
                           uint64_t num_events) {
  const HolderStats stats = world.stats();
  EXPECT_GT(stats.hit_tokens_total, num_events / 8);
  EXPECT_GT(stats.cache.evicted_total, num_events / 20);
  EXPECT_GT(stats.pending_total, num_events / 300);
  EXPECT_GT(stats.refused_total, num_events / 300);
  EXPECT_GT(world.num_read(), num_events / 1000);
  if (shape.num_host_slots > 0) {
    EXPECT_GT(stats.host_hit_tokens_total, num_events / 50);
    EXPECT_GT(stats.cache.brought_back_total, num_events / 300);
  }
  if (shape.max_copies < HolderOptions().max_copies) {
    EXPECT_GT(world.num_parts(), num_events / 300);
  }
  if (world.measures()) {
    EXPECT_GT(world.num_unpaid(), num_events / 300);
  }
}

/// `num_events` events, over several shapes of the holder.
inline void run_random_worlds(uint64_t seed, uint64_t num_events) {
  const std::vector<HolderOptions> shapes = {
      {.num_blocks = 16, .num_host_slots = 0, .block_tokens = 4},
      {.num_blocks = 20, .num_host_slots = 4, .block_tokens = 4},
      {.num_blocks = 12, .num_host_slots = 30, .block_tokens = 3, .max_copies = 2},
      {.num_blocks = 40, .num_host_slots = 10, .block_tokens = 1},
      {.num_blocks = 24, .num_host_slots = 8, .block_tokens = 2},
      {.num_blocks = 24, .num_host_slots = 30, .block_tokens = 2, .max_copies = 5},
  };
  for (const HolderOptions& shape : shapes) {
    SCOPED_TRACE(std::to_string(shape.num_blocks) + " x " + std::to_string(shape.block_tokens) +
                 " tokens, " + std::to_string(shape.num_host_slots) + " slots");
    RandomWorld world(seed, shape);
    const uint64_t share = num_events / shapes.size();
    while (world.num_events() < share) ASSERT_NO_FATAL_FAILURE(world.act());
    if (usual_seeds()) expect_variety(world, shape, share);
    ASSERT_NO_FATAL_FAILURE(world.settle());
  }
}

}  // namespace troupe::kvcache
