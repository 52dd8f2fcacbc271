#pragma once

// Strong ids: an Id<A> never passes for an Id<B>. Blocks, replicas and requests are named by id,
// never by pointer, so that a name can be logged, sent and compared across nodes.

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <ostream>

namespace troupe {

template <class Tag, class Rep = uint64_t>
struct Id {
  Rep value = 0;
  friend constexpr auto operator<=>(Id, Id) = default;
  friend std::ostream& operator<<(std::ostream& out, Id id) { return out << +id.value; }
};

/// One choice of one client request, unique in a cluster for its life; below 2^63.
using RequestId = Id<struct RequestTag>;
/// One life of one process: random at its start, so a restarted node is another node.
using NodeId = Id<struct NodeTag>;
/// A version of membership and placement; everything older is fenced.
using Epoch = Id<struct EpochTag>;
/// One forward pass of one router; increasing within an epoch.
using StepId = Id<struct StepTag>;
/// A block of the KV-cache pool of one holder.
using BlockId = Id<struct BlockTag, uint32_t>;
/// One routed expert of the model, by its number within its layer.
using ExpertIdx = uint32_t;
using LayerIdx = uint32_t;
using TokenId = int32_t;

}  // namespace troupe

template <class Tag, class Rep>
struct std::hash<troupe::Id<Tag, Rep>> {
  size_t operator()(troupe::Id<Tag, Rep> id) const noexcept { return std::hash<Rep>{}(id.value); }
};
