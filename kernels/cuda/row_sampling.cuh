#pragma once

// Questions about rows of logits (base/row_sampling.hpp): one block per row, one launch for all.
// Thread t looks at logits t, t + 256, ...
//
// What a row costs: a pass over its logits for the highest, limited by memory. Each sum of weights
// adds one after the other, for its bits are defined so: one thread adds, 8 bytes of shared memory
// and one dependent addition in double for each logit, while seven warps weigh the next tile; so it
// takes as long as its additions do, 129,280 of them for a row of V3, and rows at the same time on
// one multiprocessor share nothing but their exponentials. A likely token takes one search of the
// block for the highest, and one of its thread's group of logits.

#include <cmath>
#include <limits>

#include "base/exponential.hpp"
#include "base/row_sampling.hpp"
#include "kernels/cuda/rows.cuh"
#include "kernels/on_device.hpp"

namespace troupe::kernels::cuda {

/// A question about one row; all pointers are the device's.
struct RowWork {
  float* logits = nullptr;  ///< [vocab]
  const LogitEdit* edits = nullptr;
  float* unedited = nullptr;  ///< room for [num_edits]
  uint32_t num_edits = 0;
  const uint64_t* mask = nullptr;  ///< nullptr: all are allowed
  Penalties penalties;
  double temperature = 1;
  double least = 0;
  double uniform = 0;
  bool wants_total = false;
  bool wants_draw = false;
  bool wants_logprob = false;
  TokenId scored = kNoLogit;
  uint32_t num_likely = 0;
  uint32_t num_top = 0;
  RowAnswer* answer = nullptr;
  LikelyToken* likely = nullptr;  ///< [num_likely]
  LikelyToken* top = nullptr;     ///< [num_top]
};

struct SampleRows {
  static constexpr unsigned kThreads = kRowThreads;
  static constexpr unsigned kBlocksPerSm = 2;
  static constexpr unsigned kTile = 1024;  ///< weights that are added while others are computed
  static constexpr unsigned kGroups = 32;  ///< of a thread's logits
  [[nodiscard]] size_t shared_bytes() const {
    return (2 * kTile + num_tiles()) * sizeof(double) + kGroups * kThreads * sizeof(float) +
           kWarps * (sizeof(float) + sizeof(uint32_t)) + 5 * 16;
  }

  const RowWork* rows;
  unsigned vocab;

  SIMT_DEVICE void operator()() const {
    Block block(*this);
    const RowWork& row = rows[simt::block_x()];
    RowAnswer answer;
    Best best;
    if (row.scored == kNoLogit) {
      edit(row);
      best = block.highest(row.logits, row.mask);
      if (best.index != kNone) choose(block, row, best, answer);
      restore(row);
    }
    about_the_row_itself(block, row, best, answer);
    if (simt::thread() == 0) *row.answer = answer;
  }

 private:
  static constexpr unsigned kWarps = kThreads / simt::kWarp;
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
  static constexpr float kMost = std::numeric_limits<float>::max();
  static constexpr uint32_t kNone = ~0U;

  [[nodiscard]] TROUPE_ON_DEVICE unsigned num_tiles() const { return (vocab + kTile - 1) / kTile; }

  /// A logit with a place in the order.
  struct Best {
    float logit = -kInfinity;
    uint32_t index = kNone;
  };
  SIMT_DEVICE static bool comes_first(const Best& a, const Best& b) {
    if (a.index == kNone || b.index == kNone) return a.index != kNone;
    if (a.logit > b.logit || a.logit < b.logit) return a.logit > b.logit;
    return a.index < b.index;
  }
  SIMT_DEVICE static float allowed(const float* logits, const uint64_t* mask, unsigned i) {
    return mask == nullptr || has_token(mask, i) ? logits[i] : -kInfinity;
  }

  /// What the threads of a block do together.
  class Block {
   public:
    SIMT_DEVICE explicit Block(const SampleRows& kernel)
        : vocab_(kernel.vocab),
          num_tiles_(kernel.num_tiles()),
          group_((kernel.vocab + kGroups * kThreads - 1) / (kGroups * kThreads)),
          weights_(memory_.take<double>(2 * kTile)),
          sums_(memory_.take<double>(num_tiles_)),
          group_highest_(memory_.take<float>(kGroups * kThreads)),
          warp_logits_(memory_.take<float>(kWarps)),
          warp_indices_(memory_.take<uint32_t>(kWarps)) {}

    SIMT_DEVICE Best highest(const float* logits, const uint64_t* mask) {
      Best mine;
      for (unsigned i = simt::thread(); i < vocab_; i += kThreads) {
        const float logit = allowed(logits, mask, i);
        if (logit > mine.logit && logit <= kMost) mine = {logit, i};
      }
      return first_of(mine);
    }

    /// The first `count` in the order. @returns how many there are
    SIMT_DEVICE uint32_t list(const float* logits, const uint64_t* mask, uint32_t count,
                              LikelyToken* out) {
      Best mine;
      for (unsigned g = 0; g < kGroups; ++g) {
        const Best best = of_group(logits, mask, g, {});
        group_highest_[g * kThreads + simt::thread()] = best.logit;
        if (comes_first(best, mine)) mine = best;
      }
      for (uint32_t n = 0; n < count; ++n) {
        const Best next = first_of(mine);
        if (next.index == kNone) return n;
        if (simt::thread() == 0)
          out[n] = {.token = static_cast<TokenId>(next.index), .logit = next.logit};
        if (next.index == mine.index) mine = after(logits, mask, next);
      }
      return count;
    }

    /// Of the weights, whose running sum after each tile is kept. In all threads.
    SIMT_DEVICE double total(const float* logits, const uint64_t* mask, float highest,
                             double temperature, double least) {
      double sum = 0;  // of thread 0
      weigh(logits, mask, highest, temperature, least, 0, 0);
      for (unsigned tile = 0; tile < num_tiles_; ++tile) {
        simt::block_barrier();
        if (simt::thread() == 0) {
          for (unsigned i = 0; i < kTile; i += kAtOnce) {
            double weights[kAtOnce];  // loaded before they are added one after the other
            const unsigned first = tile % 2 * kTile + i;
            SIMT_UNROLL for (unsigned k = 0; k < kAtOnce; ++k) weights[k] = weights_[first + k];
            SIMT_UNROLL for (unsigned k = 0; k < kAtOnce; ++k) sum += weights[k];
          }
          sums_[tile] = sum;
        }
        if (tile + 1 < num_tiles_) {
          weigh(logits, mask, highest, temperature, least, tile + 1, (tile + 1) % 2);
        }
      }
      simt::block_barrier();
      return sums_[num_tiles_ - 1];
    }

    /// Where the running sum passes `target`, below the total that was last asked. In thread 0.
    SIMT_DEVICE uint32_t passing(const float* logits, const uint64_t* mask, float highest,
                                 double temperature, double least, double target) {
      unsigned tile = 0;
      while (tile + 1 < num_tiles_ && sums_[tile] <= target) ++tile;
      weigh(logits, mask, highest, temperature, least, tile, 0);
      simt::block_barrier();
      unsigned i = 0;
      if (simt::thread() == 0) {
        double sum = tile == 0 ? 0 : sums_[tile - 1];
        while (i + 1 < kTile && (sum += weights_[i]) <= target) ++i;
      }
      simt::block_barrier();
      return tile * kTile + i;
    }

   private:
    static constexpr unsigned kAtOnce = 32;

    /// The first of all threads' ones, in all of them.
    SIMT_DEVICE Best first_of(Best mine) {
      for (unsigned mask = simt::kWarp / 2; mask > 0; mask /= 2) {
        const Best other{simt::shuffle_xor(mine.logit, mask), simt::shuffle_xor(mine.index, mask)};
        if (comes_first(other, mine)) mine = other;
      }
      if (simt::lane() == 0) {
        warp_logits_[simt::warp()] = mine.logit;
        warp_indices_[simt::warp()] = mine.index;
      }
      simt::block_barrier();
      for (unsigned w = 0; w < kWarps; ++w) {
        const Best other{warp_logits_[w], warp_indices_[w]};
        if (comes_first(other, mine)) mine = other;
      }
      simt::block_barrier();
      return mine;
    }

    /// The first of a group of this thread's that comes after `last`, if that is one.
    SIMT_DEVICE Best of_group(const float* logits, const uint64_t* mask, unsigned g,
                              const Best& last) const {
      Best best;
      for (unsigned j = g * group_; j < (g + 1) * group_; ++j) {
        const size_t at = size_t{j} * kThreads + simt::thread();
        if (at >= vocab_) break;
        const auto i = static_cast<unsigned>(at);
        const Best one{allowed(logits, mask, i), i};
        if (!(std::fabs(one.logit) <= kMost)) continue;
        if (last.index != kNone && !comes_first(last, one)) continue;
        if (comes_first(one, best)) best = one;
      }
      return best;
    }

    /// This thread's first one after `last`, which was its first.
    SIMT_DEVICE Best after(const float* logits, const uint64_t* mask, const Best& last) {
      const unsigned of_last = last.index / kThreads / group_;
      group_highest_[of_last * kThreads + simt::thread()] =
          of_group(logits, mask, of_last, last).logit;
      unsigned best = 0;  // of equals the lowest group has the lowest tokens
      for (unsigned g = 1; g < kGroups; ++g) {
        if (group_highest_[g * kThreads + simt::thread()] >
            group_highest_[best * kThreads + simt::thread()]) {
          best = g;
        }
      }
      return of_group(logits, mask, best, last);
    }

    /// By all warps but the first, which adds meanwhile.
    SIMT_DEVICE void weigh(const float* logits, const uint64_t* mask, float highest,
                           double temperature, double least, unsigned tile, unsigned buffer) {
      if (simt::warp() == 0) return;
      for (unsigned i = simt::thread() - simt::kWarp; i < kTile; i += kThreads - simt::kWarp) {
        const size_t at = size_t{tile} * kTile + i;
        const float logit =
            at < vocab_ ? allowed(logits, mask, static_cast<unsigned>(at)) : -kInfinity;
        weights_[buffer * kTile + i] = softmax_weight(logit, highest, temperature, least);
      }
    }

    unsigned vocab_;
    unsigned num_tiles_;
    unsigned group_;  ///< logits of a thread's group
    simt::SharedMemory memory_;
    simt::Shared<double> weights_;  ///< of two tiles
    simt::Shared<double> sums_;     ///< after each tile
    simt::Shared<float> group_highest_;
    simt::Shared<float> warp_logits_;
    simt::Shared<uint32_t> warp_indices_;
  };

  SIMT_DEVICE static void edit(const RowWork& row) {
    if (row.num_edits == 0) return;
    for (uint32_t e = simt::thread(); e < row.num_edits; e += kThreads) {
      float& logit = row.logits[row.edits[e].token];
      row.unedited[e] = logit;
      logit = edited(logit, row.edits[e], row.penalties);
    }
    simt::block_barrier();
  }
  SIMT_DEVICE static void restore(const RowWork& row) {
    if (row.num_edits == 0) return;
    simt::block_barrier();
    for (uint32_t e = simt::thread(); e < row.num_edits; e += kThreads) {
      row.logits[row.edits[e].token] = row.unedited[e];
    }
    simt::block_barrier();
  }

  /// What is asked of the allowed logits.
  SIMT_DEVICE static void choose(Block& block, const RowWork& row, const Best& best,
                                 RowAnswer& answer) {
    answer.best = static_cast<TokenId>(best.index);
    answer.highest = best.logit;
    if (row.wants_total || row.wants_draw) {
      answer.total = block.total(row.logits, row.mask, best.logit, row.temperature, row.least);
    }
    if (row.wants_draw) {
      answer.drawn =
          static_cast<TokenId>(block.passing(row.logits, row.mask, best.logit, row.temperature,
                                             row.least, row.uniform * answer.total));
    }
    if (row.num_likely > 0) {
      answer.num_likely = block.list(row.logits, row.mask, row.num_likely, row.likely);
    }
  }

  /// @param best of the allowed ones
  SIMT_DEVICE static void about_the_row_itself(Block& block, const RowWork& row, const Best& best,
                                               RowAnswer& answer) {
    if (!row.wants_logprob && best.index != kNone) return;
    const bool all_allowed = row.scored == kNoLogit && row.num_edits == 0 && row.mask == nullptr;
    const Best own = all_allowed ? best : block.highest(row.logits, nullptr);
    answer.own_highest = own.logit;
    if (!row.wants_logprob || own.index == kNone) return;
    const bool is_total = all_allowed && (row.wants_total || row.wants_draw) &&
                          row.temperature == 1.0 && row.least == 0.0;
    answer.own_total =
        is_total ? answer.total : block.total(row.logits, nullptr, own.logit, 1.0, 0.0);
    answer.num_top = block.list(row.logits, nullptr, row.num_top, row.top);
    if (simt::thread() != 0) return;
    TokenId token = row.scored;
    if (token == kNoLogit) token = row.wants_draw ? answer.drawn : answer.best;
    if (token != kNoLogit) answer.own_logit = row.logits[token];
    for (uint32_t n = 0; n < answer.num_top; ++n) row.top[n].own_logit = row.top[n].logit;
    for (uint32_t n = 0; n < answer.num_likely; ++n) {
      row.likely[n].own_logit = row.logits[row.likely[n].token];
    }
  }
};

}  // namespace troupe::kernels::cuda
