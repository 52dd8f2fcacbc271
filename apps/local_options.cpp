#include "apps/local_options.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>

#include "apps/device_option.hpp"
#include "apps/threads_option.hpp"

namespace troupe::apps {
namespace po = boost::program_options;

void add_local_options(Options& options) {
  options.add_options()("model,m", po::value<std::string>()->required(),
                        "checkpoint directory (Hugging Face layout)");
  add_threads_option(options, "compute threads; the results do not depend on it");
  options.add_options()("attention", po::value<std::string>()->default_value("absorbed"),
                        "form of MLA: absorbed or expanded; they round differently")(
      "kv-dtype", po::value<std::string>()->default_value("f32"),
      "type of the KV cache: f32, or bf16, half as large, which rounds");
}

Result<actors::LocalModelOptions> read_local_options(const Values& values) {
  actors::LocalModelOptions options;
  options.num_threads = TRY(read_threads(values));
  const auto form = values["attention"].as<std::string>();
  if (form == "expanded") {
    options.form = actors::AttentionForm::kExpanded;
  } else if (form != "absorbed") {
    return Error{Code::kInvalidArgument,
                 "--attention must be absorbed or expanded, not '" + form + "'"};
  }
  const auto kv_dtype = values["kv-dtype"].as<std::string>();
  if (kv_dtype == "bf16") {
    options.kv_dtype = DType::kBF16;
  } else if (kv_dtype != "f32") {
    return Error{Code::kInvalidArgument, "--kv-dtype must be f32 or bf16, not '" + kv_dtype + "'"};
  }
  return options;
}

Result<std::unique_ptr<actors::LocalModel>> load_local_model(const Values& values, bool guided,
                                                             size_t num_tokens) {
  actors::LocalModelOptions options = TRY(read_local_options(values));
  kernels::Backend backend = TRY(open_device(values));
  const auto checkpoint = TRY(model::Checkpoint::open(values["model"].as<std::string>()));
  const size_t most = checkpoint.config().max_position_embeddings;
  options.max_context = static_cast<uint32_t>(std::min(most, num_tokens));
  if (guided) {
    options.vocabulary =
        TRY(model::load_vocabulary(values["model"].as<std::string>(), checkpoint.config()));
  }
  return actors::LocalModel::load(checkpoint, options, std::move(backend));
}

Result<std::vector<TokenId>> parse_tokens(const std::string& text) {
  std::vector<TokenId> tokens;
  const char* at = text.data();
  const char* end = at + text.size();
  while (at != end) {
    TokenId id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0 || (next != end && *next != ',') || next + 1 == end) {
      return Error{Code::kInvalidArgument,
                   "'" + text + "' is not a list of token ids such as 1,2,3 (at character " +
                       std::to_string(at - text.data() + 1) + ")"};
    }
    tokens.push_back(id);
    at = next == end ? end : next + 1;
  }
  return tokens;
}

std::string json_string(const std::string& text) {
  return boost::json::serialize(boost::json::string(text));
}

std::string json_array(const std::vector<TokenId>& tokens) {
  std::string out = "[";
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) out += ',';
    out += std::to_string(tokens[i]);
  }
  return out + "]";
}

}  // namespace troupe::apps
