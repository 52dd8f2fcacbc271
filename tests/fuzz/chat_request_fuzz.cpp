// The bytes are the JSON body of a request; what is accepted must keep the promised limits.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.hpp"
#include "gateway/openai_request.hpp"

namespace {

using namespace troupe::gateway;

void check_generation(const GenerationRequest& request) {
  CHECK(troupe::model::validate(request.sampling).ok());
  CHECK(request.num_choices >= 1 && request.num_choices <= kMaxChoices);
  CHECK(!request.max_tokens || *request.max_tokens >= 1);
  CHECK(request.stop.size() <= kMaxStopStrings);
  for (const auto& stop : request.stop) CHECK(!stop.empty());
  CHECK(request.stream || !request.include_usage);
}

template <class T>
const T* accepted(const ApiResult<T>& result) {
  if (const auto* error = std::get_if<ApiError>(&result)) CHECK(!error_body(*error).empty());
  return std::get_if<T>(&result);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const auto chat = parse_chat_request(body, {});
  if (const auto* request = accepted(chat)) {
    CHECK(!request->messages.empty());
    check_generation(request->generation);
  }
  const auto completion = parse_completion_request(body, {});
  if (const auto* request = accepted(completion)) {
    check_generation(request->generation);
    const size_t count = std::visit([](const auto& list) { return list.size(); }, request->prompts);
    CHECK(count >= 1 && count * request->generation.num_choices <= kMaxPrompts);
  }
  accepted(parse_tokenize_request(body));
  accepted(parse_detokenize_request(body));
  return 0;
}
