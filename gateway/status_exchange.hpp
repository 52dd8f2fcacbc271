#pragma once

// An answer made from the cluster's state, which arrives a little later.

#include <functional>
#include <memory>

#include "actors/client.hpp"
#include "gateway/exchange.hpp"

namespace troupe::gateway {

/// Asks for the status, at most 5 s, and answers what `render` makes of it. `client` and what
/// `render` refers to must outlive the exchange. With `check`, integrity is looked at first.
std::unique_ptr<Exchange> make_status_exchange(
    actors::ClusterClient& client, bool check,
    std::function<HttpResponse(const actors::ClusterStatus&)> render);

/// The same of the experts; with `rebalance` a change of placement is begun first. Answers an error
/// where the cluster has one instead.
std::unique_ptr<Exchange> make_experts_exchange(
    actors::ClusterClient& client, bool rebalance,
    std::function<HttpResponse(const actors::ExpertsStatus&)> render);

}  // namespace troupe::gateway
