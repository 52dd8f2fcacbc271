// troupe tokenize and detokenize.

#include <cstdio>
#include <iterator>

#include "apps/command.hpp"
#include "apps/local_options.hpp"
#include "model/chat_format.hpp"
#include "model/tokenizer.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

std::string text_or_stdin(const Values& values, const char* name) {
  if (values.count(name) != 0) return values[name].as<std::string>();
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

Result<std::vector<TokenId>> encode(const model::Tokenizer& tokenizer, const Values& values) {
  const std::string text = text_or_stdin(values, "text");
  if (values.count("chat") == 0) {
    return tokenizer.encode(text, {.parse_special = values.count("plain") == 0,
                                   .add_special_tokens = values.count("add-special") != 0});
  }
  const model::ChatFormat format = TRY(model::ChatFormat::detect(tokenizer));
  const model::ChatMessage message{.content = text};
  return format.encode(tokenizer, {&message, 1});
}

}  // namespace

int run_tokenize(const Arguments& arguments) {
  CommandLine line{.usage = "troupe tokenize --model DIR [TEXT]",
                   .text =
                       "Prints the token ids of a text (standard input without TEXT), separated by "
                       "commas.\n\n  troupe tokenize --model models/demo 'Hello, 世界'",
                   .positional = {"text"}};
  line.options.add_options()("model,m", po::value<std::string>()->required(),
                             "checkpoint directory")("text", po::value<std::string>(), "the text")(
      "plain", "do not recognise special tokens written in the text")(
      "add-special", "add what the tokenizer adds by itself (BOS)")(
      "chat", "as a user's message in the model's chat format")(
      "json", "print {\"tokens\":[...],\"pieces\":[...]}");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto tokenizer = model::Tokenizer::load(values["model"].as<std::string>());
  if (!tokenizer.ok()) return fail(tokenizer.error());
  const auto tokens = encode(*tokenizer, values);
  if (!tokens.ok()) return fail(tokens.error());
  std::string out = json_array(*tokens);
  if (values.count("json") != 0) {
    std::string pieces;
    for (const TokenId token : *tokens) {
      pieces += (pieces.empty() ? "" : ",") + json_string(tokenizer->decode({&token, 1}, false));
    }
    out = "{\"tokens\":" + out + ",\"pieces\":[" + pieces + "]}";
  } else {
    out = out.substr(1, out.size() - 2);
  }
  std::printf("%s\n", out.c_str());
  return kSuccess;
}

int run_detokenize(const Arguments& arguments) {
  CommandLine line{.usage = "troupe detokenize --model DIR IDS",
                   .text =
                       "Prints the text of token ids.\n\n  troupe detokenize --model models/demo "
                       "17,4,99",
                   .positional = {"tokens"}};
  line.options.add_options()("model,m", po::value<std::string>()->required(),
                             "checkpoint directory")("tokens", po::value<std::string>()->required(),
                                                     "token ids: 1,2,3")(
      "skip-special", "leave special tokens out")("json", "print {\"text\":...}");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto tokenizer = model::Tokenizer::load(values["model"].as<std::string>());
  if (!tokenizer.ok()) return fail(tokenizer.error());
  const auto tokens = parse_tokens(values["tokens"].as<std::string>());
  if (!tokens.ok()) return fail(tokens.error());
  const std::string text = tokenizer->decode(*tokens, values.count("skip-special") != 0);
  if (values.count("json") != 0) {
    std::printf("{\"text\":%s}\n", json_string(text).c_str());
  } else {
    std::printf("%s\n", text.c_str());
  }
  return kSuccess;
}

}  // namespace troupe::apps
