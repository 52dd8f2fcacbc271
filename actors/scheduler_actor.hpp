#pragma once

// The head's actor: shell over the scheduler's and the membership's cores. Control only; it never
// sees a tensor.

#include <caf/all.hpp>
#include <memory>
#include <string>
#include <vector>

#include "actors/expert_balance.hpp"
#include "actors/messages.hpp"
#include "cluster/config.hpp"
#include "cluster/membership.hpp"
#include "model/config.hpp"
#include "scheduler/scheduler.hpp"

namespace troupe::actors {

struct SchedulerActorOptions {
  std::string cluster;
  scheduler::SchedulerOptions scheduler;
  cluster::MembershipOptions membership;
  std::vector<cluster::PinConfig> pins;
  ExpertBalanceOptions balance;
  model::ModelConfig model;
};

class SchedulerShell;
struct SchedulerActorState {
  static inline const char* name = "scheduler";
  std::shared_ptr<SchedulerShell> shell;
};

/// Receives the messages of the first group in messages.hpp.
caf::behavior scheduler_actor(caf::stateful_actor<SchedulerActorState>* self,
                              SchedulerActorOptions options);

}  // namespace troupe::actors
