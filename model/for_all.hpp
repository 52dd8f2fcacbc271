#pragma once

// The same work for many, on some threads: of what makes and loads checkpoints, outside of steps.

#include <cstddef>
#include <functional>

#include "base/result.hpp"

namespace troupe::model {

/// Runs work(i) for every i below count on up to num_threads threads, this one among them, until
/// one fails. @errors that of one that failed
Result<void> for_all(size_t count, size_t num_threads,
                     const std::function<Result<void>(size_t)>& work);

}  // namespace troupe::model
