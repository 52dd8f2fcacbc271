#include "tests/gateway/fake_client.hpp"

#include <algorithm>
#include <array>
#include <chrono>

#include "base/random.hpp"

namespace troupe::gateway {

using namespace scheduler;

FakeClient::FakeClient(Script script, Duration pause)
    : script_(std::move(script)), pause_(pause), thread_([this] { run(); }) {}

FakeClient::~FakeClient() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

RequestId FakeClient::submit(RequestSpec spec, EventHandler on_event) {
  FakeAnswer answer = script_(spec);
  const std::lock_guard lock(mutex_);
  const RequestId id{next_id_++};
  submitted_.push_back(spec);
  running_.emplace(id, Running{std::move(spec), std::move(answer), std::move(on_event)});
  changed_.notify_all();
  return id;
}

void FakeClient::cancel(RequestId request) {
  const std::lock_guard lock(mutex_);
  num_cancelled_ += running_.erase(request);
  changed_.notify_all();
}

void FakeClient::drain(const std::string& node, bool drained) {
  const std::lock_guard lock(mutex_);
  drained_[node] = drained;
}

bool FakeClient::serving() const {
  const std::lock_guard lock(mutex_);
  return serving_;
}

void FakeClient::status(bool check, std::function<void(actors::ClusterStatus)> on_status) {
  const std::lock_guard lock(mutex_);
  calls_.push_back([this, check, on_status = std::move(on_status)] {
    actors::ClusterStatus status;
    status.checked = check;
    status.serving = serving_;
    status.condition = serving_ ? "serving" : "waiting for router-0";
    status.epoch = Epoch{3};
    status.counts.running = running_.size();
    status.counts.admitted_total = submitted_.size();
    status.counts.generated_tokens_total = num_generated_;
    status.counts.moved_to_begin_total = 12;
    status.counts.yielded_total = 13;
    actors::NodeStatus node;
    node.member.info = {.id = NodeId{7},
                        .name = "router-0",
                        .role = cluster::Role::kRouter,
                        .version = "test",
                        .host = "localhost",
                        .pid = 42};
    node.member.state = cluster::NodeState::kReady;
    node.drained = drained_["router-0"];
    node.kv_blocks_used = 1;
    node.kv_blocks_total = 4;
    node.links.push_back({.peer = NodeId{8}, .transport = "loopback", .frames_sent = 5});
    status.nodes.push_back(std::move(node));
    on_status(std::move(status));
  });
  changed_.notify_all();
}

void FakeClient::experts(bool rebalance,
                         std::function<void(Result<actors::ExpertsStatus>)> on_status) {
  const std::lock_guard lock(mutex_);
  calls_.push_back([this, rebalance, on_status = std::move(on_status)] {
    if (rebalance && !serving_) {
      return on_status(Error{Code::kUnavailable, "waiting for router-0"});
    }
    on_status(actors::ExpertsStatus{.epoch = Epoch{3},
                                    .num_layers = 2,
                                    .num_experts = 2,
                                    .balancedness = 0.75,
                                    .layer_balancedness = {1, 0.625},
                                    .changing = rebalance,
                                    .last_change = rebalance ? "loading 1 replica" : "",
                                    .shards = {{"shard-0", 2, 20}, {"shard-1", 1, 40}},
                                    .rows = {0, 0, 20, 40},
                                    .holders = {{}, {}, {0}, {0, 1}}});
  });
  changed_.notify_all();
}

void FakeClient::set_serving(bool serving) {
  const std::lock_guard lock(mutex_);
  serving_ = serving;
}

void FakeClient::set_paused(bool paused) {
  const std::lock_guard lock(mutex_);
  paused_ = paused;
  changed_.notify_all();
}

std::vector<RequestSpec> FakeClient::submitted() const {
  const std::lock_guard lock(mutex_);
  return submitted_;
}

void FakeClient::wait_for_cancelled(size_t count) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return num_cancelled_ >= count; });
}

void FakeClient::wait_until_idle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return running_.empty(); });
}

size_t FakeClient::num_running() const {
  const std::lock_guard lock(mutex_);
  return running_.size();
}

void FakeClient::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    bool any_progress = false;
    while (!calls_.empty()) {
      calls_.front()();
      calls_.pop_front();
      any_progress = true;
    }
    for (auto it = running_.begin(); it != running_.end() && !paused_;) {
      Running& request = it->second;
      const bool stuck = request.admitted && request.answer.hangs &&
                         request.num_sent == request.answer.tokens.size();
      if (stuck) {
        ++it;
        continue;
      }
      any_progress = true;
      it = advance(it->first, request) ? std::next(it) : running_.erase(it);
    }
    changed_.notify_all();
    if (!any_progress) {
      changed_.wait(lock);
    } else if (pause_ > Duration{}) {
      changed_.wait_for(lock, std::chrono::nanoseconds(pause_.ns), [this] { return stopping_; });
    } else {
      lock.unlock();  // lets submit() and cancel() in between rounds
      std::this_thread::yield();
      lock.lock();
    }
  }
}

/// Sends one event; false after the last.
bool FakeClient::advance(RequestId id, Running& request) {
  const FakeAnswer& answer = request.answer;
  if (answer.refusal) {
    request.on_event(Refused{id, *answer.refusal, answer.retry_after});
    return false;
  }
  if (!request.admitted) {
    request.admitted = true;
    request.on_event(Admitted{id});
    return true;
  }
  if (request.num_sent < answer.tokens.size()) {
    model::SampledToken token{.token = answer.tokens[request.num_sent]};
    if (request.spec.sampling.want_logprobs) {
      token.logprob = -0.25F;
      for (uint32_t i = 0; i < request.spec.sampling.num_top_logprobs; ++i) {
        token.top_logprobs.emplace_back(token.token + static_cast<TokenId>(i),
                                        -0.25F - static_cast<float>(i));
      }
    }
    request.on_event(
        TokensEmitted{id, static_cast<uint32_t>(request.num_sent), {std::move(token)}});
    ++request.num_sent;
    ++num_generated_;
    return true;
  }
  if (answer.failure) {
    request.on_event(Failed{id, *answer.failure});
  } else {
    request.on_event(Finished{id, answer.reason});
  }
  return false;
}

namespace {

FakeAnswer answer_of(std::vector<TokenId> tokens, const RequestSpec& spec) {
  FakeAnswer answer;
  answer.tokens = std::move(tokens);
  if (!spec.stop_token_ids.empty()) answer.tokens.push_back(spec.stop_token_ids.back());
  if (answer.tokens.size() > spec.max_tokens || spec.stop_token_ids.empty()) {
    answer.tokens.resize(std::min<size_t>(answer.tokens.size(), spec.max_tokens));
    answer.reason = FinishReason::kLength;
  }
  return answer;
}

}  // namespace

FakeClient::Script says(const model::Tokenizer& tokenizer, std::string text) {
  return [&tokenizer, text = std::move(text)](const RequestSpec& spec) {
    auto tokens = tokenizer.encode_plain(text);
    return answer_of(std::move(tokens).value(), spec);
  };
}

FakeClient::Script babbles(const model::Tokenizer& tokenizer) {
  return [&tokenizer](const RequestSpec& spec) {
    constexpr std::array kWords = {"one",   "two",   "three", "router", "expert", "七",
                                   "token", "stage", "actor", "九",     "epoch",  "link"};
    const bool greedy = spec.sampling.temperature == 0.0F || spec.sampling.top_k == 1;
    uint64_t key = greedy ? 0 : spec.sampling.seed + 1;
    for (const TokenId token : spec.prompt) key = random_bits(key, static_cast<uint64_t>(token));
    const bool endless = spec.stop_token_ids.empty();
    const uint64_t num_words = endless ? spec.max_tokens : 6 + random_bits(key, 0) % 6;
    std::string text;
    for (uint64_t i = 0; i < num_words; ++i) {
      text += (i == 0 ? "" : " ") + std::string(kWords[random_bits(key, i + 1) % kWords.size()]);
    }
    return answer_of(tokenizer.encode_plain(text).value(), spec);
  };
}

}  // namespace troupe::gateway
