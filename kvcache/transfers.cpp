#include "kvcache/transfers.hpp"

#include <algorithm>

#include "base/check.hpp"

namespace troupe::kvcache {
namespace {

constexpr double kUnmeasuredBlocks = 2;

}  // namespace

Transfers::Transfers(TransferOptions options) : options_(options) {
  CHECK_GE(options.block_tokens, 1U);
  CHECK_GE(options.window_blocks, 1U);
}

std::vector<TransferEffect> Transfers::handle(const TransferEvent& event, Instant now) {
  Effects effects;
  std::visit([&](const auto& e) { on(e, now, effects); }, event);
  return effects;
}

// --- the side that fetches ----------------------------------------------------------------------

void Transfers::on(const FetchWanted& event, Instant now, Effects& effects) {
  if (fetches_.contains(event.key)) return;
  if (fetches_.size() >= options_.max_fetches) {
    effects.emplace_back(FetchEnded{event.key});
    return;
  }
  const RequestId guest{++last_guest_};
  fetches_[event.key] = {.guest = guest,
                         .from = event.from,
                         .cache_namespace = event.cache_namespace,
                         .tokens = event.tokens,
                         .progress = now};
  effects.emplace_back(TellHolder{Reserve{guest, event.cache_namespace, event.tokens,
                                          static_cast<uint32_t>(event.tokens.size())}});
}

void Transfers::on(const FetchAbandoned& event, Instant, Effects& effects) {
  const auto fetch = fetches_.find(event.key);
  if (fetch == fetches_.end()) return;
  effects.emplace_back(TellHolder{Release{fetch->second.guest}});
  fetches_.erase(fetch);
}

void Transfers::on(const GuestGranted& event, Instant now, Effects& effects) {
  if (const auto at = find_fetch(event.guest); at != fetches_.end()) {
    Fetch& fetch = at->second;
    fetch.table = event.table;
    fetch.cached_len = event.cached_len;
    fetch.first = fetch.next = event.cached_len / options_.block_tokens;
    // The last token is computed in any case.
    fetch.end = static_cast<uint32_t>(fetch.tokens.size() - 1) / options_.block_tokens;
    fetch.progress = now;
    if (fetch.next >= fetch.end) {
      end(at, effects);
    } else {
      ask(at->first, fetch, effects);
    }
    return;
  }
  const auto read = reads_.find(event.guest);
  if (read == reads_.end()) {
    effects.emplace_back(TellHolder{Release{event.guest}});  // abandoned meanwhile
    return;
  }
  const BlocksAsked& asked = read->second.asked;
  const uint32_t available = event.cached_len / options_.block_tokens;
  if (asked.first_block >= available) {
    effects.emplace_back(SendNothing{asked.key, asked.first_block, available});
    effects.emplace_back(TellHolder{Release{event.guest}});
    reads_.erase(read);
    return;
  }
  const uint32_t count =
      std::min({asked.num_blocks, available - asked.first_block, options_.window_blocks});
  const auto first = event.table.begin() + asked.first_block;
  read->second.blocks = {first, first + count};
  read->second.num_available = available;
  read_part(effects);
}

void Transfers::read_part(Effects& effects) {
  if (reading_ || turn_taken_) return;
  const auto waits = [](const auto& read) {
    return read.second.num_read < read.second.blocks.size();
  };
  auto next = std::find_if(reads_.upper_bound(last_read_), reads_.end(), waits);
  if (next == reads_.end()) next = std::ranges::find_if(reads_, waits);
  if (next == reads_.end()) return;
  auto& [guest, read] = *next;
  const double most =
      block_ns_ > 0 ? static_cast<double>(options_.read_target.ns) / block_ns_ : kUnmeasuredBlocks;
  const auto left = static_cast<uint32_t>(read.blocks.size()) - read.num_read;
  const auto count = static_cast<uint32_t>(std::clamp<double>(most, 1, left));
  const auto first = read.blocks.begin() + read.num_read;
  effects.emplace_back(ReadBlocks{guest,
                                  read.asked.key,
                                  read.asked.first_block + read.num_read,
                                  {first, first + count},
                                  read.num_available});
  read.num_read += count;
  last_read_ = guest;
  last_part_ = count;
  reading_ = turn_taken_ = true;
}

void Transfers::on(const GuestRefused& event, Instant, Effects& effects) {
  if (const auto fetch = find_fetch(event.guest); fetch != fetches_.end()) {
    end(fetch, effects);
    return;
  }
  effects.emplace_back(TellHolder{Release{event.guest}});  // it may wait for somebody
  const auto read = reads_.find(event.guest);
  if (read == reads_.end()) return;
  const BlocksAsked& asked = read->second.asked;
  effects.emplace_back(SendNothing{asked.key, asked.first_block, 0});
  reads_.erase(read);
}

void Transfers::on(const BlockArrived& event, Instant now, Effects& effects) {
  const auto at = fetches_.find(event.key);
  if (at == fetches_.end()) return;
  Fetch& fetch = at->second;
  // Blocks come in order over a link; whatever does not is a repeat, or forged.
  if (fetch.from != event.from || fetch.table.empty() || event.index != fetch.next) return;
  if (!event.has_data) {
    end(at, effects);
    return;
  }
  effects.emplace_back(WriteBlock{fetch.table[fetch.next]});
  ++fetch.next;
  ++fetched_blocks_;
  fetch.progress = now;
  if (event.num_available < fetch.asked_end) fetch.end = event.num_available;  // it has no more
  if (fetch.next >= fetch.end) {
    end(at, effects);
  } else if (fetch.next == fetch.asked_end) {
    ask(at->first, fetch, effects);
  }
}

void Transfers::on(const PatienceTick&, Instant now, Effects& effects) {
  for (auto fetch = fetches_.begin(); fetch != fetches_.end();) {
    const bool stuck = now - fetch->second.progress >= options_.patience;
    fetch = stuck ? end(fetch, effects) : std::next(fetch);
  }
  turn_taken_ = false;
  read_part(effects);
}

void Transfers::ask(const TransferKey& key, Fetch& fetch, Effects& effects) const {
  const uint32_t count = std::min(options_.window_blocks, fetch.end - fetch.next);
  fetch.asked_end = fetch.next + count;
  // No more tokens than say which blocks are meant: the other side needs room for the rest. One
  // more, because a holder never counts the last one as cached.
  const auto first = fetch.tokens.begin();
  const ptrdiff_t num_tokens = ptrdiff_t{fetch.asked_end} * options_.block_tokens + 1;
  effects.emplace_back(AskRouter{
      fetch.from,
      BlocksAsked{key, fetch.next, count, fetch.cache_namespace, {first, first + num_tokens}}});
}

Transfers::Fetches::iterator Transfers::end(Fetches::iterator fetch, Effects& effects) {
  const auto& [key, state] = *fetch;
  const uint32_t num_blocks = state.next - state.first;
  if (num_blocks > 0) {
    const auto tokens = state.tokens.begin();
    const uint32_t end = state.next * options_.block_tokens;
    effects.emplace_back(TellHolder{
        Computed{state.guest, state.cached_len, {tokens + state.cached_len, tokens + end}}});
  }
  effects.emplace_back(TellHolder{Release{state.guest}});
  effects.emplace_back(FetchEnded{key, num_blocks});
  return fetches_.erase(fetch);
}

Transfers::Fetches::iterator Transfers::find_fetch(RequestId guest) {
  return std::ranges::find_if(fetches_,
                              [&](const auto& fetch) { return fetch.second.guest == guest; });
}

// --- the side that has it -----------------------------------------------------------------------

void Transfers::on(const BlocksAsked& event, Instant, Effects& effects) {
  if (reads_.size() >= options_.max_reads || event.tokens.empty() || event.num_blocks == 0) {
    effects.emplace_back(SendNothing{event.key, event.first_block, 0});
    return;
  }
  const RequestId guest{++last_guest_};
  reads_[guest] = {.asked = event};
  effects.emplace_back(TellHolder{Reserve{.request = guest,
                                          .cache_namespace = event.cache_namespace,
                                          .tokens = event.tokens,
                                          .cached_only = true}});
}

void Transfers::on(const ReadEnded& event, Instant, Effects& effects) {
  constexpr double kRate = 0.25;
  if (!reading_ || event.guest != last_read_) return;
  reading_ = false;
  if (event.took.ns > 0) {
    const double ns = static_cast<double>(event.took.ns) / last_part_;
    block_ns_ += (block_ns_ > 0 ? kRate : 1) * (ns - block_ns_);
  }
  const auto ended = reads_.find(event.guest);
  if (ended->second.num_read < ended->second.blocks.size()) return;
  effects.emplace_back(TellHolder{Release{event.guest}});
  reads_.erase(ended);
}

void Transfers::on(const ReadTurn&, Instant, Effects& effects) {
  turn_taken_ = false;
  read_part(effects);
}

void Transfers::on(const RouterLost& event, Instant, Effects& effects) {
  for (auto fetch = fetches_.begin(); fetch != fetches_.end();) {
    fetch = fetch->second.from == event.router ? end(fetch, effects) : std::next(fetch);
  }
  for (auto at = reads_.begin(); at != reads_.end();) {
    auto& [guest, read] = *at;
    if (read.asked.key.router != event.router) {
      ++at;
    } else if (reading_ && guest == last_read_) {
      read.blocks.resize(read.num_read);  // it holds them until the part that is out has ended
      ++at;
    } else {
      effects.emplace_back(TellHolder{Release{guest}});
      at = reads_.erase(at);
    }
  }
}

std::string Transfers::check() const {
  if (fetches_.size() > options_.max_fetches) return "too many fetches";
  if (reads_.size() > options_.max_reads) return "too many reads";
  if (reading_ && !reads_.contains(last_read_)) return "a part is read for nobody";
  for (const auto& [guest, read] : reads_) {
    if (!is_guest(guest)) return "a read is no guest";
    if (read.num_read > read.blocks.size()) return "more is read than there is";
    const bool over = !read.blocks.empty() && read.num_read == read.blocks.size();
    if (over && !reading_) return "a read that is over holds its blocks";
  }
  for (const auto& [key, fetch] : fetches_) {
    if (!is_guest(fetch.guest)) return "a fetch is no guest";
    if (fetch.table.empty()) continue;
    if (fetch.next >= fetch.end || fetch.next > fetch.asked_end)
      return "a fetch goes on for nothing";
    if (fetch.end > fetch.table.size()) return "a fetch exceeds its table";
  }
  return "";
}

}  // namespace troupe::kvcache
