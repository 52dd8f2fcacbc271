#pragma once

// A cluster that answers from a script, on a thread of its own as the real one does.

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "actors/client.hpp"
#include "model/tokenizer.hpp"

namespace troupe::gateway {

/// What the fake cluster does with one request.
struct FakeAnswer {
  std::vector<TokenId> tokens;
  scheduler::FinishReason reason = scheduler::FinishReason::kStop;
  std::optional<Error> refusal;  ///< instead of all else
  std::optional<Duration> retry_after = seconds(1);
  std::optional<Error> failure;  ///< after the tokens, instead of the finish
  bool hangs = false;            ///< after the tokens, until cancelled
};

class FakeClient final : public actors::ClusterClient {
 public:
  using Script = std::function<FakeAnswer(const scheduler::RequestSpec&)>;

  /// @param pause between the rounds in which each running request gets one token
  explicit FakeClient(Script script, Duration pause = {});
  ~FakeClient() override;

  RequestId submit(scheduler::RequestSpec spec, EventHandler on_event) override;
  void cancel(RequestId request) override;
  void drain(const std::string& node, bool drained) override;
  [[nodiscard]] bool serving() const override;
  void status(bool check, std::function<void(actors::ClusterStatus)> on_status) override;
  /// While it does not serve, `rebalance` is an error.
  void experts(bool rebalance,
               std::function<void(Result<actors::ExpertsStatus>)> on_status) override;

  void set_serving(bool serving);
  /// While paused no event is sent.
  void set_paused(bool paused);

  /// All requests so far, in order of submission.
  [[nodiscard]] std::vector<scheduler::RequestSpec> submitted() const;
  /// Blocks until this many requests were cancelled before their end.
  void wait_for_cancelled(size_t count);
  /// Blocks until no request is running.
  void wait_until_idle();
  [[nodiscard]] size_t num_running() const;

 private:
  struct Running {
    scheduler::RequestSpec spec;
    FakeAnswer answer;
    EventHandler on_event;
    size_t num_sent = 0;
    bool admitted = false;
  };
  void run();
  bool advance(RequestId id, Running& request);

  Script script_;
  Duration pause_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<RequestId, Running> running_;
  std::deque<std::function<void()>> calls_;
  std::vector<scheduler::RequestSpec> submitted_;
  uint64_t next_id_ = 1;
  size_t num_cancelled_ = 0;
  uint64_t num_generated_ = 0;
  bool serving_ = true;
  std::map<std::string, bool> drained_;
  bool paused_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

/// Answers every request with the tokens of `text`, cut at max_tokens, and an end token if it fits.
FakeClient::Script says(const model::Tokenizer& tokenizer, std::string text);

/// Answers with words drawn from the prompt, the seed and the temperature: equal requests get equal
/// answers, as from the real cluster.
FakeClient::Script babbles(const model::Tokenizer& tokenizer);

}  // namespace troupe::gateway
