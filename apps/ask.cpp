#include "apps/ask.hpp"

#include <boost/json.hpp>
#include <chrono>
#include <cstdio>

#include "apps/server_error.hpp"

namespace troupe::apps {
namespace json = boost::json;
namespace {

const json::value* member(const json::value& value, const char* key) {
  return value.is_object() ? value.get_object().if_contains(key) : nullptr;
}

}  // namespace

Result<Answer> ask(const gateway::HttpClient& client, const std::vector<Turn>& turns,
                   const AskOptions& options) {
  json::array messages;
  for (const auto& [role, content] : turns) {
    messages.push_back(json::object{{"role", role}, {"content", content}});
  }
  const json::object body{{"model", options.model},
                          {"messages", std::move(messages)},
                          {"max_tokens", options.max_tokens},
                          {"temperature", options.temperature},
                          {"stream", true}};
  Answer answer;
  Error broken{Code::kCorrupt, ""};
  size_t num_events = 0;
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  Clock::time_point first = start, last = start;
  const auto on_event = [&](std::string_view data) {
    if (data == "[DONE]") return false;
    boost::system::error_code failed;
    const json::value event = json::parse(json::string_view(data.data(), data.size()), failed);
    if (failed || !event.is_object()) {
      broken.message = "the server sent an event that is no JSON object";
      return false;
    }
    if (event.get_object().contains("error")) {
      broken = server_error(503, data);
      return false;
    }
    const json::value* choices = member(event, "choices");
    if (choices == nullptr || !choices->is_array() || choices->get_array().empty()) return true;
    const json::value& choice = choices->get_array().front();
    const json::value* delta = member(choice, "delta");
    const json::value* content = delta == nullptr ? nullptr : member(*delta, "content");
    if (content != nullptr && content->is_string() && !content->get_string().empty()) {
      last = Clock::now();
      if (num_events++ == 0) first = last;
      const auto& text = content->get_string();
      answer.text.append(text.data(), text.size());
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    }
    const json::value* reason = member(choice, "finish_reason");
    if (reason != nullptr && reason->is_string()) {
      answer.finish_reason = reason->get_string().c_str();
    }
    return true;
  };
  const auto response =
      TRY(client.post_stream("/v1/chat/completions", json::serialize(body), on_event));
  if (response.status != 200) return server_error(response.status, response.body);
  if (!broken.message.empty()) return broken;
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
