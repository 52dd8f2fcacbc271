#pragma once

// The logits that top-p keeps. By definition weights are added from the most likely on until the
// sum reaches a share of their total, which asks for a sort; where it ends is found without one
// whenever rounding cannot decide it. Sources of model/ only.

#include <cstdint>
#include <optional>
#include <vector>

#include "model/softmax.hpp"

namespace troupe::model {

/// Indices, rising, of the fewest, most likely first and equals by rising index, whose weights,
/// added in that order, reach `top_p` of softmax.total(); at least one; of all that are finite if
/// rounding keeps even their sum below.
/// Cost: O(logits), whatever is kept; a sort of all where top_p_end() does not tell.
/// REQUIRES: a finite logit; softmax.least == 0; 0 < top_p < 1
std::vector<uint32_t> most_likely_share(const Softmax& softmax, double top_p);

/// Kept are all logits above this one and of those equal to it the first.
struct TopPEnd {
  float logit = 0;
  uint32_t num_equal = 0;
  uint32_t num_kept = 0;  ///< with those equal
};

/// Where the sum of weights, most likely first, reaches `wanted`: a radix selection by the logits'
/// bits, which adds in another order and therefore gives each sum within a bound.
/// @returns nullopt if `wanted` is so close to a sum that the order of the additions decides:
///          certain where many equal logits reach it exactly, else some in a million of flat logits
std::optional<TopPEnd> top_p_end(const Softmax& softmax, double wanted);

}  // namespace troupe::model
