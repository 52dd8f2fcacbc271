#include "model/top_p.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <span>

#include "base/check.hpp"
#include "model/logit_ranking.hpp"

namespace troupe::model {
namespace {

constexpr int kDigitBits = 11;
constexpr size_t kDigits = size_t{1} << kDigitBits;

/// Negative floats' bits in the order of integers, and back.
int32_t turned(int32_t bits) { return bits ^ (bits >> 31 & INT32_MAX); }

/// Rises with the logit; of three digits. Both zeros have the same.
uint64_t rank_of(float logit) {
  const auto ordered = static_cast<uint32_t>(turned(std::bit_cast<int32_t>(logit + 0.0F)));
  return uint64_t{ordered ^ 1U << 31} << 1;
}

float logit_of(uint64_t rank) {
  const auto ordered = static_cast<uint32_t>(rank >> 1) ^ 1U << 31;
  return std::bit_cast<float>(turned(static_cast<int32_t>(ordered)));
}

/// Logits with the same digit of their ranks.
struct Bucket {
  double weight = 0;
  uint32_t count = 0;
};

/// By the digit at `shift` those whose higher digits are those of `rank`.
std::array<Bucket, kDigits> buckets_of(std::span<const float> logits,
                                       std::span<const double> weights, uint64_t rank, int shift) {
  std::array<Bucket, kDigits> buckets{};
  for (size_t i = 0; i < logits.size(); ++i) {
    const uint64_t digits = (rank_of(logits[i]) ^ rank) >> shift;
    if (digits >= kDigits || weights[i] == 0) continue;
    Bucket& bucket = buckets[digits];
    bucket.weight += weights[i];
    ++bucket.count;
  }
  return buckets;
}

/// The first so many, most likely first, with which the sum reaches `wanted`; nullopt: none.
std::optional<size_t> num_reaching(const Softmax& softmax, std::span<const uint32_t> most_likely,
                                   double wanted) {
  double sum = 0;
  for (size_t i = 0; i < most_likely.size(); ++i) {
    sum += softmax.weight(softmax.logits[most_likely[i]]);
    if (sum >= wanted) return i + 1;
  }
  return std::nullopt;
}

/// By rising index.
std::vector<uint32_t> kept_by(const TopPEnd& end, const Softmax& softmax) {
  std::vector<uint32_t> kept(end.num_kept + size_t{1});  // one is overwritten until it is kept
  size_t count = 0;
  uint32_t equal_left = end.num_equal;
  for (size_t i = 0; i < softmax.logits.size(); ++i) {
    const float logit = softmax.logits[i];
    const auto equal = static_cast<uint32_t>((logit == end.logit) & (equal_left > 0));
    const auto above = static_cast<uint32_t>((logit > end.logit) & (logit <= softmax.highest));
    kept[count] = static_cast<uint32_t>(i);
    count += equal | above;
    equal_left -= equal;
  }
  CHECK_EQ(count, size_t{end.num_kept});
  kept.pop_back();
  return kept;
}

}  // namespace

std::optional<TopPEnd> top_p_end(const Softmax& softmax, double wanted) {
  const std::vector<double> weights = softmax.weights();
  double above = 0;  // the weights of those that rank higher than the end
  TopPEnd end;
  uint64_t rank = 0;  // its digits so far
  uint32_t num_equal = 0;
  for (const int shift : {2 * kDigitBits, kDigitBits, 0}) {
    const auto buckets = buckets_of(softmax.logits, weights, rank, shift);
    size_t digit = kDigits - 1;
    for (; above + buckets[digit].weight < wanted; --digit) {
      if (digit == 0) return std::nullopt;
      above += buckets[digit].weight;
      end.num_kept += buckets[digit].count;
    }
    rank |= uint64_t{digit} << shift;
    num_equal = buckets[digit].count;
  }
  end.logit = logit_of(rank);
  const double weight = softmax.weight(end.logit);
  const double num_needed = std::ceil((wanted - above) / weight);
  if (num_needed > num_equal) return std::nullopt;
  end.num_equal = static_cast<uint32_t>(num_needed);
  end.num_kept += end.num_equal;
  const double before = above + (num_needed - 1) * weight;
  const double reached = above + num_needed * weight;
  // A sum of n positive numbers in any order is within n * 2^-53 of the true one, in terms of that;
  // both this sum and the defined one are. Twice as much again is for what was rounded since.
  const double bound = static_cast<double>(weights.size() + 8) * 0x1p-51 * reached;
  if (!(before + bound < wanted && wanted <= reached - bound)) return std::nullopt;
  return end;
}

std::vector<uint32_t> most_likely_share(const Softmax& softmax, double top_p) {
  const LogitRanking ranking(softmax.logits);
  const double wanted = top_p * softmax.total();
  const auto share_of = [&](size_t count) -> std::optional<std::vector<uint32_t>> {
    std::vector<uint32_t> kept = ranking.most_likely(count);
    const auto num_kept = num_reaching(softmax, kept, wanted);
    if (!num_kept && kept.size() == count) return std::nullopt;  // more are wanted
    kept.resize(num_kept.value_or(kept.size()));
    std::ranges::sort(kept);
    return kept;
  };
  for (const size_t count : {64, 512}) {  // of a vocabulary a few are enough as a rule
    if (auto kept = share_of(count)) return *std::move(kept);
  }
  if (const auto end = top_p_end(softmax, wanted)) return kept_by(*end, softmax);
  return share_of(softmax.logits.size() + 1).value();
}

}  // namespace troupe::model
