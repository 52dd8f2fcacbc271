#pragma once

// One client request for answers, from the first submission to the last chunk: a request of the
// cluster per choice, their tokens turned into text, text into OpenAI's shapes.

#include <memory>

#include "actors/client.hpp"
#include "gateway/exchange.hpp"
#include "gateway/generation_plan.hpp"
#include "gateway/metrics.hpp"

namespace troupe::gateway {

/// REQUIRES: the plan is complete (complete_plan). The references must outlive the exchange.
///
/// Holds everything back until all choices are admitted and one has a token or an end, so that a
/// refusal is an HTTP status. A choice whose text meets a stop string is cancelled at once; when
/// one choice fails, all end.
std::unique_ptr<Exchange> make_generation(GenerationPlan plan, actors::ClusterClient& client,
                                          const GatewayModel& model, Metrics& metrics);

}  // namespace troupe::gateway
