#include "model/logit_ranking.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace troupe::model {
namespace {

constexpr size_t kBlock = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();

/// The highest finite one, or minus infinity. Floats compare like integers of their bits once those
/// of negative ones are turned round; a maximum of integers is one that compilers take several at a
/// time.
float highest_of(std::span<const float, kBlock> block) {
  const auto turned = [](int32_t bits) { return bits ^ (bits >> 31 & INT32_MAX); };
  constexpr auto kInfinityBits = std::bit_cast<int32_t>(kInfinity);
  int32_t highest = turned(std::bit_cast<int32_t>(-kInfinity));
  for (const float logit : block) {
    const auto bits = std::bit_cast<int32_t>(logit);
    const int32_t finite = (bits & INT32_MAX) < kInfinityBits ? -1 : 0;
    const int32_t rank = (turned(bits) & finite) | (INT32_MIN & ~finite);
    highest = rank > highest ? rank : highest;
  }
  return std::bit_cast<float>(turned(highest));
}

}  // namespace

LogitRanking::LogitRanking(std::span<const float> logits)
    : logits_(logits), highest_((logits.size() + kBlock - 1) / kBlock) {
  const size_t whole = logits.size() / kBlock;
  for (size_t b = 0; b < whole; ++b) {
    highest_[b] = highest_of(logits.subspan(b * kBlock).first<kBlock>());
  }
  if (whole == highest_.size()) return;
  std::array<float, kBlock> rest;
  rest.fill(-kInfinity);
  std::ranges::copy(logits.subspan(whole * kBlock), rest.begin());
  highest_.back() = highest_of(rest);
}

std::optional<uint32_t> LogitRanking::best() const {
  const auto block = std::ranges::max_element(highest_);
  if (block == highest_.end() || *block == -kInfinity) return std::nullopt;
  const auto first = logits_.begin() + (block - highest_.begin()) * std::ptrdiff_t{kBlock};
  return static_cast<uint32_t>(std::find(first, logits_.end(), *block) - logits_.begin());
}

std::vector<uint32_t> LogitRanking::most_likely(size_t count) const {
  if (count == 0) return {};
  float least = -kMost;
  if (count < highest_.size()) {
    std::vector<float> bounds = highest_;
    const auto nth = bounds.begin() + static_cast<ptrdiff_t>(count - 1);
    std::ranges::nth_element(bounds, nth, std::ranges::greater());
    least = std::max(least, *nth);
  }
  std::vector<uint32_t> found;
  for (size_t b = 0; b < highest_.size(); ++b) {
    if (highest_[b] < least) continue;
    const size_t end = std::min(logits_.size(), (b + 1) * kBlock);
    for (size_t i = b * kBlock; i < end; ++i) {
      if (logits_[i] >= least && logits_[i] <= kMost) found.push_back(static_cast<uint32_t>(i));
    }
  }
  const auto more_likely = [&](uint32_t a, uint32_t b) {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  };
  if (count < found.size()) {
    std::ranges::nth_element(found, found.begin() + static_cast<ptrdiff_t>(count), more_likely);
    found.resize(count);
  }
  std::ranges::sort(found, more_likely);
  return found;
}

}  // namespace troupe::model
