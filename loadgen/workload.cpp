#include "loadgen/workload.hpp"

#include <algorithm>
#include <cmath>

#include "base/check.hpp"
#include "base/random.hpp"

namespace troupe::loadgen {
namespace {

/// The highest bits of a stream say what it is for, so that no two draws are the same. Hash ids
/// have the highest bit for themselves: a trace may use all of the 63 bits below it.
enum class Use : uint64_t {
  kOwn = 1,
  kPrefix,
  kInputLength,
  kOutputLength,
  kWhichPrefix,
  kHashId = 0x80
};

/// REQUIRES: number < 2^56, of a hash id < 2^63.
constexpr uint64_t stream_of(Use use, uint64_t number) {
  return static_cast<uint64_t>(use) << 56 | number;
}

}  // namespace

uint32_t PlannedRequest::num_words() const {
  uint32_t sum = 0;
  for (const Segment& segment : segments) sum += segment.num_words;
  return sum;
}

std::optional<uint64_t> Workload::size() const {
  return options_.rows ? std::optional<uint64_t>(options_.rows->size()) : std::nullopt;
}

uint32_t Workload::draw(LengthRange range, uint64_t position, uint64_t stream) const {
  const double low = std::floor(range.mean * (1 - range.range_ratio));
  const double high = std::ceil(range.mean * (1 + range.range_ratio));
  const double u = random_uniform(options_.seed, position, stream);
  return static_cast<uint32_t>(std::max(1.0, low + std::floor(u * (high - low + 1))));
}

PlannedRequest Workload::plan(uint64_t conversation, uint32_t turn) const {
  CHECK_LT(turn, options_.num_turns);
  if (options_.rows) return plan_row(conversation);
  PlannedRequest request;
  if (turn == 0 && options_.prefix_len > 0) {
    const uint64_t which =
        random_bits(options_.seed, conversation, stream_of(Use::kWhichPrefix, 0)) %
        options_.num_prefixes;
    request.segments.push_back({stream_of(Use::kPrefix, which), options_.prefix_len});
  }
  const uint64_t position = conversation * options_.num_turns + turn;
  const LengthRange input = turn == 0 ? options_.input : options_.later_input;
  request.segments.push_back(
      {stream_of(Use::kOwn, position), draw(input, position, stream_of(Use::kInputLength, 0))});
  request.output_tokens = draw(options_.output, position, stream_of(Use::kOutputLength, 0));
  return request;
}

PlannedRequest Workload::plan_row(uint64_t conversation) const {
  CHECK_LT(conversation, options_.rows->size());
  const TraceRow& row = (*options_.rows)[conversation];
  PlannedRequest request{.segments = {}, .text = row.prompt, .output_tokens = row.output_tokens};
  if (!row.prompt.empty()) return request;
  if (row.hash_ids.empty()) {
    request.segments.push_back({stream_of(Use::kOwn, conversation), row.input_tokens});
  }
  uint32_t left = row.input_tokens;
  for (const uint64_t id : row.hash_ids) {
    const uint32_t size = std::min(left, kMooncakeBlockTokens);
    request.segments.push_back({stream_of(Use::kHashId, id), size});
    left -= size;
  }
  return request;
}

}  // namespace troupe::loadgen
