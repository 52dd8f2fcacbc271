#pragma once

// Requests for tests, and what one process answers to them.

#include <string>
#include <vector>

#include "base/tensor_view.hpp"
#include "kernels/backend.hpp"
#include "scheduler/request.hpp"
#include "tests/support/stream.hpp"

namespace troupe::actors {

/// The directory of a model under tests/golden/models.
std::string golden_model(const std::string& name);

/// A short prompt, decoded greedily.
scheduler::RequestSpec greedy(uint32_t max_tokens);

/// A mixed load: short and long prompts, greedy and sampled, with and without log-probabilities.
std::vector<scheduler::RequestSpec> mixed_requests(uint32_t vocab_size, size_t count);

/// What one process without actors generates, request by request. @param backend none: CPUs
std::vector<Stream> generated_alone(const std::string& model,
                                    const std::vector<scheduler::RequestSpec>& specs,
                                    DType kv_dtype = DType::kF32, kernels::Backend backend = {});

}  // namespace troupe::actors
