#pragma once

// Answers questions about rows of logits where they lie, on a device: what choosing a token needs
// of a row of 129,280 logits are some bytes, and the row itself is 517 KB.

#include <cstddef>
#include <span>

#include "base/row_sampling.hpp"

namespace troupe::kernels {

struct AskedRow {
  float* logits = nullptr;                ///< [vocab], on the device; as before when answered
  const RowQuestion* question = nullptr;  ///< may end with the call
};

class RowSampler {
 public:
  virtual ~RowSampler() = default;

  /// Looks at all logits of the rows. The answers have the bits that base/row_sampling.hpp defines,
  /// whatever rows are asked together.
  virtual void ask(std::span<const AskedRow> rows, size_t vocab) = 0;
  /// To row i of the last call. REQUIRES: Memory::finish() since then. Valid until the next call.
  [[nodiscard]] virtual AnsweredRow answer(size_t i) const = 0;
};

}  // namespace troupe::kernels
