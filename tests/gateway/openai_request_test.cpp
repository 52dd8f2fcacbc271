#include "gateway/openai_request.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "model/grammar.hpp"

namespace troupe::gateway {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kHi = R"("messages":[{"role":"user","content":"hi"}])";

/// {"messages":[...],<fields>}
std::string chat_body(const std::string& fields) {
  return "{" + std::string(kHi) + (fields.empty() ? "" : "," + fields) + "}";
}

ChatRequest parse_good_chat(const std::string& body) {
  auto parsed = parse_chat_request(body, {});
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << body << ": " << error->message;
    return {};
  }
  return std::get<ChatRequest>(std::move(parsed));
}

CompletionRequest parse_good_completion(const std::string& body) {
  auto parsed = parse_completion_request(body, {});
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << body << ": " << error->message;
    return {};
  }
  return std::get<CompletionRequest>(std::move(parsed));
}

struct BadCase {
  const char* name;
  std::string body;
  const char* code;
  const char* param;    ///< "" if none
  const char* message;  ///< part of it
};

void PrintTo(const BadCase& c, std::ostream* out) { *out << c.name; }

void expect_error(const ApiError& error, const BadCase& expected) {
  EXPECT_EQ(error.status, 400);
  EXPECT_EQ(error.type, "invalid_request_error");
  EXPECT_EQ(to_string(error.code.value()), expected.code);
  EXPECT_EQ(error.param.value_or(""), expected.param);
  EXPECT_THAT(error.message, HasSubstr(expected.message));
}

class BadChat : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadChat, IsRefusedWithTheFieldAtFault) {
  const auto parsed = parse_chat_request(GetParam().body, {});
  ASSERT_TRUE(std::holds_alternative<ApiError>(parsed)) << GetParam().body;
  expect_error(std::get<ApiError>(parsed), GetParam());
}

std::vector<BadCase> bad_chats() {
  const auto with = [](const char* name, const char* fields, const char* param,
                       const char* message) {
    return BadCase{name, chat_body(fields), "invalid_value", param, message};
  };
  const auto unsupported = [](const char* name, const char* fields, const char* param) {
    return BadCase{name, chat_body(fields), "unsupported_parameter", param, "not supported yet"};
  };
  std::string deep = "1";
  for (int i = 0; i < 100; ++i) deep = "[" + deep + "]";
  return {
      {"empty", "", "invalid_json", "", "not valid JSON"},
      {"cut", R"({"messages":[)", "invalid_json", "", "not valid JSON"},
      {"trailing", chat_body("") + "x", "invalid_json", "", "not valid JSON"},
      {"array", "[]", "invalid_json", "", "must be a JSON object"},
      {"number", "7", "invalid_json", "", "must be a JSON object"},
      {"deep", chat_body("\"x\":" + deep), "invalid_json", "", "not valid JSON"},
      {"twice", chat_body(R"("n":1,"n":2)"), "invalid_json", "", "not valid JSON"},
      {"not_utf8", chat_body("\"user\":\"\xff\xfe\""), "invalid_json", "", "not valid JSON"},
      {"lone_surrogate", chat_body(R"("user":"\ud800")"), "invalid_json", "", "not valid JSON"},
      {"nan", chat_body(R"("temperature":NaN)"), "invalid_json", "", "not valid JSON"},
      {"no_messages", "{}", "invalid_value", "messages", "is missing"},
      {"null_messages", R"({"messages":null})", "invalid_value", "messages", "is missing"},
      {"no_message", R"({"messages":[]})", "invalid_value", "messages", "at least one"},
      {"messages_text", R"({"messages":"hi"})", "invalid_value", "messages", "must be a list"},
      {"message_text", R"({"messages":["hi"]})", "invalid_value", "messages[0]", "an object"},
      {"role_missing", R"({"messages":[{"content":"x"}]})", "invalid_value", "messages[0].role",
       "must be system"},
      {"role_unknown", R"({"messages":[{"role":"boss","content":"x"}]})", "invalid_value",
       "messages[0].role", "boss"},
      {"role_number", R"({"messages":[{"role":1,"content":"x"}]})", "invalid_value",
       "messages[0].role", "a string"},
      {"role_function", R"({"messages":[{"role":"function","content":"x"}]})",
       "unsupported_parameter", "messages[0].role", "not supported yet"},
      {"tool_without_content", R"({"messages":[{"role":"tool","tool_call_id":"c"}]})",
       "invalid_value", "messages[0].content", "is missing"},
      {"second_message", R"({"messages":[{"role":"user","content":"x"},{"role":"user"}]})",
       "invalid_value", "messages[1].content", "is missing"},
      {"content_null", R"({"messages":[{"role":"user","content":null}]})", "invalid_value",
       "messages[0].content", "is missing"},
      {"content_number", R"({"messages":[{"role":"user","content":5}]})", "invalid_value",
       "messages[0].content", "a string"},
      {"content_image",
       R"({"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]})",
       "unsupported_parameter", "messages[0].content", "image_url"},
      {"content_part_without_text", R"({"messages":[{"role":"user","content":[{"type":"text"}]}]})",
       "invalid_value", "messages[0].content", "text part"},
      {"content_part_string", R"({"messages":[{"role":"user","content":["x"]}]})", "invalid_value",
       "messages[0].content", "must hold objects"},
      {"tool_calls_text", R"({"messages":[{"role":"assistant","tool_calls":"x"}]})",
       "invalid_value", "messages[0].tool_calls", "a list"},
      {"tool_call_text", R"({"messages":[{"role":"assistant","tool_calls":["x"]}]})",
       "invalid_value", "messages[0].tool_calls[0]", "an object"},
      {"tool_call_without_function", R"({"messages":[{"role":"assistant","tool_calls":[{}]}]})",
       "invalid_value", "messages[0].tool_calls[0].function", "is missing"},
      {"tool_call_type",
       R"({"messages":[{"role":"assistant","tool_calls":[{"type":"custom","function":{}}]}]})",
       "unsupported_parameter", "messages[0].tool_calls[0].type", "custom"},
      {"tool_call_name",
       R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"a b"}}]}]})",
       "invalid_value", "messages[0].tool_calls[0].function.name", "letters"},
      {"tool_call_arguments",
       R"({"messages":[{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":5}}]}]})",
       "invalid_value", "messages[0].tool_calls[0].function.arguments", "a string"},
      {"tool_calls_of_user",
       R"({"messages":[{"role":"user","content":"","tool_calls":[{"function":{"name":"f"}}]}]})",
       "invalid_value", "messages[0].tool_calls", "assistant only"},
      {"reasoning_number", R"({"messages":[{"role":"assistant","reasoning_content":1}]})",
       "invalid_value", "messages[0].reasoning_content", "a string"},
      with("tools_object", R"("tools":{})", "tools", "a list"),
      with("tool_without_function", R"("tools":[{"type":"function"}])", "tools[0].function",
           "is missing"),
      with("tool_without_name", R"("tools":[{"type":"function","function":{}}])",
           "tools[0].function.name", "letters"),
      with("tool_parameters_text",
           R"("tools":[{"type":"function","function":{"name":"f","parameters":"x"}}])",
           "tools[0].function.parameters", "an object"),
      with("tool_twice", R"("tools":[{"function":{"name":"f"}},{"function":{"name":"f"}}])",
           "tools[1].function.name", "another tool"),
      with(
          "tools_many",
          [] {
            std::string text = R"("tools":[{})";
            for (int i = 0; i < 128; ++i) text += ",{}";
            return text + "]";
          }()
              .c_str(),
          "tools", "at most 128"),
      with("tool_choice_word", R"("tool_choice":"always")", "tool_choice", "\"none\", \"auto\""),
      with("parallel_text", R"("parallel_tool_calls":"no")", "parallel_tool_calls",
           "true or false"),
      with("model_number", R"("model":7)", "model", "a string"),
      with("temperature_low", R"("temperature":-0.1)", "temperature", "between 0 and 2"),
      with("temperature_high", R"("temperature":2.01)", "temperature", "between 0 and 2"),
      with("temperature_text", R"("temperature":"1")", "temperature", "a number"),
      with("temperature_bool", R"("temperature":true)", "temperature", "a number"),
      with("temperature_huge", R"("temperature":1e300)", "temperature", "between 0 and 2"),
      with("top_p_zero", R"("top_p":0)", "top_p", "greater than 0"),
      with("top_p_high", R"("top_p":1.5)", "top_p", "between 0 and 1"),
      with("min_p_high", R"("min_p":1.5)", "min_p", "between 0 and 1"),
      with("top_k_low", R"("top_k":-2)", "top_k", "between -1"),
      with("top_k_fraction", R"("top_k":1.5)", "top_k", "an integer"),
      with("seed_text", R"("seed":"1")", "seed", "an integer"),
      with("seed_beyond_int64", R"("seed":9223372036854775808)", "seed", "between"),
      with("n_zero", R"("n":0)", "n", "between 1 and 16"),
      with("n_high", R"("n":17)", "n", "between 1 and 16"),
      with("max_tokens_zero", R"("max_tokens":0)", "max_tokens", "between 1"),
      with("max_tokens_negative", R"("max_tokens":-1)", "max_tokens", "between 1"),
      with("max_tokens_huge", R"("max_tokens":99999999999)", "max_tokens", "between 1"),
      with("max_completion_tokens_text", R"("max_completion_tokens":"5")", "max_completion_tokens",
           "an integer"),
      with("stop_number", R"("stop":5)", "stop", "a string or a list"),
      with("stop_empty", R"("stop":"")", "stop", "1 to 1024 bytes"),
      with("stop_mixed", R"("stop":["a",1])", "stop", "1 to 1024 bytes"),
      with("stop_many",
           R"("stop":["1","2","3","4","5","6","7","8","9","0","1","2","3","4","5","6","7"])",
           "stop", "at most 16"),
      with("stop_long", ("\"stop\":\"" + std::string(1025, 'x') + "\"").c_str(), "stop", "1024"),
      with("stop_token_ids", R"("stop_token_ids":[-1])", "stop_token_ids", "token ids"),
      with("presence_low", R"("presence_penalty":-2.1)", "presence_penalty", "between -2 and 2"),
      with("presence_text", R"("presence_penalty":"0")", "presence_penalty", "a number"),
      with("frequency_high", R"("frequency_penalty":2.1)", "frequency_penalty", "between -2 and 2"),
      with("repetition_zero", R"("repetition_penalty":0)", "repetition_penalty",
           "between 0.01 and 100"),
      with("repetition_high", R"("repetition_penalty":101)", "repetition_penalty",
           "between 0.01 and 100"),
      with("logit_bias_list", R"("logit_bias":[1])", "logit_bias", "an object"),
      with("logit_bias_word", R"("logit_bias":{"cat":1})", "logit_bias", "token ids"),
      with("logit_bias_negative", R"("logit_bias":{"-1":1})", "logit_bias", "token ids"),
      with("logit_bias_huge_id", R"("logit_bias":{"99999999999":1})", "logit_bias", "token ids"),
      with("logit_bias_empty_id", R"("logit_bias":{"":1})", "logit_bias", "token ids"),
      with("logit_bias_high", R"("logit_bias":{"1":100.5})", "logit_bias", "between -100 and 100"),
      with("logit_bias_text", R"("logit_bias":{"1":"x"})", "logit_bias", "between -100 and 100"),
      with("logit_bias_null", R"("logit_bias":{"1":null})", "logit_bias", "between -100 and 100"),
      with("logit_bias_twice", R"("logit_bias":{"7":1,"07":2})", "logit_bias", "two entries"),
      with(
          "logit_bias_many",
          [] {
            std::string text = "\"logit_bias\":{\"0\":1";
            for (int i = 1; i < 1025; ++i) text += ",\"" + std::to_string(i) + "\":1";
            return text + "}";
          }()
              .c_str(),
          "logit_bias", "at most 1024"),
      with("allowed_empty", R"("allowed_token_ids":[])", "allowed_token_ids", "not be empty"),
      with("allowed_negative", R"("allowed_token_ids":[-1])", "allowed_token_ids", "token ids"),
      with("min_tokens_negative", R"("min_tokens":-1)", "min_tokens", "between 0"),
      with("min_tokens_fraction", R"("min_tokens":1.5)", "min_tokens", "an integer"),
      with("bad_words_number", R"("bad_words":5)", "bad_words", "a string or a list"),
      with("bad_words_empty", R"("bad_words":[""])", "bad_words", "1 to 256 bytes"),
      with("bad_words_long", ("\"bad_words\":\"" + std::string(257, 'x') + "\"").c_str(),
           "bad_words", "1 to 256 bytes"),
      with("logprobs_number", R"("logprobs":5)", "logprobs", "true or false"),
      with("top_logprobs_alone", R"("top_logprobs":3)", "top_logprobs", "needs"),
      with("top_logprobs_high", R"("logprobs":true,"top_logprobs":21)", "top_logprobs",
           "between 0 and 20"),
      with("stream_text", R"("stream":"yes")", "stream", "true or false"),
      with("stream_options_alone", R"("stream_options":{})", "stream_options", "only together"),
      with("stream_options_list", R"("stream":true,"stream_options":[])", "stream_options",
           "an object"),
      with("include_usage_text", R"("stream":true,"stream_options":{"include_usage":"y"})",
           "stream_options.include_usage", "true or false"),
      with("ignore_eos_number", R"("ignore_eos":1)", "ignore_eos", "true or false"),
      with("kwargs_text", R"("chat_template_kwargs":"x")", "chat_template_kwargs", "an object"),
      with("thinking_text", R"("chat_template_kwargs":{"thinking":"x"})",
           "chat_template_kwargs.thinking", "true or false"),
      with("response_format_text", R"("response_format":"json")", "response_format", "an object"),
      {"response_format_type", chat_body(R"("response_format":{"type":"xml"})"),
       "unsupported_parameter", "response_format.type", "json_schema"},
      with("response_format_empty", R"("response_format":{"type":"json_schema"})",
           "response_format.json_schema", "missing"),
      with("response_format_no_schema",
           R"("response_format":{"type":"json_schema","json_schema":{"name":"x"}})",
           "response_format.json_schema.schema", "missing"),
      with("response_format_keyword",
           R"("response_format":{"type":"json_schema","json_schema":{"schema":)"
           R"({"properties":{"a":{"not":{}}}}}})",
           "response_format.json_schema.schema", "keyword \"not\""),
      with("response_format_schema", R"("response_format":{"type":"json_object","schema":7})",
           "response_format.schema", "a JSON schema"),
      with("structured_json", R"("structured_outputs":{"json":{"type":"float"}})",
           "structured_outputs.json", "unknown type"),
      with("structured_regex", R"("structured_outputs":{"regex":"a("})", "structured_outputs.regex",
           "byte 1"),
      with("structured_choice", R"("structured_outputs":{"choice":["a",""]})",
           "structured_outputs.choice", "strings of 1 to"),
      with("structured_grammar", R"("structured_outputs":{"grammar":"a ::= 'b'"})",
           "structured_outputs.grammar", "root"),
      with("structured_two", R"("structured_outputs":{"regex":"a","choice":["b"]})",
           "structured_outputs.choice", "`structured_outputs.regex`"),
      with("grammar_two", R"("response_format":{"type":"json_object"},"guided_regex":"a")",
           "guided_regex", "`response_format.type`"),
      unsupported("structural_tag", R"("structured_outputs":{"structural_tag":"{}"})",
                  "structured_outputs.structural_tag"),
      unsupported("whitespace_pattern", R"("guided_whitespace_pattern":" ")",
                  "guided_whitespace_pattern"),
      with("guided_json", R"("guided_json":"{")", "guided_json", "not valid JSON"),
      with("guided_json_number", R"("guided_json":1)", "guided_json", "a JSON schema"),
      with("guided_regex_explodes", R"("guided_regex":"(a|b)*a(a|b){30}")", "guided_regex",
           "more than 49152"),
      with("guided_choice", R"("guided_choice":{})", "guided_choice", "list of strings"),
      with("guided_grammar", R"("guided_grammar":"root ::= root")", "guided_grammar",
           "left recursion"),
      with("sglang_json", R"("json_schema":"[]")", "json_schema", "a schema is an object"),
      with("sglang_regex", R"("regex":"")", "regex", "empty"),
      with("sglang_ebnf", R"("ebnf":3)", "ebnf", "a string"),
      with("grammar_ignore_eos", R"("regex":"a","ignore_eos":true)", "ignore_eos", "`regex`"),
      {"grammar_of_a_megabyte", chat_body("\"regex\":\"" + std::string(1U << 20, 'a') + "\""),
       "invalid_value", "regex", "longer than 262144 bytes"},
      {"best_of", chat_body(R"("best_of":2)"), "unsupported_parameter", "best_of", "equal to `n`"},
      unsupported("tool_type", R"("tools":[{"type":"web_search"}])", "tools[0].type"),
      with("tool_choice", R"("tool_choice":"required")", "tool_choice", "`tools` has none"),
      with("tool_choice_named", R"("tool_choice":{"type":"function","function":{"name":"f"}})",
           "tool_choice.function.name", "none of the tools"),
      with("tool_choice_nameless", R"("tool_choice":{"type":"function"})", "tool_choice.function",
           "missing"),
      unsupported("tool_choice_type", R"("tool_choice":{"type":"allowed_tools"})",
                  "tool_choice.type"),
      unsupported("include_reasoning", R"("include_reasoning":false)", "include_reasoning"),
      unsupported("functions", R"("functions":[{}])", "functions"),
      with("prompt_logprobs_high", R"("prompt_logprobs":21)", "prompt_logprobs", "0 and 20"),
      unsupported("length_penalty", R"("length_penalty":0.5)", "length_penalty"),
      unsupported("beam_search", R"("use_beam_search":true)", "use_beam_search"),
      unsupported("continue_final", R"("continue_final_message":true)", "continue_final_message"),
  };
}

INSTANTIATE_TEST_SUITE_P(OpenaiRequest, BadChat, ::testing::ValuesIn(bad_chats()),
                         [](const auto& info) { return std::string(info.param.name); });

class BadCompletion : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadCompletion, IsRefusedWithTheFieldAtFault) {
  const auto parsed = parse_completion_request(GetParam().body, {});
  ASSERT_TRUE(std::holds_alternative<ApiError>(parsed)) << GetParam().body;
  expect_error(std::get<ApiError>(parsed), GetParam());
}

std::vector<BadCase> bad_completions() {
  std::string many = R"({"n":16,"prompt":["a")";
  for (int i = 0; i < 8; ++i) many += ",\"a\"";
  many += "]}";
  return {
      {"no_prompt", "{}", "invalid_value", "prompt", "is missing"},
      {"prompt_number", R"({"prompt":5})", "invalid_value", "prompt", "must be a string"},
      {"prompt_empty_list", R"({"prompt":[]})", "invalid_value", "prompt", "must be a string"},
      {"prompt_mixed", R"({"prompt":["a",1]})", "invalid_value", "prompt", "mixes strings"},
      {"prompt_mixed_lists", R"({"prompt":[[1],2]})", "invalid_value", "prompt", "mixes lists"},
      {"prompt_empty_tokens", R"({"prompt":[[]]})", "invalid_value", "prompt", "empty list"},
      {"prompt_negative", R"({"prompt":[-1]})", "invalid_value", "prompt", "token ids"},
      {"prompt_fraction", R"({"prompt":[1.5]})", "invalid_value", "prompt", "token ids"},
      {"prompt_beyond_int32", R"({"prompt":[2147483648]})", "invalid_value", "prompt", "token ids"},
      {"prompt_bool", R"({"prompt":[true]})", "invalid_value", "prompt", "token ids"},
      {"too_many", many, "invalid_value", "prompt", "asks for 144 answers"},
      {"logprobs_bool", R"({"prompt":"a","logprobs":true})", "invalid_value", "logprobs",
       "an integer"},
      {"logprobs_high", R"({"prompt":"a","logprobs":21})", "invalid_value", "logprobs", "0 and 20"},
      {"suffix", R"({"prompt":"a","suffix":"b"})", "unsupported_parameter", "suffix",
       "not supported yet"},
      {"nothing_wanted", R"({"prompt":"a","max_tokens":0})", "invalid_value", "max_tokens",
       "1 and"},
  };
}

INSTANTIATE_TEST_SUITE_P(OpenaiRequest, BadCompletion, ::testing::ValuesIn(bad_completions()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(OpenaiRequest, ScoresThePromptForItsLogprobsAndForAnEcho) {
  const auto parse = [](const std::string& fields) {
    auto parsed = parse_completion_request(R"({"prompt":"a",)" + fields + "}", {});
    EXPECT_TRUE(std::holds_alternative<CompletionRequest>(parsed)) << fields;
    return std::get<CompletionRequest>(std::move(parsed));
  };
  const auto wanted = [&](const std::string& fields) {
    return parse(fields).generation.sampling.num_prompt_logprobs;
  };
  EXPECT_EQ(wanted(R"("logprobs":2)"), std::nullopt);
  EXPECT_EQ(wanted(R"("echo":true)"), std::nullopt);
  EXPECT_EQ(wanted(R"("echo":true,"logprobs":0)"), 0U);
  EXPECT_EQ(wanted(R"("echo":true,"logprobs":2,"prompt_logprobs":5)"), 5U);
  EXPECT_EQ(wanted(R"("echo":true,"logprobs":7,"prompt_logprobs":5)"), 7U);
  EXPECT_EQ(parse(R"("logprobs":7,"prompt_logprobs":5)").generation.num_prompt_logprobs, 5U);
  const CompletionRequest scored = parse(R"("echo":true,"logprobs":1,"max_tokens":0)");
  EXPECT_TRUE(scored.echo_only);
  EXPECT_EQ(scored.generation.max_tokens, 1U);
  EXPECT_FALSE(parse(R"("echo":true,"max_tokens":1)").echo_only);
}

TEST(OpenaiRequest, HasOpenaisDefaults) {
  const auto request = parse_good_chat(chat_body(""));
  const auto& generation = request.generation;
  EXPECT_EQ(generation.sampling.temperature, 1.0F);
  EXPECT_EQ(generation.sampling.top_p, 1.0F);
  EXPECT_EQ(generation.sampling.top_k, 0);
  EXPECT_EQ(generation.num_choices, 1U);
  EXPECT_FALSE(generation.max_tokens.has_value());
  EXPECT_FALSE(generation.has_seed);
  EXPECT_FALSE(generation.stream);
  EXPECT_TRUE(request.add_generation_prompt);
  EXPECT_FALSE(request.thinking);
  EXPECT_TRUE(generation.ignored_fields.empty());
}

TEST(OpenaiRequest, ReadsEveryChatField) {
  const auto request = parse_good_chat(chat_body(
      R"("model":"m","temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"seed":-7,"n":3,)"
      R"("max_tokens":9,"max_completion_tokens":11,"stop":["a","b"],"stop_token_ids":[4],)"
      R"("logprobs":true,"top_logprobs":5,"stream":true,"ignore_eos":true,)"
      R"("stream_options":{"include_usage":true,"continuous_usage_stats":true},)"
      R"("include_stop_str_in_output":true,"skip_special_tokens":false,)"
      R"("chat_template_kwargs":{"thinking":true},"add_generation_prompt":false)"));
  const auto& generation = request.generation;
  EXPECT_EQ(generation.model, "m");
  EXPECT_EQ(generation.sampling.temperature, 0.5F);
  EXPECT_EQ(generation.sampling.top_p, 0.9F);
  EXPECT_EQ(generation.sampling.top_k, 40);
  EXPECT_EQ(generation.sampling.min_p, 0.05F);
  EXPECT_EQ(static_cast<int64_t>(generation.sampling.seed), -7);
  EXPECT_TRUE(generation.has_seed);
  EXPECT_EQ(generation.num_choices, 3U);
  EXPECT_EQ(generation.max_tokens, 11U);
  EXPECT_THAT(generation.stop, ElementsAre("a", "b"));
  EXPECT_THAT(generation.stop_token_ids, ElementsAre(4));
  EXPECT_TRUE(generation.sampling.want_logprobs);
  EXPECT_EQ(generation.sampling.num_top_logprobs, 5U);
  EXPECT_TRUE(generation.stream);
  EXPECT_TRUE(generation.include_usage);
  EXPECT_TRUE(generation.continuous_usage);
  EXPECT_TRUE(generation.ignore_eos);
  EXPECT_TRUE(generation.include_stop);
  EXPECT_FALSE(generation.skip_special_tokens);
  EXPECT_TRUE(request.thinking);
  EXPECT_FALSE(request.add_generation_prompt);
}

TEST(OpenaiRequest, ReadsEverySamplingField) {
  const auto generation =
      parse_good_completion(
          R"({"prompt":"x","presence_penalty":-2,"frequency_penalty":0.5,)"
          R"("repetition_penalty":1.25,"logit_bias":{"30":-100,"4":1.5},"min_tokens":7,)"
          R"("allowed_token_ids":[9,2,9],"bad_words":["no","never ever"],"stop_token_ids":[3]})")
          .generation;
  const auto& sampling = generation.sampling;
  EXPECT_EQ(sampling.presence_penalty, -2.0F);
  EXPECT_EQ(sampling.frequency_penalty, 0.5F);
  EXPECT_EQ(sampling.repetition_penalty, 1.25F);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(std::pair(4, 1.5F), std::pair(30, -100.0F)));
  EXPECT_EQ(sampling.min_tokens, 7U);
  EXPECT_THAT(sampling.allowed_token_ids, ElementsAre(2, 9));
  EXPECT_THAT(generation.bad_words, ElementsAre("no", "never ever"));
  EXPECT_THAT(generation.stop_token_ids, ElementsAre(3));
  EXPECT_TRUE(model::validate(sampling).ok());
}

TEST(OpenaiRequest, NullMeansUnset) {
  const auto request = parse_good_chat(chat_body(
      R"("model":null,"temperature":null,"top_p":null,"seed":null,"n":null,"max_tokens":null,)"
      R"("stop":null,"logprobs":null,"top_logprobs":null,"stream":null,"stream_options":null,)"
      R"("tools":null,"tool_choice":null,"response_format":null,"logit_bias":null,)"
      R"("frequency_penalty":null,"repetition_penalty":null,"min_tokens":null,"bad_words":null,)"
      R"("allowed_token_ids":null,"unheard_of":null)"));
  EXPECT_EQ(request.generation.sampling.temperature, 1.0F);
  EXPECT_FALSE(request.generation.model.has_value());
  EXPECT_TRUE(request.generation.ignored_fields.empty());
}

TEST(OpenaiRequest, AcceptsUnsupportedFieldsThatAskForNothing) {
  parse_good_chat(chat_body(
      R"("tools":[],"tool_choice":"auto","frequency_penalty":0,"presence_penalty":0.0,)"
      R"("repetition_penalty":1,"logit_bias":{},"response_format":{"type":"text"},"best_of":1,)"
      R"("structured_outputs":{},"guided_choice":[],"guided_json":null,)"
      R"("use_beam_search":false,"user":"me","metadata":{"a":"b"},"parallel_tool_calls":true)"));
}

struct GrammarCase {
  const char* fields;
  model::GrammarSpec spec;
  const char* field;
};

TEST(OpenaiRequest, ReadsAGrammarUnderEachOfItsNames) {
  using Kind = model::GrammarSpec::Kind;
  const std::string schema = R"({"type":"object","properties":{"b":{},"a":{}}})";
  const std::vector<GrammarCase> cases = {
      {R"("response_format":{"type":"json_object"})",
       {.kind = Kind::kJsonObject},
       "response_format.type"},
      {R"("response_format":{"type":"json_object","schema":{"type":"object",)"
       R"("properties":{"b":{},"a":{}}}})",
       {.kind = Kind::kJsonSchema, .text = schema},
       "response_format.schema"},
      {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","strict":false,)"
       R"("schema":{"type":"object","properties":{"b":{},"a":{}}}}})",
       {.kind = Kind::kJsonSchema, .text = schema},
       "response_format.json_schema.schema"},
      {R"("structured_outputs":{"json":{"type":"object","properties":{"b":{},"a":{}}}})",
       {.kind = Kind::kJsonSchema, .text = schema},
       "structured_outputs.json"},
      {R"("structured_outputs":{"regex":"[a-c]+"})",
       {.kind = Kind::kRegex, .text = "[a-c]+"},
       "structured_outputs.regex"},
      {R"("structured_outputs":{"choice":["b","a"],"json":null})",
       {.kind = Kind::kChoice, .choices = {"b", "a"}},
       "structured_outputs.choice"},
      {R"("structured_outputs":{"grammar":"root ::= 'a'"})",
       {.kind = Kind::kEbnf, .text = "root ::= 'a'"},
       "structured_outputs.grammar"},
      {R"("structured_outputs":{"json_object":true})",
       {.kind = Kind::kJsonObject},
       "structured_outputs.json_object"},
      {R"("guided_json":"true")", {.kind = Kind::kJsonSchema, .text = "true"}, "guided_json"},
      {R"("guided_regex":"a")", {.kind = Kind::kRegex, .text = "a"}, "guided_regex"},
      {R"("guided_choice":["a"])", {.kind = Kind::kChoice, .choices = {"a"}}, "guided_choice"},
      {R"("guided_grammar":"root ::= 'a'")",
       {.kind = Kind::kEbnf, .text = "root ::= 'a'"},
       "guided_grammar"},
      {R"("json_schema":"{}")", {.kind = Kind::kJsonSchema, .text = "{}"}, "json_schema"},
      {R"("regex":"a")", {.kind = Kind::kRegex, .text = "a"}, "regex"},
      {R"("ebnf":"root ::= 'a'")", {.kind = Kind::kEbnf, .text = "root ::= 'a'"}, "ebnf"},
  };
  for (const GrammarCase& one : cases) {
    const auto& generation = parse_good_chat(chat_body(one.fields)).generation;
    ASSERT_NE(generation.sampling.grammar, nullptr) << one.fields;
    EXPECT_EQ(*generation.sampling.grammar, one.spec) << one.fields;
    EXPECT_EQ(generation.grammar_field, one.field);
    EXPECT_TRUE(generation.ignored_fields.empty()) << one.fields;
  }
}

TEST(OpenaiRequest, ReadsWhichToolsAreForcedAndStrict) {
  const std::string tools =
      R"("tools":[{"function":{"name":"f","strict":true}},{"function":{"name":"g"}}])";
  const auto strict = parse_good_chat(chat_body(tools.c_str()));
  EXPECT_THAT(strict.strict_tools, ElementsAre("f"));
  EXPECT_FALSE(strict.tool_choice.is_forced);
  const auto none = parse_good_chat(chat_body((tools + R"(,"tool_choice":"none")").c_str()));
  EXPECT_TRUE(none.tools.empty());
  EXPECT_TRUE(none.strict_tools.empty());
  const auto required =
      parse_good_chat(chat_body((tools + R"(,"tool_choice":"required")").c_str()));
  EXPECT_TRUE(required.tool_choice.is_forced);
  EXPECT_EQ(required.tool_choice.name, "");
  const auto named = parse_good_chat(
      chat_body((tools + R"(,"tool_choice":{"type":"function","function":{"name":"g"}})").c_str()));
  EXPECT_TRUE(named.tool_choice.is_forced);
  EXPECT_EQ(named.tool_choice.name, "g");
}

TEST(OpenaiRequest, CollectsUnknownFieldsForTheLog) {
  const auto request = parse_good_chat(chat_body(R"("zap":1,"user":"me","zip":{})"));
  EXPECT_THAT(request.generation.ignored_fields, ElementsAre("zap", "zip"));
}

TEST(OpenaiRequest, JoinsTextPartsAndMapsRoles) {
  const auto request = parse_good_chat(
      R"({"messages":[{"role":"developer","content":"d"},)"
      R"({"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},)"
      R"({"role":"assistant","content":null},{"role":"user","content":"\u4e03"}]})");
  ASSERT_EQ(request.messages.size(), 4U);
  EXPECT_EQ(request.messages[0].role, model::ChatRole::kSystem);
  EXPECT_EQ(request.messages[1].content, "ab");
  EXPECT_EQ(request.messages[2].role, model::ChatRole::kAssistant);
  EXPECT_EQ(request.messages[2].content, "");
  EXPECT_EQ(request.messages[3].content, "七");
}

TEST(OpenaiRequest, ReadsToolsAndCalls) {
  const auto request = parse_good_chat(
      R"({"tools":[{"type":"function","function":{"name":"get-it_2.0","description":"d",)"
      R"("parameters":{"b":1,"a":[0.5]},"strict":false}},{"function":{"name":"g"}}],)"
      R"("tool_choice":"auto","parallel_tool_calls":false,"messages":[)"
      R"({"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"g",)"
      R"("arguments":"{ }"}},{"function":{"name":"g","arguments":{"x":[1]}}},)"
      R"({"function":{"name":"g"}}]},{"role":"tool","tool_call_id":"1","content":"r"}]})");
  ASSERT_EQ(request.tools.size(), 2U);
  EXPECT_EQ(request.tools[0].name, "get-it_2.0");
  EXPECT_EQ(request.tools[0].description, "d");
  EXPECT_EQ(request.tools[0].parameters, R"({"b": 1, "a": [0.5]})");
  EXPECT_EQ(request.tools[1].parameters, "{}");
  EXPECT_FALSE(request.parallel_tool_calls);
  const auto& calls = request.messages[0].tool_calls;
  ASSERT_EQ(calls.size(), 3U);
  EXPECT_EQ(calls[0].arguments, "{ }") << "as the model wrote them";
  EXPECT_EQ(calls[1].arguments, R"({"x": [1]})");
  EXPECT_EQ(calls[2].arguments, "{}");
  EXPECT_EQ(request.messages[1].role, model::ChatRole::kTool);
  EXPECT_EQ(request.messages[1].content, "r");
  EXPECT_TRUE(parse_good_chat(chat_body(R"("tools":[{"function":{"name":"f"}}],)"
                                        R"("tool_choice":"none")"))
                  .tools.empty());
}

TEST(OpenaiRequest, TakesIntegersWrittenWithAZeroFraction) {
  EXPECT_EQ(parse_good_chat(chat_body(R"("max_tokens":16.0)")).generation.max_tokens, 16U);
}

TEST(OpenaiRequest, PutsTheModelsDefaultsBeforeOpenais) {
  model::SamplingParams defaults;
  defaults.temperature = 0.3F;
  defaults.top_p = 0.8F;
  auto parsed = parse_chat_request(chat_body(R"("top_p":0.5)"), defaults);
  const auto& sampling = std::get<ChatRequest>(parsed).generation.sampling;
  EXPECT_EQ(sampling.temperature, 0.3F);
  EXPECT_EQ(sampling.top_p, 0.5F);
}

TEST(OpenaiRequest, TakesAllFourFormsOfAPrompt) {
  using Strings = std::vector<std::string>;
  using Lists = std::vector<std::vector<TokenId>>;
  EXPECT_EQ(std::get<Strings>(parse_good_completion(R"({"prompt":"a"})").prompts), Strings{"a"});
  EXPECT_EQ(std::get<Strings>(parse_good_completion(R"({"prompt":["a","b"]})").prompts),
            (Strings{"a", "b"}));
  EXPECT_EQ(std::get<Lists>(parse_good_completion(R"({"prompt":[1,2]})").prompts), (Lists{{1, 2}}));
  EXPECT_EQ(std::get<Lists>(parse_good_completion(R"({"prompt":[[1],[2,3]]})").prompts),
            (Lists{{1}, {2, 3}}));
}

TEST(OpenaiRequest, TakesCompletionLogprobsAsANumber) {
  const auto request = parse_good_completion(R"({"prompt":"a","logprobs":0})");
  EXPECT_TRUE(request.generation.sampling.want_logprobs);
  EXPECT_EQ(request.generation.sampling.num_top_logprobs, 0U);
}

TEST(OpenaiRequest, ReadsTokenizeAndDetokenize) {
  auto parsed = parse_tokenize_request(R"({"prompt":"x","add_special_tokens":false})");
  ASSERT_TRUE(std::holds_alternative<TokenizeRequest>(parsed));
  EXPECT_FALSE(std::get<TokenizeRequest>(parsed).add_special_tokens);
  parsed = parse_tokenize_request(R"({"messages":[{"role":"user","content":"x"}]})");
  ASSERT_TRUE(std::holds_alternative<TokenizeRequest>(parsed));
  EXPECT_TRUE(std::holds_alternative<ChatRequest>(std::get<TokenizeRequest>(parsed).input));
  EXPECT_TRUE(std::holds_alternative<ApiError>(parse_tokenize_request("{}")));
  EXPECT_TRUE(std::holds_alternative<ApiError>(parse_detokenize_request("{}")));
  EXPECT_TRUE(std::holds_alternative<ApiError>(parse_detokenize_request(R"({"tokens":["a"]})")));
  auto tokens = parse_detokenize_request(R"({"tokens":[3,1]})");
  EXPECT_THAT(std::get<DetokenizeRequest>(tokens).tokens, ElementsAre(3, 1));
}

}  // namespace
}  // namespace troupe::gateway
