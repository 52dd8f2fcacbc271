#include "apps/ask.hpp"

#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <optional>

#include "apps/server_error.hpp"

namespace troupe::apps {
namespace json = boost::json;
namespace {

const json::value* member(const json::value& value, const char* key) {
  return value.is_object() ? value.get_object().if_contains(key) : nullptr;
}

}  // namespace

Result<Answer> ask(const gateway::HttpClient& client, const std::vector<loadgen::Message>& messages,
                   const AskOptions& options) {
  const std::string body = loadgen::text_body({.model = options.model,
                                               .is_chat = true,
                                               .ignore_eos = false,
                                               .temperature = options.temperature,
                                               .priority = {},
                                               .extra = {}},
                                              messages, options.max_tokens);
  Answer answer;
  std::optional<Error> broken;
  size_t num_events = 0;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  Clock::time_point first = start, last = start;
  const auto on_event = [&](std::string_view data) {
    auto event = loadgen::parse_event(data);
    if (!event.ok()) {
      broken = std::move(event).error();
      return false;
    }
    if (event->error) {
      broken = Error{Code::kUnavailable, *event->error};
      return false;
    }
    if (!event->content.empty()) {
      last = Clock::now();
      if (num_events++ == 0) first = last;
      answer.text += event->content;
      std::fwrite(event->content.data(), 1, event->content.size(), stdout);
      std::fflush(stdout);
    }
    if (!event->finish_reason.empty()) answer.finish_reason = event->finish_reason;
    return !event->is_end;
  };
  const auto response = TRY(client.post_stream("/v1/chat/completions", body, on_event));
  if (response.status != 200) return server_error(response.status, response.body);
  if (broken) return *broken;
  if (answer.finish_reason.empty()) {
    return Error{Code::kUnavailable, "the stream ended before the answer did"};
  }
  const auto ms = [](auto d) { return std::chrono::duration<double, std::milli>(d).count(); };
  answer.ttft_ms = ms(first - start);
  if (num_events > 1) answer.tpot_ms = ms(last - first) / static_cast<double>(num_events - 1);
  return answer;
}

Result<std::string> first_model(const gateway::HttpClient& client) {
  const auto response = TRY(client.get("/v1/models"));
  if (response.status != 200) return server_error(response.status, response.body);
  boost::system::error_code failed;
  const json::value value = json::parse(response.body, failed);
  const json::value* data = failed ? nullptr : member(value, "data");
  const json::value* id = data != nullptr && data->is_array() && !data->get_array().empty()
                              ? member(data->get_array().front(), "id")
                              : nullptr;
  if (id == nullptr || !id->is_string()) {
    return Error{Code::kCorrupt, "/v1/models lists no model; is this an OpenAI-compatible server?"};
  }
  return std::string(id->get_string().c_str());
}

}  // namespace troupe::apps
