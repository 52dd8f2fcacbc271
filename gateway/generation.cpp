#include "gateway/generation.hpp"

#include <algorithm>
#include <utility>

#include "base/check.hpp"
#include "base/log.hpp"
#include "gateway/answer_text.hpp"
#include "gateway/event_mailbox.hpp"
#include "model/text_stream.hpp"

namespace troupe::gateway {
namespace {

using model::AnswerPart;
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

struct Choice {
  Choice(uint32_t index_in, AnswerText answer_in) : index(index_in), answer(std::move(answer_in)) {}

  uint32_t index;
  AnswerText answer;
  RequestId request;
  bool admitted = false;
  bool opened = false;      ///< its first chunk is written
  bool has_enough = false;  ///< the one call that the client wants: nothing more is shown
  uint32_t num_cached = 0;  ///< prompt tokens found in the prefix cache
  Instant last_token;
  std::string content;    ///< without streaming
  std::string reasoning;  ///< without streaming
  std::vector<ToolCallResult> tool_calls;
  std::optional<std::string> logprobs_json;         ///< without streaming, when finished
  std::optional<std::string> prompt_logprobs_json;  ///< until it is written
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
  void add_parts(Choice& choice, std::vector<AnswerPart> parts);
  void add_tool_call(Choice& choice, std::string name);
  void send(Choice& choice, ChoiceDelta delta);
  void add_arguments(Choice& choice, std::string arguments);
  /// Whether the one call that the client wants is there.
  [[nodiscard]] bool has_enough_calls(const Choice& choice) const {
    return !plan_.parallel_tool_calls && choice.answer.num_ended_calls() > 0;
  }
  void finish(Choice& choice, std::string_view reason, Instant now);
  [[nodiscard]] ApiError from_failure(const Error& error) const;
  void fail(ApiError error);
  void end(std::string_view reason_of_open_choices, Instant now);

  [[nodiscard]] const std::vector<TokenId>& prompt_of(const Choice& choice) const {
    return plan_.prompts[choice.index / plan_.request.num_choices];
  }
  [[nodiscard]] std::vector<TokenId> shown_tokens() const;
  [[nodiscard]] bool may_open() const;
  [[nodiscard]] Usage usage() const;
  [[nodiscard]] std::string chunk(const ChoiceDelta& delta) const;
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
                                              .shown = shown_tokens(),
                                              .min_tokens = plan_.request.sampling.min_tokens});
    CHECK(text.ok());  // the parser lets no empty stop string through
    choices_.emplace_back(i, AnswerText(model_.tokenizer, std::move(text).value(), plan_.syntax,
                                        plan_.request.sampling.want_logprobs));
  }
}

/// Marks that the parser needs to see, special tokens or not.
std::vector<TokenId> Generation::shown_tokens() const {
  const bool parses = plan_.syntax.has_reasoning || plan_.syntax.tools != model::ToolSyntax::kNone;
  return parses ? model_.chat_format->answer_marks() : std::vector<TokenId>();
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
             : from_refusal(refused->error, refused->retry_after));
  } else if (const auto* emitted = std::get_if<scheduler::TokensEmitted>(&event)) {
    take_tokens(choice, *emitted, now);
  } else if (const auto* finished = std::get_if<scheduler::Finished>(&event)) {
    any_result_ = true;
    finish(choice, plan_.echo_only ? "length" : name_of(finished->reason), now);
  } else {
    fail(from_failure(std::get<scheduler::Failed>(event).error));
  }
}

void Generation::take_tokens(Choice& choice, const scheduler::TokensEmitted& emitted, Instant now) {
  AnswerText& answer = choice.answer;
  if (emitted.first != answer.num_tokens()) {
    return fail(from_error(
        {Code::kInternal, "The cluster sent token " + std::to_string(emitted.first) + " where " +
                              std::to_string(answer.num_tokens()) + " was due."}));
  }
  if (emitted.tokens.empty()) return;
  any_result_ = true;
  std::vector<AnswerPart> parts;
  choice.num_cached = emitted.num_cached;
  if (emitted.first == 0) {
    if (!plan_.echo_only) metrics_.first_token(now - plan_.arrived);
    if (plan_.echo) {
      parts.push_back(
          {AnswerPart::Kind::kContent,
           model_.tokenizer.decode(prompt_of(choice), plan_.request.skip_special_tokens), ""});
      answer.add_prompt(prompt_of(choice), emitted.prompt_logprobs,
                        plan_.request.sampling.num_top_logprobs);
    }
    const bool is_shown = plan_.kind == ResponseKind::kText || choice.index == 0;
    if (const auto num_top = plan_.request.num_prompt_logprobs; num_top && is_shown) {
      choice.prompt_logprobs_json =
          prompt_logprobs_json(model_.tokenizer, emitted.prompt_logprobs, *num_top);
    }
    if (plan_.echo_only) return add_parts(choice, std::move(parts));
  }
  for (const auto& token : emitted.tokens) {
    append_parts(parts, answer.push(token));
    if (answer.stopped() || has_enough_calls(choice)) break;
  }
  const bool had_first = emitted.first == 0;
  const uint64_t num_next = answer.num_tokens() - emitted.first - (had_first ? 1 : 0);
  if (num_next > 0)
    metrics_.next_tokens(num_next, had_first ? Duration{} : now - choice.last_token);
  choice.last_token = now;

  add_parts(choice, std::move(parts));
  if (const auto stop = answer.stopped()) {
    choice.stop_reason = plan_.request.stop[*stop];
  } else if (!has_enough_calls(choice)) {
    return;
  }
  client_.cancel(choice.request);
  finish(choice, "stop", now);
}

/// Writes or keeps what is settled; opens the choice, even if that is nothing.
void Generation::add_parts(Choice& choice, std::vector<AnswerPart> parts) {
  if (!choice.opened && plan_.request.stream && plan_.kind == ResponseKind::kChat) {
    events_ += chunk({.index = choice.index,
                      .opens = true,
                      .prompt_logprobs = std::exchange(choice.prompt_logprobs_json, {})});
  }
  choice.opened = true;
  for (AnswerPart& part : parts) {
    const bool is_new = part.kind != AnswerPart::Kind::kArguments;
    if (is_new && !plan_.parallel_tool_calls && !choice.tool_calls.empty()) {
      choice.has_enough = true;
    }
    if (choice.has_enough) return;
    if (part.kind == AnswerPart::Kind::kToolCall) {
      add_tool_call(choice, std::move(part.name));
    } else if (part.kind == AnswerPart::Kind::kArguments) {
      add_arguments(choice, std::move(part.text));
    } else if (!plan_.request.stream) {
      (part.kind == AnswerPart::Kind::kContent ? choice.content : choice.reasoning) += part.text;
    } else if (part.kind == AnswerPart::Kind::kContent) {
      send(choice, {.index = choice.index, .text = std::move(part.text)});
    } else {
      send(choice, {.index = choice.index, .reasoning = std::move(part.text)});
    }
  }
}

void Generation::add_tool_call(Choice& choice, std::string name) {
  const auto index = static_cast<uint32_t>(choice.tool_calls.size());
  std::string id =
      "call_" + plan_.request_id + "-" + std::to_string(choice.index) + "-" + std::to_string(index);
  choice.tool_calls.push_back({std::move(id), std::move(name), ""});
  if (plan_.request.stream) {
    const ToolCallResult& made = choice.tool_calls.back();
    // Clients join the strings of a call's steps: id and name may come only once.
    send(choice, {.index = choice.index,
                  .tool_call = ToolCallDelta{.index = index, .id = made.id, .name = made.name}});
  }
}

void Generation::add_arguments(Choice& choice, std::string arguments) {
  if (!plan_.request.stream) {
    choice.tool_calls.back().arguments += arguments;
    return;
  }
  const auto index = static_cast<uint32_t>(choice.tool_calls.size() - 1);
  send(choice, {.index = choice.index,
                .tool_call = ToolCallDelta{.index = index, .arguments = std::move(arguments)}});
}

/// Writes a chunk, with the logprobs of the tokens whose text has come so far.
void Generation::send(Choice& choice, ChoiceDelta delta) {
  delta.logprobs = choice.answer.take_logprobs(plan_.kind);
  delta.prompt_logprobs = std::exchange(choice.prompt_logprobs_json, {});
  events_ += chunk(delta);
}

void Generation::finish(Choice& choice, std::string_view reason, Instant now) {
  add_parts(choice, choice.answer.end());
  const bool calls = !choice.tool_calls.empty() && reason == "stop";
  choice.finish_reason = calls ? "tool_calls" : reason;
  if (plan_.request.stream) {
    ChoiceDelta last{.index = choice.index,
                     .prompt_logprobs = std::exchange(choice.prompt_logprobs_json, {}),
                     .finish_reason = choice.finish_reason,
                     .stop_reason = choice.stop_reason};
    if (choice.answer.has_logprobs()) last.logprobs = choice.answer.take_logprobs(plan_.kind);
    events_ += chunk(last);
  } else {
    choice.logprobs_json = choice.answer.take_logprobs(plan_.kind);
  }
  metrics_.choice_ended(reason, prompt_of(choice).size(), choice.answer.num_tokens(),
                        now - plan_.arrived);
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
  for (const Choice& choice : choices_) {
    // A prompt's further choices find it computed by the first: that saved nothing of what was
    // asked.
    if (choice.index % plan_.request.num_choices == 0) usage.cached_tokens += choice.num_cached;
    usage.completion_tokens += choice.answer.num_tokens();
    usage.reasoning_tokens += choice.answer.num_reasoning_tokens();
  }
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
                       .reasoning = std::move(choice.reasoning),
                       .tool_calls = std::move(choice.tool_calls),
                       .logprobs = std::move(choice.logprobs_json),
                       .prompt_logprobs = std::move(choice.prompt_logprobs_json),
                       .finish_reason = *choice.finish_reason,
                       .stop_reason = choice.stop_reason});
  }
  return response_json(head_, results, usage());
}

/// Of what a request asks for, all but its grammar is checked before it is submitted; that may turn
/// out to be too ambiguous, or to leave no token together with bans, only while it is followed.
ApiError Generation::from_failure(const Error& error) const {
  ApiError answer = from_error(error);
  const bool is_grammar = error.code == Code::kInvalidArgument && plan_.request.sampling.grammar;
  if (is_grammar) answer.param = plan_.request.grammar_field;
  return answer;
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
    metrics_.choice_ended(reason, prompt_of(choice).size(), choice.answer.num_tokens(),
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
