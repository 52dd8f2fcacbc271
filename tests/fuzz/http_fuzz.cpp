// The bytes are a request as the service gets it, in lines: method, target, content type; the rest
// is the body. Every answer is complete, and every request it starts is cancelled.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.hpp"
#include "base/log.hpp"
#include "gateway/service.hpp"
#include "model/tokenizer_utf8.hpp"

namespace {

using namespace troupe;
using namespace troupe::gateway;

/// A tokenizer with one token per byte.
std::string byte_tokenizer_json() {
  std::string vocab;
  char32_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {  // GPT-2's printable names of the bytes
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    std::string name;
    model::append_utf8(name, printable ? static_cast<char32_t>(byte) : next++);
    if (name == "\"" || name == "\\") name = "\\" + name;
    vocab += (byte == 0 ? "\"" : ",\"") + name + "\":" + std::to_string(byte);
  }
  return R"({"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"ByteLevel",)"
         R"("add_prefix_space":false,"use_regex":false},"decoder":{"type":"ByteLevel"},)"
         R"("model":{"type":"BPE","vocab":{)" +
         vocab + R"(},"merges":[]}})";
}

/// Emits the first token of the prompt again, at once.
class EchoClient final : public actors::ClusterClient {
 public:
  RequestId submit(scheduler::RequestSpec spec, EventHandler on_event) override {
    CHECK(!spec.prompt.empty());
    CHECK(spec.max_tokens >= 1 && spec.prompt.size() + spec.max_tokens <= 1024);
    CHECK(model::validate(spec.sampling).ok());
    const RequestId id{++next_id_};
    on_event(scheduler::Admitted{id});
    on_event(scheduler::TokensEmitted{id, 0, {{.token = spec.prompt[0], .top_logprobs = {}}}});
    on_event(scheduler::Finished{id, scheduler::FinishReason::kLength});
    return id;
  }
  void cancel(RequestId) override {}
  void drain(const std::string&, bool) override {}
  void experts(bool, std::function<void(Result<actors::ExpertsStatus>)> on_experts) override {
    on_experts(actors::ExpertsStatus{});
  }
  [[nodiscard]] bool serving() const override { return true; }
  void status(bool, std::function<void(actors::ClusterStatus)> on_status) override {
    on_status({});
  }

 private:
  uint64_t next_id_ = 0;
};

std::string next_line(std::string_view& rest) {
  const size_t end = std::min(rest.find('\n'), rest.size());
  std::string line(rest.substr(0, end));
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return line;
}

struct World {
  World() { log::configure(log::Level::kError, "fuzz"); }

  model::Tokenizer tokenizer = model::Tokenizer::parse(byte_tokenizer_json()).value();
  EchoClient client;
  GatewayModel gateway_model{
      .id = "m", .tokenizer = tokenizer, .max_context = 1024, .eos_token_ids = {0}, .defaults = {}};
  Metrics metrics{"m", "v"};
  Service service{{.version = "v"}, client, gateway_model, metrics};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static World world;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  HttpRequest request;
  request.method = next_line(rest);
  request.target = next_line(rest);
  request.content_type = next_line(rest);
  request.request_id = "r";
  request.body = rest;
  Answer answer = world.service.answer(request);
  if (const auto* response = std::get_if<HttpResponse>(&answer)) {
    CHECK(response->status >= 200 && response->status < 600);
    return 0;
  }
  Exchange& exchange = *std::get<std::unique_ptr<Exchange>>(answer);
  exchange.start([] {});
  const auto progress = exchange.poll(Instant{});
  CHECK(progress.done);
  CHECK(progress.response.has_value() != progress.events.ends_with("data: [DONE]\n\n"));
  return 0;
}
