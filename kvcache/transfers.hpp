#pragma once

// KV that moves between the holders of two routers: a request that goes on somewhere else fetches
// what is computed of it instead of computing it again. Whole blocks, asked for a window at a time
// by the side that wants them, out of the prefix cache of one side into that of the other; so
// whatever is lost on the way only costs the time to compute it. Pure.
//
// At both ends a transfer is a guest of the holder: it reserves a table, to write like a request or
// to read what is cached, and releases it. A fetched prefix is found by its request like any cached
// one.
//
// Blocks are read for others where steps are computed, which wait for it. So they are read in
// parts: one at a time, of as many blocks as take `read_target`, and the next one not before a
// ReadTurn or a PatienceTick. Whoever asks, however often, a step is held up by one part, and a
// long step by one more for each tick that it takes. Those who asked get parts by turns.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/ids.hpp"
#include "base/time.hpp"
#include "kvcache/holder.hpp"

namespace troupe::kvcache {

struct TransferOptions {
  uint32_t block_tokens = 16;   ///< of the holder
  uint32_t window_blocks = 16;  ///< asked for at once; >= 1
  uint32_t max_fetches = 8;     ///< at a time; one more computes instead
  uint32_t max_reads = 16;      ///< for others at a time; one more is told that there is nothing
  /// Of one part. Before it is known what a block takes, a part is two blocks; one at least.
  Duration read_target = milliseconds(5);
  Duration patience = milliseconds(300);  ///< a fetch without progress for so long ends
};

/// Names a fetch at both ends.
struct TransferKey {
  NodeId router;  ///< that wants the KV
  RequestId request;
  uint32_t attempt = 0;
  friend auto operator<=>(const TransferKey&, const TransferKey&) = default;
};

// --- events -----------------------------------------------------------------------------------
/// A request that begins here may find KV of its tokens at `from`. FetchEnded follows in any case,
/// unless it is abandoned.
struct FetchWanted {
  TransferKey key;
  NodeId from;
  std::string cache_namespace;
  std::vector<TokenId> tokens;  ///< not empty
};
struct FetchAbandoned {
  TransferKey key;
};
/// The holder's answer about a guest: a table with so much cached, or nothing.
struct GuestGranted {
  RequestId guest;
  std::vector<BlockId> table;
  uint32_t cached_len = 0;
};
struct GuestRefused {
  RequestId guest;
};
/// Block number `index` of the tokens came; of those asked about, `num_available` whole blocks from
/// the first on are there. Without data: there is no such block.
struct BlockArrived {
  NodeId from;
  TransferKey key;
  uint32_t index = 0;
  uint32_t num_available = 0;
  bool has_data = false;
};
/// Another router asks for blocks first_block ... of these tokens, which end one after them.
struct BlocksAsked {
  TransferKey key;
  uint32_t first_block = 0;
  uint32_t num_blocks = 0;
  std::string cache_namespace;
  std::vector<TokenId> tokens;
};
/// The blocks of ReadBlocks are copied out.
struct ReadEnded {
  RequestId guest;
  Duration took;
};
/// Another part may be read: a step has ended, or none is out.
struct ReadTurn {};
/// Nothing comes from there, and nothing is read for it any longer.
struct RouterLost {
  NodeId router;
};
struct PatienceTick {};

using TransferEvent =
    std::variant<FetchWanted, FetchAbandoned, GuestGranted, GuestRefused, BlockArrived, BlocksAsked,
                 ReadEnded, ReadTurn, RouterLost, PatienceTick>;

// --- effects ----------------------------------------------------------------------------------
struct TellHolder {
  HolderEvent event;
};
struct AskRouter {
  NodeId from;
  BlocksAsked what;
};
/// Write the data of the BlockArrived at hand, before any step that begins later.
struct WriteBlock {
  BlockId block;
};
/// The request may begin; what was fetched is in the cache.
struct FetchEnded {
  TransferKey key;
  uint32_t num_blocks = 0;
};
/// Send copies of these blocks, numbers first_block ..., to key.router; then ReadEnded.
struct ReadBlocks {
  RequestId guest;
  TransferKey key;
  uint32_t first_block = 0;
  std::vector<BlockId> blocks;  ///< not empty
  uint32_t num_available = 0;
};
/// Tell key.router that there is no such block.
struct SendNothing {
  TransferKey key;
  uint32_t first_block = 0;
  uint32_t num_available = 0;
};
using TransferEffect =
    std::variant<TellHolder, AskRouter, WriteBlock, FetchEnded, ReadBlocks, SendNothing>;

class Transfers {
 public:
  explicit Transfers(TransferOptions options);

  [[nodiscard]] std::vector<TransferEffect> handle(const TransferEvent& event, Instant now);
  /// A fetch is under way, or somebody waits for blocks: PatienceTick is wanted from time to time.
  [[nodiscard]] bool waits() const { return !fetches_.empty() || !reads_.empty(); }
  [[nodiscard]] uint64_t fetched_blocks() const { return fetched_blocks_; }
  [[nodiscard]] std::string check() const;

 private:
  struct Fetch {
    RequestId guest;
    NodeId from;
    std::string cache_namespace;
    std::vector<TokenId> tokens;
    std::vector<BlockId> table;  ///< empty until the holder answers
    uint32_t cached_len = 0;     ///< here, before
    uint32_t first = 0;          ///< block that was asked for first
    uint32_t next = 0;           ///< block that is due
    uint32_t asked_end = 0;
    uint32_t end = 0;  ///< whole blocks that are worth having
    Instant progress;
  };
  struct Read {
    BlocksAsked asked;
    std::vector<BlockId> blocks = {};  ///< to be read, once the holder has answered
    uint32_t num_read = 0;             ///< of these, with those that are just being read
    uint32_t num_available = 0;
  };
  using Fetches = std::map<TransferKey, Fetch>;
  using Effects = std::vector<TransferEffect>;

  void on(const FetchWanted& event, Instant now, Effects& effects);
  void on(const FetchAbandoned& event, Instant now, Effects& effects);
  void on(const GuestGranted& event, Instant now, Effects& effects);
  void on(const GuestRefused& event, Instant now, Effects& effects);
  void on(const BlockArrived& event, Instant now, Effects& effects);
  void on(const BlocksAsked& event, Instant now, Effects& effects);
  void on(const ReadEnded& event, Instant now, Effects& effects);
  void on(const ReadTurn& event, Instant now, Effects& effects);
  void on(const RouterLost& event, Instant now, Effects& effects);
  void on(const PatienceTick& event, Instant now, Effects& effects);

  void ask(const TransferKey& key, Fetch& fetch, Effects& effects) const;
  /// Publishes what came and lets the request begin.
  Fetches::iterator end(Fetches::iterator fetch, Effects& effects);
  Fetches::iterator find_fetch(RequestId guest);
  /// A part of the next one that waits for one, if it is time for it.
  void read_part(Effects& effects);

  TransferOptions options_;
  uint64_t last_guest_ = kFirstGuest.value;
  Fetches fetches_;
  std::map<RequestId, Read> reads_;  ///< by guest: in the order in which they asked
  bool reading_ = false;             ///< a part is out
  bool turn_taken_ = false;          ///< a part was read since the last turn
  RequestId last_read_;              ///< the guest of the last part
  uint32_t last_part_ = 0;           ///< its blocks
  double block_ns_ = 0;              ///< what reading a block took lately; 0: not known
  uint64_t fetched_blocks_ = 0;
};

}  // namespace troupe::kvcache
