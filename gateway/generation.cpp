#include "gateway/generation.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"
#include "base/log.hpp"
#include "gateway/event_mailbox.hpp"
#include "model/text_stream.hpp"

namespace troupe::gateway {
namespace {

using model::TextStream;

std::string_view name_of(scheduler::FinishReason reason) {
  switch (reason) {
    case scheduler::FinishReason::kStop: return "stop";
    case scheduler::FinishReason::kLength: return "length";
  }
  return "stop";
}

std::string_view name_of(const ApiError& error) {
  return error.code ? to_string(*error.code) : std::string_view(error.type);
}

/// Code points that begin in these bytes.
uint64_t count_characters(std::string_view bytes) {
  return static_cast<uint64_t>(std::count_if(bytes.begin(), bytes.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

/// A token whose logprob waits for the text it belongs to.
struct PendingLogprob {
  TokenLogprob entry;
  uint64_t first_byte = 0;  ///< of the token in the answer
};

struct Choice {
  Choice(uint32_t index_in, TextStream text_in) : index(index_in), text(std::move(text_in)) {}

  uint32_t index;
  TextStream text;
  RequestId request;
  bool admitted = false;
  bool opened = false;  ///< its first chunk is written
  uint64_t num_generated = 0;
  uint64_t num_bytes = 0;       ///< of all its tokens
  uint64_t num_characters = 0;  ///< of all its tokens
  Instant last_token;
  std::vector<PendingLogprob> logprobs;
  std::optional<std::string> logprobs_json;  ///< without streaming, when finished
  uint64_t num_text_bytes = 0;               ///< of the answer's settled text
  std::string content;                       ///< without streaming
  std::optional<std::string_view> finish_reason;
  std::optional<std::string> stop_reason;
};

class Generation final : public Exchange {
 public:
  Generation(GenerationPlan plan, actors::ClusterClient& client, const GatewayModel& model,
             Metrics& metrics);
  ~Generation() override { abandon(plan_.arrived); }

  void start(std::function<void()> wake) override;
  Progress poll(Instant now) override;
  void abandon(Instant now) override;
  Progress interrupt(const ApiError& reason, Instant now) override;

 private:
  void take(Choice& choice, scheduler::ClientEvent event, Instant now);
  void take_tokens(Choice& choice, const scheduler::TokensEmitted& emitted, Instant now);
  void keep_logprob(Choice& choice, const model::SampledToken& token);
  void add_text(Choice& choice, std::string text);
  void finish(Choice& choice, std::string_view reason, Instant now);
  void fail(ApiError error);
  void end(std::string_view reason_of_open_choices, Instant now);

  [[nodiscard]] const std::vector<TokenId>& prompt_of(const Choice& choice) const {
    return plan_.prompts[choice.index / plan_.request.num_choices];
  }
  [[nodiscard]] bool may_open() const;
  [[nodiscard]] Usage usage() const;
  [[nodiscard]] std::string chunk(const ChoiceDelta& delta) const;
  std::optional<std::string> take_logprobs(Choice& choice, uint64_t end);
  std::string whole_response();
  Progress fail_now(Instant now);

  GenerationPlan plan_;
  actors::ClusterClient& client_;
  const GatewayModel& model_;
  Metrics& metrics_;
  ResponseHead head_;
  std::vector<Choice> choices_;
  std::shared_ptr<EventMailbox> mailbox_;
  std::string events_;  ///< written but not yet given out
  bool any_result_ = false;
  bool streaming_ = false;  ///< events were given out
  bool ended_ = false;
  std::optional<ApiError> error_;
};

Generation::Generation(GenerationPlan plan, actors::ClusterClient& client,
                       const GatewayModel& model, Metrics& metrics)
    : plan_(std::move(plan)), client_(client), model_(model), metrics_(metrics) {
  const char* prefix = plan_.kind == ResponseKind::kChat ? "chatcmpl-" : "cmpl-";
  head_ = {plan_.kind, prefix + plan_.request_id, plan_.created, model_.id};
  for (uint32_t i = 0; i < plan_.num_choices(); ++i) {
    auto text =
        TextStream::create(model_.tokenizer, {.stop = plan_.request.stop,
                                              .include_stop = plan_.request.include_stop,
                                              .skip_special = plan_.request.skip_special_tokens,
                                              .min_tokens = plan_.request.sampling.min_tokens});
    CHECK(text.ok());  // the parser lets no empty stop string through
    choices_.emplace_back(i, std::move(text).value());
  }
}

void Generation::start(std::function<void()> wake) {
  metrics_.in_flight(1);
  size_t bound = 0;
  for (const Choice& choice : choices_) {
    bound += plan_.max_tokens[choice.index / plan_.request.num_choices] + 4;
  }
  mailbox_ = std::make_shared<EventMailbox>(bound, std::move(wake));
  for (Choice& choice : choices_) {
    choice.request =
        client_.submit(spec_of(plan_, model_, choice.index),
                       [mailbox = mailbox_, index = choice.index](scheduler::ClientEvent event) {
                         mailbox->push(index, std::move(event));
                       });
  }
}

Exchange::Progress Generation::poll(Instant now) {
  if (ended_) return {.done = true};
  for (auto& [index, event] : mailbox_->take()) {
    if (!error_) take(choices_[index], std::move(event), now);
  }
  if (!error_ && mailbox_->overflowed()) {
    fail(from_error({Code::kInternal, "The cluster sent more than the request asked for."}));
  }
  if (error_) return fail_now(now);

  const bool all_finished = std::all_of(choices_.begin(), choices_.end(), [](const Choice& c) {
    return c.finish_reason.has_value();
  });
  Progress progress;
  if (!plan_.request.stream) {
    if (!all_finished) return progress;
    progress.response.emplace();
    progress.response->body = whole_response();
  } else {
    if (!may_open()) return progress;
    if (all_finished) {
      if (plan_.request.include_usage) events_ += sse_event(usage_chunk_json(head_, usage()));
      events_ += kSseDone;
    }
    progress.events = std::exchange(events_, {});
    streaming_ = streaming_ || !progress.events.empty();
  }
  progress.done = all_finished;
  if (all_finished) end("", now);
  return progress;
}

void Generation::take(Choice& choice, scheduler::ClientEvent event, Instant now) {
  if (choice.finish_reason) return;  // was on its way when the choice met a stop string
  if (std::holds_alternative<scheduler::Admitted>(event)) {
    choice.admitted = true;
  } else if (const auto* refused = std::get_if<scheduler::Refused>(&event)) {
    fail(refused->error.code == Code::kUnavailable && !client_.serving()
             ? loading(refused->error.message)
             : from_error(refused->error, refused->retry_after));
  } else if (const auto* emitted = std::get_if<scheduler::TokensEmitted>(&event)) {
    take_tokens(choice, *emitted, now);
  } else if (const auto* finished = std::get_if<scheduler::Finished>(&event)) {
    any_result_ = true;
    add_text(choice, choice.text.flush());
    finish(choice, name_of(finished->reason), now);
  } else {
    fail(from_error(std::get<scheduler::Failed>(event).error));
  }
}

void Generation::take_tokens(Choice& choice, const scheduler::TokensEmitted& emitted, Instant now) {
  if (emitted.first != choice.num_generated) {
    return fail(from_error(
        {Code::kInternal, "The cluster sent token " + std::to_string(emitted.first) + " where " +
                              std::to_string(choice.num_generated) + " was due."}));
  }
  std::string text;
  for (const auto& token : emitted.tokens) {
    if (choice.num_generated == 0) {
      metrics_.first_token(now - plan_.arrived);
      if (plan_.echo) {
        text = model_.tokenizer.decode(prompt_of(choice));
      }
    }
    ++choice.num_generated;
    keep_logprob(choice, token);
    text += choice.text.push(token.token);
    if (choice.text.stopped()) break;
  }
  const bool had_first = emitted.first == 0 && !emitted.tokens.empty();
  const uint64_t num_next = choice.num_generated - emitted.first - (had_first ? 1 : 0);
  if (num_next > 0)
    metrics_.next_tokens(num_next, had_first ? Duration{} : now - choice.last_token);
  choice.last_token = now;
  any_result_ = any_result_ || !emitted.tokens.empty();

  if (const auto stop = choice.text.stopped()) {
    client_.cancel(choice.request);
    choice.stop_reason = plan_.request.stop[*stop];
    add_text(choice, std::move(text));
    finish(choice, "stop", now);
  } else if (!emitted.tokens.empty()) {
    add_text(choice, std::move(text));
  }
}

void Generation::keep_logprob(Choice& choice, const model::SampledToken& token) {
  if (!plan_.request.sampling.want_logprobs) return;
  // A token without text has no place among the logprobs of the text: the end token above all.
  if (plan_.request.skip_special_tokens && model_.tokenizer.is_special(token.token)) return;
  choice.logprobs.push_back({{token, choice.num_characters}, choice.num_bytes});
  const std::string_view bytes = model_.tokenizer.token_bytes(token.token);
  choice.num_bytes += bytes.size();
  choice.num_characters += count_characters(bytes);
}

/// Text that is settled; opens the choice, even if empty.
void Generation::add_text(Choice& choice, std::string text) {
  choice.num_text_bytes += text.size();
  if (!plan_.request.stream) {
    choice.content += text;
    return;
  }
  if (!choice.opened && plan_.kind == ResponseKind::kChat) {
    events_ += chunk({.index = choice.index, .opens = true});
  }
  choice.opened = true;
  if (text.empty()) return;
  auto logprobs = take_logprobs(choice, choice.num_text_bytes);
  events_ +=
      chunk({.index = choice.index, .text = std::move(text), .logprobs = std::move(logprobs)});
}

void Generation::finish(Choice& choice, std::string_view reason, Instant now) {
  choice.finish_reason = reason;
  // Tokens that lie wholly behind a stop string are no part of the answer.
  const uint64_t end = choice.stop_reason ? choice.num_text_bytes : UINT64_MAX;
  if (plan_.request.stream) {
    ChoiceDelta last{
        .index = choice.index, .finish_reason = reason, .stop_reason = choice.stop_reason};
    if (!choice.logprobs.empty()) last.logprobs = take_logprobs(choice, end);
    events_ += chunk(last);
  } else {
    choice.logprobs_json = take_logprobs(choice, end);
  }
  metrics_.choice_ended(reason, prompt_of(choice).size(), choice.num_generated,
                        now - plan_.arrived);
}

/// The logprobs of tokens that begin before byte `end` of the answer.
std::optional<std::string> Generation::take_logprobs(Choice& choice, uint64_t end) {
  if (!plan_.request.sampling.want_logprobs) return std::nullopt;
  const auto first_kept =
      std::find_if(choice.logprobs.begin(), choice.logprobs.end(),
                   [&](const auto& pending) { return pending.first_byte >= end; });
  std::vector<TokenLogprob> taken;
  for (auto it = choice.logprobs.begin(); it != first_kept; ++it)
    taken.push_back(std::move(it->entry));
  choice.logprobs.erase(choice.logprobs.begin(), first_kept);
  return logprobs_json(plan_.kind, model_.tokenizer, taken);
}

/// Nothing goes out before all choices are admitted and one has a result: until then a refusal can
/// still be an HTTP status, and the first chunk a client sees is the first token.
bool Generation::may_open() const {
  return any_result_ && std::all_of(choices_.begin(), choices_.end(),
                                    [](const Choice& choice) { return choice.admitted; });
}

Usage Generation::usage() const {
  Usage usage;
  for (const auto& prompt : plan_.prompts) usage.prompt_tokens += prompt.size();
  for (const Choice& choice : choices_) usage.completion_tokens += choice.num_generated;
  return usage;
}

std::string Generation::chunk(const ChoiceDelta& delta) const {
  const GenerationRequest& request = plan_.request;
  if (request.continuous_usage) return sse_event(chunk_json(head_, delta, usage_json(usage())));
  return sse_event(chunk_json(head_, delta, request.include_usage ? "null" : ""));
}

std::string Generation::whole_response() {
  std::vector<ChoiceResult> results;
  for (Choice& choice : choices_) {
    results.push_back({.index = choice.index,
                       .text = std::move(choice.content),
                       .logprobs = std::move(choice.logprobs_json),
                       .finish_reason = *choice.finish_reason,
                       .stop_reason = choice.stop_reason});
  }
  return response_json(head_, results, usage());
}

void Generation::fail(ApiError error) {
  if (!error_) error_ = std::move(error);
}

Exchange::Progress Generation::fail_now(Instant now) {
  Progress progress;
  progress.done = true;
  if (streaming_) {
    progress.events = std::exchange(events_, {}) + sse_event(error_body(*error_));
    progress.events += kSseDone;
  } else {
    progress.response = error_response(*error_);
  }
  end("error", now);
  return progress;
}

Exchange::Progress Generation::interrupt(const ApiError& reason, Instant now) {
  if (ended_) return {.done = true};
  fail(reason);
  return fail_now(now);
}

void Generation::abandon(Instant now) { end("abort", now); }

/// Ends every choice that is still open, and tells the log.
void Generation::end(std::string_view reason, Instant now) {
  if (ended_) return;
  ended_ = true;
  if (mailbox_ == nullptr) return;  // never started
  for (Choice& choice : choices_) {
    if (choice.finish_reason) continue;
    client_.cancel(choice.request);
    choice.finish_reason = reason;
    metrics_.choice_ended(reason, prompt_of(choice).size(), choice.num_generated,
                          now - plan_.arrived);
  }
  mailbox_->close();
  metrics_.in_flight(-1);
  const Usage total = usage();
  log::info("request_ended", {{"id", plan_.request_id},
                              {"choices", choices_.size()},
                              {"finish", *choices_.front().finish_reason},
                              {"prompt_tokens", total.prompt_tokens},
                              {"completion_tokens", total.completion_tokens},
                              {"seed", plan_.request.sampling.seed},
                              {"error", error_ ? name_of(*error_) : ""}});
}

}  // namespace

std::unique_ptr<Exchange> make_generation(GenerationPlan plan, actors::ClusterClient& client,
                                          const GatewayModel& model, Metrics& metrics) {
  return std::make_unique<Generation>(std::move(plan), client, model, metrics);
}

}  // namespace troupe::gateway
