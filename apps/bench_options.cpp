#include "apps/bench_options.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <fstream>
#include <iterator>

#include "apps/whole_file.hpp"
#include "base/parse.hpp"
#include "gateway/http_client.hpp"
#include "model/tokenizer.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace json = boost::json;
using loadgen::Plan;

namespace {

Error invalid(std::string message) { return Error{Code::kInvalidArgument, std::move(message)}; }

template <class T>
std::optional<T> optional_value(const Values& values, const char* name) {
  return values.count(name) == 0 ? std::nullopt : std::optional<T>(values[name].as<T>());
}

Duration seconds_value(const Values& values, const char* name) {
  return nanoseconds(std::llround(values[name].as<double>() * 1e9));
}

Result<std::string> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return Error{Code::kNotFound, "cannot read " + path};
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

/// Every number of seconds and every rate is finite and not negative, but for an infinite rate.
Result<void> check_numbers(const Values& values) {
  for (const char* name : {"timeout", "ready-timeout", "duration", "think-time", "trace-from",
                           "trace-to", "trace-speedup", "temperature", "range-ratio"}) {
    const auto value = optional_value<double>(values, name);
    if (value && !(*value >= 0 && *value <= loadgen::kMaxSeconds)) {
      return invalid(std::string("--") + name + " must be a number from 0 to 1e8");
    }
  }
  if (values["timeout"].as<double>() < 0.001) return invalid("--timeout must be at least 0.001");
  for (const char* name : {"trace-max-input", "trace-max-output"}) {
    if (values[name].as<uint32_t>() < 1) {
      return invalid(std::string("--") + name + " must be at least 1");
    }
  }
  return {};
}

/// Refuses options that would have no effect: whoever gives one believes that it has.
Result<void> check_used(const Values& values) {
  const auto given = [&](const char* name) {
    return values.count(name) != 0 && !values[name].defaulted();
  };
  const bool has_trace = given("mooncake") || given("azure");
  const bool draws_prompts = !has_trace && !given("prompts");
  const bool warms_up = values["num-warmups"].as<uint32_t>() > 0;  // with drawn prompts
  const bool has_load = given("concurrency") || given("request-rate") || given("sweep");
  const char* const trace = "--mooncake or --azure";
  const char* const drawn = "drawn prompts: no file, or --num-warmups beside it";
  const char* const arrivals =
      "the arrivals of a trace: not --concurrency, --request-rate or --sweep";
  const struct {
    const char* name;
    bool is_used;
    const char* needs;
  } rules[] = {
      {"save-detailed", given("json"), "--json"},
      {"input-len", draws_prompts || warms_up, drawn},
      {"output-len", !has_trace || warms_up, drawn},
      {"range-ratio", draws_prompts || warms_up, drawn},
      {"prefix-len", draws_prompts || warms_up, drawn},
      {"num-prefixes", values["prefix-len"].as<uint32_t>() > 0, "--prefix-len"},
      {"turn-input-len", values["turns"].as<uint32_t>() > 1, "--turns above 1"},
      {"think-time", values["turns"].as<uint32_t>() > 1, "--turns above 1"},
      {"trace-speedup", has_trace && !has_load, arrivals},
      {"trace-from", has_trace, trace},
      {"trace-to", has_trace, trace},
      {"trace-max-input", has_trace, trace},
      {"trace-max-output", has_trace || given("prompts"), "--mooncake, --azure or --prompts"},
  };
  for (const auto& [name, is_used, needs] : rules) {
    if (given(name) && !is_used) return invalid(std::string("--") + name + " needs " + needs);
  }
  if (given("tenant") && given("tenants")) return invalid("give one of --tenants and --tenant");
  if (given("api-key") && (given("tenant") || given("tenants"))) {
    return invalid("--api-key is of one tenant; those of --tenants and --tenant send their names");
  }
  if (given("tokenizer") && given("token-ids")) {
    return invalid("give one of --tokenizer and --token-ids: the tokenizer knows the ids");
  }
  if (given("json") && given("html") &&
      file_of(values["json"].as<std::string>()) == file_of(values["html"].as<std::string>())) {
    return invalid("--json and --html name the same file");
  }
  return {};
}

/// Of each "URL" or "NAME=URL". Several servers have names, those of their hosts and ports if need
/// be.
Result<std::vector<loadgen::Server>> read_servers(const std::vector<std::string>& urls) {
  std::vector<loadgen::Server> servers;
  for (const std::string& text : urls) {
    const size_t equals = text.find('=');
    const bool has_name = equals < text.find("://");
    if (has_name && equals == 0) return invalid("--url " + text + " has no name before the =");
    loadgen::Server server{.name = has_name ? text.substr(0, equals) : "",
                           .url = has_name ? text.substr(equals + 1) : text,
                           .model = {}};
    const auto client = TRY(gateway::HttpClient::create(server.url));
    if (!has_name && urls.size() > 1) {
      server.name = gateway::authority(client.host(), client.port());
    }
    if (std::ranges::find(servers, server.name, &loadgen::Server::name) != servers.end()) {
      return invalid("two servers are named " + server.name + ": say --url NAME=URL");
    }
    servers.push_back(std::move(server));
  }
  return servers;
}

/// Of each "MODEL", for all servers, or "NAME=MODEL".
Result<void> read_models(const std::vector<std::string>& models,
                         std::vector<loadgen::Server>& servers) {
  for (const std::string& text : models) {
    const size_t equals = text.find('=');
    const auto named =
        equals == std::string::npos
            ? servers.end()
            : std::ranges::find(servers, text.substr(0, equals), &loadgen::Server::name);
    if (named == servers.end() && equals != std::string::npos && servers.size() > 1) {
      return invalid("--model " + text + ": no server is named " + text.substr(0, equals));
    }
    for (loadgen::Server& server : servers) {
      if (named != servers.end() && &server != &*named) continue;
      if (!server.model.empty()) return invalid("two models for " + server.url);
      server.model = named == servers.end() ? text : text.substr(equals + 1);
    }
  }
  return {};
}

Result<loadgen::WordPool> read_pool(const Values& values) {
  if (const auto directory = optional_value<std::string>(values, "tokenizer")) {
    return loadgen::words_of(TRY(model::Tokenizer::load(*directory)));
  }
  const std::string range = values["token-ids"].as<std::string>();
  const auto ends = split(range, ':');
  const TokenId first = parse_number<TokenId>(ends.front()).value_or(-1);
  const TokenId last = parse_number<TokenId>(ends.back()).value_or(-1);
  if (ends.size() != 2 || first < 0 || last < first || last > (1 << 22)) {
    return invalid("--token-ids must be FIRST:LAST, at most " + std::to_string(1 << 22));
  }
  return loadgen::common_words(first, last);
}

/// Rows from the file that one of the options names; null without.
Result<std::shared_ptr<const std::vector<loadgen::TraceRow>>> read_rows(const Values& values) {
  std::shared_ptr<const std::vector<loadgen::TraceRow>> rows;
  for (const char* name : {"mooncake", "azure", "prompts"}) {
    const auto path = optional_value<std::string>(values, name);
    if (!path) continue;
    if (rows) return invalid("give one of --mooncake, --azure and --prompts");
    const std::string text = TRY(read_file(*path));
    auto parsed = name == std::string_view("mooncake") ? loadgen::parse_mooncake(text)
                  : name == std::string_view("azure")
                      ? loadgen::parse_azure(text)
                      : loadgen::parse_prompts(text, values["output-len"].as<uint32_t>());
    if (!parsed.ok()) return std::move(parsed).error().with_context(*path);
    const double speedup = values["trace-speedup"].as<double>();
    if (!(speedup > 0) ||
        (!parsed->empty() && to_seconds(parsed->back().at) > speedup * loadgen::kMaxSeconds)) {
      return invalid("--trace-speedup must be above 0, and make the trace no longer than " +
                     std::to_string(static_cast<int64_t>(loadgen::kMaxSeconds)) + " s");
    }
    const auto to = values.count("trace-to") == 0
                        ? std::nullopt
                        : std::optional(seconds_value(values, "trace-to"));
    auto window =
        loadgen::window_of(std::move(*parsed), seconds_value(values, "trace-from"), to, speedup);
    rows = std::make_shared<const std::vector<loadgen::TraceRow>>(
        loadgen::shortened(std::move(window), values["trace-max-input"].as<uint32_t>(),
                           values["trace-max-output"].as<uint32_t>()));
  }
  return rows;
}

Result<Plan> read_plan(const Values& values) {
  Plan plan;
  const double ratio = values["range-ratio"].as<double>();
  const auto input = values["input-len"].as<uint32_t>();
  plan.workload = {
      .input = {input, ratio},
      .output = {values["output-len"].as<uint32_t>(), ratio},
      .later_input = {optional_value<uint32_t>(values, "turn-input-len").value_or(input), ratio},
      .num_prefixes = values["num-prefixes"].as<uint32_t>(),
      .prefix_len = values["prefix-len"].as<uint32_t>(),
      .num_turns = values["turns"].as<uint32_t>(),
      .rows = TRY(read_rows(values))};
  plan.rows_have_times = values.count("prompts") == 0;
  plan.concurrency = optional_value<uint32_t>(values, "concurrency");
  if (const auto rate = optional_value<std::string>(values, "request-rate")) {
    plan.rate = parse_number<double>(*rate);
    if (!plan.rate) return invalid("--request-rate must be a number or inf, not \"" + *rate + "\"");
  }
  plan.burstiness = values["burstiness"].as<double>();
  plan.max_concurrency = optional_value<uint32_t>(values, "max-concurrency");
  plan.num_prompts = optional_value<uint64_t>(values, "num-prompts");
  if (values.count("duration") != 0) plan.duration = seconds_value(values, "duration");
  if (!plan.num_prompts && !plan.duration && !plan.workload.rows) plan.num_prompts = 100;
  plan.num_warmups = values["num-warmups"].as<uint32_t>();
  plan.think_time = seconds_value(values, "think-time");
  plan.seed = values["seed"].as<uint64_t>();
  plan.num_repeats = values["repeat"].as<uint32_t>();
  if (const auto text = optional_value<std::string>(values, "sweep")) {
    plan.sweep = TRY(loadgen::parse_sweep(*text));
  }
  if (const auto text = optional_value<std::string>(values, "background")) {
    plan.background = TRY(loadgen::parse_background(*text));
  }
  if (const auto loads = optional_value<std::vector<std::string>>(values, "tenant")) {
    for (const std::string& text : *loads) {
      plan.tenant_loads.push_back(TRY(loadgen::parse_tenant_load(text)));
      const std::string& name = plan.tenant_loads.back().name;
      plan.tenants.push_back({.name = name, .api_key = name});
    }
  } else if (const auto weights = optional_value<std::string>(values, "tenants")) {
    plan.tenants = TRY(loadgen::parse_weights(*weights));
  } else {
    plan.tenants = {{.name = "all", .api_key = values["api-key"].as<std::string>()}};
  }
  TRY(loadgen::check(plan));
  return plan;
}

}  // namespace

Options serve_option_table() {
  const auto text = [] { return po::value<std::string>(); };
  const auto texts = [] { return po::value<std::vector<std::string>>(); };
  const auto count = [] { return po::value<uint32_t>(); };
  const auto number = [] { return po::value<double>(); };
  Options server("Server");
  server.add_options()  //
      ("url", texts()->default_value({"http://127.0.0.1:8000"}, "http://127.0.0.1:8000"),
       "the server, without /v1; repeated, as NAME=URL if wanted: each run against every server, "
       "by turns")                                                               //
      ("endpoint", text()->default_value("completions"), "completions or chat")  //
      ("model", texts(),
       "its name for the model; else the first that it lists. Of several servers: MODEL for all, "
       "or NAME=MODEL for one")  //
      ("api-key", text()->default_value(""),
       "sent as a bearer token, to every server; reports leave it out")              //
      ("ready-timeout", number()->default_value(0), "seconds to wait for a server")  //
      ("timeout", number()->default_value(600), "seconds for one request")           //
      ("retry",
       "send refused requests (429, 503) again after Retry-After; else they count as failed")  //
      ("no-ignore-eos", "let answers end early; else all have the asked length")               //
      ("temperature", number()->default_value(0), "of sampling; 0 is greedy")                  //
      ("extra-body", text(), "JSON object: fields to add to each request, or to replace");
  Options prompts("Requests");
  prompts.add_options()                                                                           //
      ("input-len", count()->default_value(1024), "mean tokens of a prompt")                      //
      ("output-len", count()->default_value(128), "mean tokens of an answer")                     //
      ("range-ratio", number()->default_value(0), "lengths lie within +- this part of the mean")  //
      ("num-prefixes", count()->default_value(1), "different shared prefixes")                    //
      ("prefix-len", count()->default_value(0), "tokens of a shared prefix, before the input")    //
      ("turns", count()->default_value(1),
       "turns of a conversation; each sends all before it, with the server's answers")       //
      ("turn-input-len", count(), "tokens that a later turn adds (as --input-len)")          //
      ("think-time", number()->default_value(0), "seconds from an answer to the next turn")  //
      ("mooncake", text(), "trace, JSONL; its hash_ids decide which prefixes are shared")    //
      ("azure", text(), "trace, CSV")                                                        //
      ("prompts", text(), "own prompts, JSONL: {\"prompt\": ..., \"max_tokens\": ...}")      //
      ("trace-speedup", number()->default_value(1), "divides the times of a trace")          //
      ("trace-from", number()->default_value(0), "seconds of the trace to skip")             //
      ("trace-to", number(), "second of the trace to stop at")                               //
      ("trace-max-input", count()->default_value(loadgen::kMaxTraceTokens),
       "shorten longer prompts of a trace to so many tokens")  //
      ("trace-max-output", count()->default_value(loadgen::kMaxTraceTokens),
       "and longer answers")                                                                  //
      ("prompt-as", text(), "tokens or text; default: tokens for completions, else text")     //
      ("token-ids", text()->default_value("300:3000"), "range of ids for prompts as tokens")  //
      ("tokenizer", text(),
       "directory with tokenizer.json: words that are one token each, so that texts have exact "
       "lengths too")  //
      ("seed", po::value<uint64_t>()->default_value(0),
       "of lengths, words and arrivals; the same seed against a running server finds its cache "
       "warm");
  Options load("Load");
  load.add_options()  //
      ("concurrency", count(),
       "closed loop: so many clients, each sends when its last answer is there")  //
      ("request-rate", text(), "open loop: requests per second, or inf")          //
      ("burstiness", number()->default_value(1),
       "1: Poisson; less: bursts; more: steadier (gamma)")  //
      ("max-concurrency", count(),
       "open loop: more wait here, and their latency counts from their arrival")           //
      ("num-prompts", po::value<uint64_t>(), "requests to send (100, or the whole file)")  //
      ("duration", number(), "seconds to send for; answers are awaited")                   //
      ("num-warmups", count()->default_value(0), "requests before, not counted")           //
      ("sweep", text(), "concurrency=1,2,4 or rate=1,2,4: one run for each")               //
      ("repeat", count()->default_value(1), "runs of each load, with other words")         //
      ("tenants", text(),
       "NAME:WEIGHT,...: each request is of one, drawn by weight. A tenant's name is sent as its "
       "API key, and reports show it")  //
      ("tenant", texts(),
       "NAME:CLIENTS or NAME:RATE/s, with :PRIORITY if wanted; repeated: each has its own load. "
       "The name is sent as the API key, and reports show it")  //
      ("background", text(),
       "TOKENS:SECONDS[:KEY]: beside the others a prompt of so many tokens every so often, with an "
       "API key of its own if wanted, which reports leave out");
  Options output("Results");
  output.add_options()  //
      ("goodput", texts()->multitoken(),
       "ttft:MS tpot:MS e2el:MS: count requests that meet them all")  //
      ("json", text(), "file for the results, with vLLM's keys")      //
      ("save-detailed", "every request into the JSON file")           //
      ("html", text(), "file for a page with plots");
  Options all;
  all.add(server).add(prompts).add(load).add(output);
  return all;
}

Result<ServeOptions> read_serve_options(const Values& values) {
  TRY(check_numbers(values));
  TRY(check_used(values));
  ServeOptions options;
  options.servers = TRY(read_servers(values["url"].as<std::vector<std::string>>()));
  if (const auto models = optional_value<std::vector<std::string>>(values, "model")) {
    TRY(read_models(*models, options.servers));
  }
  const std::string endpoint = values["endpoint"].as<std::string>();
  const bool is_chat = endpoint == "chat";
  if (!is_chat && endpoint != "completions") {
    return invalid("--endpoint must be completions or chat, not \"" + endpoint + "\"");
  }
  options.endpoint = is_chat ? "/v1/chat/completions" : "/v1/completions";
  options.ready_timeout = seconds_value(values, "ready-timeout");
  options.plan = TRY(read_plan(values));
  options.pool = TRY(read_pool(values));

  const uint32_t num_turns = options.plan.workload.num_turns;
  const std::string form = optional_value<std::string>(values, "prompt-as")
                               .value_or(is_chat || num_turns > 1 ? "text" : "tokens");
  if (form != "tokens" && form != "text") return invalid("--prompt-as must be tokens or text");
  if (form == "tokens" && (is_chat || num_turns > 1)) {
    return invalid("chats and conversations of several turns are texts, not tokens");
  }
  if (form == "text" && !values["token-ids"].defaulted()) {
    return invalid("--token-ids is for prompts as tokens");
  }
  loadgen::LoadOptions& load = options.load;
  load.sends_tokens = form == "tokens";
  load.timeout = seconds_value(values, "timeout");
  load.retries = values.count("retry") != 0;
  load.tenants = loadgen::tenants_of(options.plan);
  load.body = {.model = {},
               .is_chat = is_chat,
               .ignore_eos = values.count("no-ignore-eos") == 0,
               .temperature = values["temperature"].as<double>(),
               .priority = {},
               .extra = {}};
  if (const auto extra = optional_value<std::string>(values, "extra-body")) {
    boost::system::error_code failed;
    const json::value parsed = json::parse(*extra, failed);
    if (failed || !parsed.is_object()) return invalid("--extra-body must be a JSON object");
    for (const char* ours : {"prompt", "messages", "stream"}) {
      if (parsed.get_object().contains(ours)) {
        return invalid(std::string("--extra-body cannot replace ") + ours);
      }
    }
    load.body.extra = parsed.get_object();
  }
  if (const auto goodput = optional_value<std::vector<std::string>>(values, "goodput")) {
    options.objectives = TRY(loadgen::parse_objectives(*goodput));
  }
  options.json_path = optional_value<std::string>(values, "json").value_or("");
  options.html_path = optional_value<std::string>(values, "html").value_or("");
  options.saves_details = values.count("save-detailed") != 0;
  return options;
}

}  // namespace troupe::apps
