#include "actors/kv_exchange.hpp"

#include <cstring>
#include <utility>

#include "actors/instant.hpp"
#include "base/bytes.hpp"
#include "base/log.hpp"

namespace troupe::actors {
namespace {

constexpr std::chrono::milliseconds kPatiencePeriod{50};

}  // namespace

KvExchange::KvExchange(caf::event_based_actor* self, const WorkerServices* services,
                       std::shared_ptr<RouterEngine> engine, caf::actor kv_holder,
                       kvcache::TransferOptions options, FetchHandler on_fetch_ended,
                       std::function<bool()> step_is_out)
    : self_(self),
      services_(services),
      engine_(std::move(engine)),
      kv_holder_(std::move(kv_holder)),
      on_fetch_ended_(std::move(on_fetch_ended)),
      step_is_out_(std::move(step_is_out)),
      core_(options) {}

void KvExchange::join_epoch(Epoch epoch, const std::vector<Peer>& routers) {
  epoch_ = epoch;
  for (const Peer& router : routers) {
    if (router.id != services_->self) peers_[router.id] = router;
  }
}

void KvExchange::end_epoch() {
  for (auto& [router, link] : links_) link->close();
  links_.clear();
  peers_.clear();
}

void KvExchange::fetch(RequestId request, uint32_t attempt, NodeId from,
                       const std::string& cache_namespace, const std::vector<TokenId>& tokens) {
  handle(kvcache::FetchWanted{{services_->self, request, attempt}, from, cache_namespace, tokens});
}

void KvExchange::abandon(RequestId request, uint32_t attempt) {
  handle(kvcache::FetchAbandoned{{services_->self, request, attempt}});
}

bool KvExchange::frame(const transport::Frame& frame) {
  const transport::FrameHeader& header = frame.header;
  if (header.epoch != epoch_) return false;
  if (header.kind == transport::FrameKind::kKvBlock) {
    const size_t size = frame.payload ? frame.payload->size() : 0;
    arrived_ = frame.payload;
    handle(kvcache::BlockArrived{.from = header.source,
                                 .key = {services_->self, header.request, header.attempt},
                                 .index = header.layer,
                                 .num_available = header.num_rows,
                                 .has_data = size == engine_->block_bytes()});
    arrived_.reset();
    return true;
  }
  if (header.kind != transport::FrameKind::kKvWanted) return false;
  auto prefix = decode_prefix(frame.payload);
  if (!prefix.ok() || !knows(header.source)) {
    log::warning("kv_question_dropped", {{"from", header.source}});
    return true;
  }
  handle(kvcache::BlocksAsked{.key = {header.source, header.request, header.attempt},
                              .first_block = header.layer,
                              .num_blocks = header.num_rows,
                              .cache_namespace = std::move(prefix->cache_namespace),
                              .tokens = std::move(prefix->tokens)});
  return true;
}

void KvExchange::granted(const kvcache::Granted& granted) {
  handle(kvcache::GuestGranted{granted.request, granted.table, granted.cached_len});
}

void KvExchange::refused(RequestId guest) { handle(kvcache::GuestRefused{guest}); }

void KvExchange::link_down(NodeId router) {
  const auto link = links_.find(router);
  if (link == links_.end()) return;
  link->second->close();
  links_.erase(link);
  handle(kvcache::RouterLost{router});
}

void KvExchange::patience_tick() {
  ticking_ = false;
  handle(kvcache::PatienceTick{});
}

void KvExchange::read_turn() { handle(kvcache::ReadTurn{}); }

void KvExchange::handle(const kvcache::TransferEvent& event) {
  for (const kvcache::TransferEffect& effect : core_.handle(event, now(self_))) {
    std::visit([this](const auto& e) { perform(e); }, effect);
  }
  if (!core_.waits() || ticking_) return;
  ticking_ = true;
  self_->delayed_send(self_, kPatiencePeriod, KvPatience{});
}

void KvExchange::perform(const kvcache::TellHolder& e) {
  self_->send(kv_holder_, KvEvent{0, e.event});
}

void KvExchange::perform(const kvcache::AskRouter& e) {
  const kvcache::BlocksAsked& what = e.what;
  send(e.from, {.header = header(transport::FrameKind::kKvWanted, what.key, what.first_block,
                                 what.num_blocks),
                .payload = encode_prefix(what.cache_namespace, what.tokens)});
}

void KvExchange::perform(const kvcache::WriteBlock& e) {
  services_->executor->submit([engine = engine_, block = e.block, data = arrived_] {
    engine->write_block(block, data->data());
  });
}

void KvExchange::perform(const kvcache::FetchEnded& e) {
  on_fetch_ended_(e.key.request, e.key.attempt);
}

void KvExchange::perform(const kvcache::ReadBlocks& e) {
  auto copies = std::make_shared<std::vector<std::shared_ptr<const transport::Buffer>>>();
  services_->executor->submit([this, e, copies, engine = engine_, clock = &self_->clock(),
                               me = caf::actor_cast<caf::actor>(self_)] {
    const Instant began = now(*clock);
    for (const BlockId block : e.blocks) {
      auto copy = transport::Buffer::allocate(engine->block_bytes());
      engine->read_block(block, copy->data());
      copies->push_back(std::move(copy));
    }
    const Duration took = now(*clock) - began;
    caf::anon_send(me, JobDone{[this, e, copies, took] {
                     uint32_t index = e.first_block;
                     for (auto& copy : *copies) {
                       send(e.key.router, {.header = header(transport::FrameKind::kKvBlock, e.key,
                                                            index++, e.num_available),
                                           .payload = std::move(copy)});
                     }
                     handle(kvcache::ReadEnded{e.guest, took});
                     if (!step_is_out_()) read_turn();
                   }});
  });
}

void KvExchange::perform(const kvcache::SendNothing& e) {
  send(e.key.router,
       {.header = header(transport::FrameKind::kKvBlock, e.key, e.first_block, e.num_available)});
}

transport::FrameHeader KvExchange::header(transport::FrameKind kind,
                                          const kvcache::TransferKey& key, uint32_t block,
                                          uint32_t count) const {
  return {.kind = kind,
          .epoch = epoch_,
          .request = key.request,
          .layer = block,
          .attempt = key.attempt,
          .num_rows = count};
}

void KvExchange::send(NodeId router, transport::Frame frame) {
  auto link = links_.find(router);
  if (link == links_.end()) {
    const auto peer = peers_.find(router);
    if (peer == peers_.end()) return;
    auto opened = services_->port->connect(router, peer->second.link_address);
    if (!opened.ok()) {
      log::warning("kv_link_failed", {{"router", router}, {"reason", opened.error().message}});
      return;
    }
    link = links_.emplace(router, std::move(*opened)).first;
  }
  (void)link->second->send(std::move(frame));
}

std::shared_ptr<const transport::Buffer> encode_prefix(const std::string& cache_namespace,
                                                       const std::vector<TokenId>& tokens) {
  const auto num_tokens = static_cast<uint32_t>(tokens.size());
  const size_t token_bytes = tokens.size() * sizeof(TokenId);
  auto payload =
      transport::Buffer::allocate(sizeof(num_tokens) + token_bytes + cache_namespace.size());
  std::byte* at = payload->data();
  std::memcpy(at, &num_tokens, sizeof(num_tokens));
  std::memcpy(at + sizeof(num_tokens), tokens.data(), token_bytes);
  std::memcpy(at + sizeof(num_tokens) + token_bytes, cache_namespace.data(),
              cache_namespace.size());
  return payload;
}

Result<DecodedPrefix> decode_prefix(const std::shared_ptr<const transport::Buffer>& payload) {
  ByteReader reader(payload ? Bytes(payload->data(), payload->size()) : Bytes());
  const auto num_tokens = TRY(reader.read<uint32_t>());
  if (num_tokens == 0 || num_tokens > reader.remaining() / sizeof(TokenId)) {
    return Error{Code::kCorrupt, "a question for KV blocks lies about its length"};
  }
  const Bytes tokens = TRY(reader.take(num_tokens * sizeof(TokenId)));
  const Bytes name = TRY(reader.take(reader.remaining()));
  DecodedPrefix prefix;
  prefix.tokens.resize(num_tokens);
  std::memcpy(prefix.tokens.data(), tokens.data(), tokens.size());
  prefix.cache_namespace.assign(reinterpret_cast<const char*>(name.data()), name.size());
  return prefix;
}

}  // namespace troupe::actors
