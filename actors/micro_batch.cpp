#include "actors/micro_batch.hpp"

#include <utility>

#include "base/check.hpp"

namespace troupe::actors {

std::vector<std::vector<StepPart>> cut_rows(std::vector<StepPart> parts, uint32_t count) {
  size_t num_rows = 0;
  for (const StepPart& part : parts) num_rows += part.tokens.size();
  CHECK_GE(count, 1U);
  CHECK_LE(size_t{count}, num_rows);
  std::vector<std::vector<StepPart>> batches(count);
  size_t row = 0;  // of the step
  for (StepPart& part : parts) {
    for (;;) {
      const size_t batch = row * count / num_rows;
      const size_t end_of_batch = ((batch + 1) * num_rows + count - 1) / count;
      const size_t room = end_of_batch - row;
      if (part.tokens.size() <= room) {
        row += part.tokens.size();
        batches[batch].push_back(std::move(part));
        break;
      }
      StepPart piece{.first_position = part.first_position, .block_table = part.block_table};
      const auto cut = part.tokens.begin() + static_cast<ptrdiff_t>(room);
      piece.tokens.assign(part.tokens.begin(), cut);
      part.tokens.erase(part.tokens.begin(), cut);
      part.first_position += static_cast<uint32_t>(room);
      row += room;
      batches[batch].push_back(std::move(piece));
    }
  }
  return batches;
}

}  // namespace troupe::actors
