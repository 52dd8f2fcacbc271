#pragma once

// Every message between actors, grouped by receiver. Those of the first part cross the network and
// can be inspected; those of the second stay in one process and pass by reference count. Tensors
// never ride in either: rows travel as frames over links.
//
// CAF 0.17 drops unknown trailing fields and turns a message with a missing field into (), so these
// structs may only grow at the end; nodes of different versions are refused when they join.

#include <caf/all.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/client.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"
#include "cluster/membership.hpp"
#include "experts/load.hpp"
#include "experts/placement.hpp"
#include "kvcache/holder.hpp"
#include "model/grammar.hpp"
#include "model/sampling.hpp"
#include "scheduler/batcher.hpp"
#include "scheduler/request.hpp"
#include "transport/frame.hpp"

namespace troupe {

// Found by argument-dependent lookup when messages that hold these types are inspected.
template <class Inspector, class Tag, class Rep>
auto inspect(Inspector& f, Id<Tag, Rep>& x) {
  return f(x.value);
}
template <class Inspector>
auto inspect(Inspector& f, Duration& x) {
  return f(x.ns);
}
template <class Inspector>
auto inspect(Inspector& f, Error& x) {
  return f(x.code, x.message);
}

namespace model {
template <class Inspector>
auto inspect(Inspector& f, GrammarSpec& x) {
  return f(x.kind, x.text, x.choices, x.begins_after, x.may_end_before);
}
template <class Inspector>
auto inspect(Inspector& f, SamplingParams& x) {
  // What is shared within a process travels as a value; kNone and -1 stand for none.
  int32_t num_prompt_logprobs =
      x.num_prompt_logprobs ? static_cast<int32_t>(*x.num_prompt_logprobs) : -1;
  GrammarSpec grammar = x.grammar ? *x.grammar : GrammarSpec{};
  const auto loaded = [&]() -> caf::error {
    x.num_prompt_logprobs.reset();
    if (num_prompt_logprobs >= 0) {
      x.num_prompt_logprobs = static_cast<uint32_t>(num_prompt_logprobs);
    }
    const bool is_none = grammar.kind == GrammarSpec::Kind::kNone;
    x.grammar = is_none ? nullptr : std::make_shared<const GrammarSpec>(std::move(grammar));
    return caf::none;
  };
  return f(x.temperature, x.top_p, x.top_k, x.min_p, x.seed, x.want_logprobs, x.num_top_logprobs,
           num_prompt_logprobs, x.presence_penalty, x.frequency_penalty, x.repetition_penalty,
           x.min_tokens, x.logit_bias, x.allowed_token_ids, x.bad_words, grammar,
           caf::meta::load_callback(loaded));
}
template <class Inspector>
auto inspect(Inspector& f, SampledToken& x) {
  return f(x.token, x.logprob, x.top_logprobs);
}
}  // namespace model

namespace scheduler {
template <class Inspector>
auto inspect(Inspector& f, RequestSpec& x) {
  return f(x.prompt, x.max_tokens, x.sampling, x.stop_token_ids, x.timeout, x.tenant, x.priority,
           x.cache_namespace);
}
}  // namespace scheduler

namespace experts {
template <class Inspector>
auto inspect(Inspector& f, ExpertKey& x) {
  return f(x.layer, x.expert);
}
template <class Inspector>
auto inspect(Inspector& f, ExpertRows& x) {
  return f(x.key, x.rows);
}
template <class Inspector>
auto inspect(Inspector& f, Placement& x) {
  return f(x.epoch, x.num_layers, x.num_experts, x.holders);
}
}  // namespace experts

namespace cluster {
template <class Inspector>
auto inspect(Inspector& f, NodeInfo& x) {
  return f(x.id, x.name, x.role, x.version, x.checkpoint_digest, x.arithmetic_class, x.link_address,
           x.host, x.pid, x.device, x.cpus);
}
}  // namespace cluster

namespace transport {
template <class Inspector>
auto inspect(Inspector& f, LinkStats& x) {
  return f(x.peer, x.transport, x.frames_sent, x.frames_received, x.bytes_sent, x.bytes_received,
           x.frames_rejected);
}
}  // namespace transport

namespace actors {

// ---- to the scheduler actor, over the network -------------------------------------------------

/// From a node actor: let me in. `worker` is its router or expert-shard actor.
struct JoinCluster {
  cluster::NodeInfo info;
  caf::actor node;
  caf::actor worker;
};
/// From a worker: everything for this epoch is loaded and linked; or, from a shard, loaded beside
/// that of the epoch in force; or, from a router, its steps are of this epoch now.
struct NodeReadyReport {
  NodeId node;
  Epoch epoch;
};
/// From a worker: this epoch cannot be served by `node` (itself, or a peer it cannot reach).
struct NodeFailedReport {
  NodeId node;
  Epoch epoch;
  Error error;
};
/// From a shard, every second while it computes: rows since the last report, at most one entry per
/// expert held.
struct ExpertLoadReport {
  NodeId node;
  std::vector<experts::ExpertRows> rows;
};
/// One request's part of a StepTokens; without tokens when its first rows go into a step.
struct Emission {
  RequestId request;
  uint32_t attempt = 0;
  uint32_t first = 0;
  std::vector<model::SampledToken> tokens;
  bool finished = false;
  scheduler::FinishReason reason = scheduler::FinishReason::kStop;
  uint32_t num_cached = 0;                           ///< of the tokens that this attempt began with
  std::vector<model::SampledToken> prompt_logprobs;  ///< with the first token, if wanted
};
/// From a router: what one step produced, or who begins in it.
struct StepTokens {
  NodeId router;
  std::vector<Emission> emissions;
};
/// From a router: a request cannot go on.
struct RequestFailed {
  NodeId router;
  RequestId request;
  uint32_t attempt = 0;
  Error error;
};
/// From a gateway actor, which gets the ClientEvents.
struct SubmitRequest {
  RequestId request;
  scheduler::RequestSpec spec;
};
struct CancelRequest {
  RequestId request;
};

// ---- to node actors and workers, over the network ---------------------------------------------

struct JoinAccepted {
  std::string cluster;
};
struct JoinRejected {
  Error error;
};
struct Peer {
  NodeId id;
  std::string name;
  std::string link_address;
};
/// To workers: load, link, and report ready for this epoch. Ends every older one.
struct FormEpochRequest {
  experts::Placement placement;
  std::vector<Peer> routers;
  std::vector<Peer> shards;
};
/// To workers: drop what runs in this epoch or an older one.
struct EpochEnded {
  Epoch epoch;
};
/// To shards: load what this placement needs, beside what is held, and report ready. Until a
/// KeepEpochRequest, dispatches of both epochs are computed.
struct PrepareEpochRequest {
  experts::Placement placement;
};
/// To routers: dispatch by this placement from the next step on, and report ready.
struct SwitchEpochRequest {
  experts::Placement placement;
};
/// To shards: of the epochs held, only this one goes on.
struct KeepEpochRequest {
  Epoch epoch;
};
/// To a router.
struct StartRequest {
  RequestId request;
  uint32_t attempt = 0;
  scheduler::RequestSpec spec;
  std::vector<TokenId> emitted;
  int64_t order = 0;  ///< smaller runs earlier and is preempted later
  NodeId kv_from;     ///< a router that probably has its KV; 0: none has
};
struct CancelAttempt {
  RequestId request;
  uint32_t attempt = 0;
};
/// To workers; answered with a WorkerStatus.
struct WorkerStatusQuery {
  Epoch epoch;
  bool check = false;
};
struct WorkerStatus {
  NodeId node;
  uint64_t num_experts_held = 0;
  std::string experts;
  uint64_t kv_blocks_used = 0;
  uint64_t kv_blocks_total = 0;
  uint64_t rows_computed = 0;
  std::vector<transport::LinkStats> links;
  PrefixCacheCounts prefix_cache;
  uint64_t num_preempted = 0;
  uint64_t num_fetched_blocks = 0;
  std::string problem;
};

#define TROUPE_INSPECT(Type, ...)                       \
  template <class Inspector>                            \
  auto inspect(Inspector& f, Type& x) {                 \
    return f(caf::meta::type_name(#Type), __VA_ARGS__); \
  }
TROUPE_INSPECT(JoinCluster, x.info, x.node, x.worker)
TROUPE_INSPECT(NodeReadyReport, x.node, x.epoch)
TROUPE_INSPECT(NodeFailedReport, x.node, x.epoch, x.error)
TROUPE_INSPECT(ExpertLoadReport, x.node, x.rows)
TROUPE_INSPECT(Emission, x.request, x.attempt, x.first, x.tokens, x.finished, x.reason,
               x.num_cached, x.prompt_logprobs)
TROUPE_INSPECT(StepTokens, x.router, x.emissions)
TROUPE_INSPECT(RequestFailed, x.router, x.request, x.attempt, x.error)
TROUPE_INSPECT(SubmitRequest, x.request, x.spec)
TROUPE_INSPECT(CancelRequest, x.request)
TROUPE_INSPECT(JoinAccepted, x.cluster)
TROUPE_INSPECT(JoinRejected, x.error)
TROUPE_INSPECT(Peer, x.id, x.name, x.link_address)
TROUPE_INSPECT(FormEpochRequest, x.placement, x.routers, x.shards)
TROUPE_INSPECT(EpochEnded, x.epoch)
TROUPE_INSPECT(PrepareEpochRequest, x.placement)
TROUPE_INSPECT(SwitchEpochRequest, x.placement)
TROUPE_INSPECT(KeepEpochRequest, x.epoch)
TROUPE_INSPECT(StartRequest, x.request, x.attempt, x.spec, x.emitted, x.order, x.kv_from)
TROUPE_INSPECT(CancelAttempt, x.request, x.attempt)
TROUPE_INSPECT(WorkerStatusQuery, x.epoch, x.check)
TROUPE_INSPECT(PrefixCacheCounts, x.cached_blocks, x.host_blocks, x.queried_tokens, x.hit_tokens,
               x.host_hit_tokens, x.evicted_blocks)
TROUPE_INSPECT(WorkerStatus, x.node, x.num_experts_held, x.experts, x.kv_blocks_used,
               x.kv_blocks_total, x.rows_computed, x.links, x.prefix_cache, x.num_preempted,
               x.num_fetched_blocks, x.problem)
#undef TROUPE_INSPECT

// ---- within one process only ------------------------------------------------------------------

/// To the KV-cache holder, from the router. Effects come back with the same `ask`.
struct KvEvent {
  scheduler::AskId ask = 0;
  kvcache::HolderEvent event;
};
/// To the router, from its KV-cache holder.
struct KvEffects {
  scheduler::AskId ask = 0;
  std::vector<kvcache::HolderEffect> effects;
};
/// To a router, from itself: look at the fetches that make no progress.
struct KvPatience {};
/// To the KV-cache holder; answered with KvStats.
struct KvStatsQuery {
  bool check = false;  ///< have the core look at itself
};
struct KvStats {
  kvcache::HolderStats stats;
  std::string problem;  ///< of the check; "" if it found none
};

/// To a worker, from its port's thread.
struct FrameArrived {
  transport::Frame frame;
};
/// To a worker, from its port's thread: the transport lost a peer.
struct LinkDown {
  NodeId peer;
  Error reason;
};
/// To a worker, from its executor: runs in the worker's thread with what the job left behind.
/// One message for all completions: the job's author knows what must follow.
struct JobDone {
  std::function<void()> then;
};
/// To the gateway actor, from any thread of the gateway. DrainNode goes on to the scheduler actor.
struct LocalSubmit {
  RequestId request;
  scheduler::RequestSpec spec;
  ClusterClient::EventHandler on_event;
};
struct DrainNode {
  std::string node;
  bool drained = true;
};
struct LocalStatusQuery {
  bool check = false;
  std::function<void(ClusterStatus)> on_status;
};
struct LocalExpertsQuery {
  bool rebalance = false;
  std::function<void(Result<ExpertsStatus>)> on_status;
};
/// To the scheduler actor, from the gateway actor: tell me whether the cluster serves.
struct WatchServing {};
/// To the gateway actor, from the scheduler actor.
struct ServingChanged {
  bool serving = false;
};
/// To the gateway actor, from the scheduler actor.
struct ClientEventArrived {
  RequestId request;
  scheduler::ClientEvent event;
};
/// To the scheduler actor: look at deadlines.
struct Wake {
  int64_t at_ns = 0;
};
/// To a router, from itself: are the shards of this epoch alive?
struct Beat {
  Epoch epoch;
};
/// To the scheduler actor; answered with a ClusterStatus within two seconds.
struct ClusterStatusQuery {
  bool check = false;
};
/// To the scheduler actor; answered with an ExpertsAnswer.
struct ExpertsQuery {
  bool rebalance = false;  ///< begin a change of placement first
};
struct ExpertsAnswer {
  Result<ExpertsStatus> status = ExpertsStatus{};
};
/// To the scheduler actor, from itself: is there a better placement?
struct BalanceDue {};
/// To an expert shard, from itself: report the load.
struct LoadDue {};
/// To the scheduler actor: refuse what is new, end what waits.
struct StopCluster {};

}  // namespace actors
}  // namespace troupe

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::KvEvent)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::KvEffects)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::KvPatience)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::KvStatsQuery)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::KvStats)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::FrameArrived)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::LinkDown)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::JobDone)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::LocalSubmit)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::DrainNode)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::LocalStatusQuery)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::LocalExpertsQuery)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::ExpertsQuery)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::ExpertsAnswer)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::BalanceDue)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::LoadDue)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::WatchServing)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::ServingChanged)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::ClientEventArrived)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::Wake)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::Beat)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::ClusterStatusQuery)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::ClusterStatus)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::StopCluster)
