#pragma once

// The option --device of the commands that compute in this process.

#include "apps/command.hpp"
#include "base/device.hpp"
#include "kernels/backend.hpp"

namespace troupe::apps {

/// Adds --device.
void add_device_option(Options& options);
/// Adds --cuda-graphs, for commands that compute whole steps.
void add_cuda_graphs_option(Options& options);

/// What --device names; this machine's CPUs where there is no such option.
/// @errors kInvalidArgument
Result<Device> read_device(const Values& values);
/// The backend that --device names, with graphs as --cuda-graphs says. @returns none, without
/// operations, for this machine's CPUs, and where there is no such option @errors kInvalidArgument;
/// those of open_gpus()
Result<kernels::Backend> open_device(const Values& values);

}  // namespace troupe::apps
