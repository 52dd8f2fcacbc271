#pragma once

// The times of cases on a backend, as `troupe bench kernels` shows them.

#include <span>
#include <string>

#include "apps/kernel_cases.hpp"
#include "apps/machine_rates.hpp"
#include "kernels/backend.hpp"
#include "loadgen/result_table.hpp"

namespace troupe::apps {

/// Measures the machine, each case, and the machine again.
/// @param machine of the backend @param shape its name, for the results
/// @param limit_s of each case; three samples at least
/// @errors kResourceExhausted where a case has no room; those of a device
Result<loadgen::ResultTable> measure_kernels(std::span<const KernelCase> cases,
                                             kernels::Backend& backend, Machine& machine,
                                             const std::string& shape, double limit_s);

}  // namespace troupe::apps
