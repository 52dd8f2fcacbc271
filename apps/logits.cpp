// troupe logits: the numbers behind a model's choices, for comparison with other implementations.

#include <cstdio>

#include "apps/command.hpp"
#include "apps/device_option.hpp"
#include "apps/local_options.hpp"

namespace troupe::apps {
namespace po = boost::program_options;

int run_logits(const Arguments& arguments) {
  CommandLine line{
      .usage = "troupe logits --model DIR --tokens IDS",
      .text =
          "Prints {\"tokens\":[...],\"logits\":[[...],...]}: one row per position, "
          "computed in float32.\n\n  troupe logits --model models/demo --tokens 0,5,7"};
  add_local_options(line.options);
  add_device_option(line.options);
  add_cuda_graphs_option(line.options);
  line.options.add_options()("tokens", po::value<std::string>()->required(), "token ids: 1,2,3");
  Values values;
  if (const auto code = line.parse(arguments, values)) return *code;
  const auto tokens = parse_tokens(values["tokens"].as<std::string>());
  if (!tokens.ok()) return fail(tokens.error());
  const auto local = load_local_model(values, /*guided=*/false, tokens->size());
  if (!local.ok()) return fail(local.error());
  std::string out = "{\"tokens\":" + json_array(*tokens) + ",\"logits\":[";
  const auto done = (*local)->logits(*tokens, [&](uint32_t position, std::span<const float> row) {
    out += position == 0 ? "[" : ",[";
    char number[32];
    for (size_t i = 0; i < row.size(); ++i) {
      std::snprintf(number, sizeof number, i == 0 ? "%.9g" : ",%.9g", static_cast<double>(row[i]));
      out += number;
    }
    out += "]";
    std::fwrite(out.data(), 1, out.size(), stdout);
    out.clear();
  });
  if (!done.ok()) return fail(done.error());
  std::printf("]}\n");
  return kSuccess;
}

}  // namespace troupe::apps
