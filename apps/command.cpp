#include "apps/command.hpp"

#include <algorithm>
#include <numeric>

namespace troupe::apps {
namespace po = boost::program_options;

const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      {"up", "start a cluster on this machine and keep it running", run_up},
      {"status", "show a running cluster: nodes, experts, links, requests", run_status},
      {"experts", "show who holds which experts and their load; change it", run_experts},
      {"drain", "take a router out of service; its requests go on elsewhere", run_drain},
      {"undrain", "have a drained router take requests again", run_undrain},
      {"chat", "talk to a running cluster", run_chat},
      {"bench", "measure a running server, a model in this process, or the kernels", run_bench},
      {"head", "run the head of a cluster: gateway and scheduler", run_head},
      {"node", "run one node of a cluster: a router or an expert shard", run_node},
      {"generate", "generate text with a model in this process", run_generate},
      {"logits", "print a model's logits as JSON", run_logits},
      {"eval", "measure a model's accuracy on its held-out examples", run_eval},
      {"tokenize", "turn text into token ids", run_tokenize},
      {"detokenize", "turn token ids into text", run_detokenize},
      {"show", "describe a model: architecture, sizes, bytes", run_show},
      {"quantize", "write a model anew in fewer bits", run_quantize},
      {"make-model", "write a model of a real shape with random weights", run_make_model},
      {"config", "validate or show a cluster configuration", run_config},
      {"doctor", "look for what of this machine would stop a cluster or slow it", run_doctor},
      {"version", "print the version", run_version},
  };
  return all;
}

namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

int usage_error(const CommandLine& line, const std::string& message) {
  std::cerr << "troupe: " << message << "\nusage: " << line.usage
            << "\nRun it with --help for all options.\n";
  return kUsage;
}

/// The first option whose type has no sign and whose value has one: program_options would make
/// 4294967295 of -1.
const po::option* with_a_sign(const po::parsed_options& parsed, const Options& all) {
  for (const po::option& option : parsed.options) {
    const po::option_description* known = all.find_nothrow(option.string_key, false);
    if (known == nullptr || option.value.empty() || !option.value.front().starts_with('-'))
      continue;
    const po::value_semantic* type = known->semantic().get();
    if (dynamic_cast<const po::typed_value<uint32_t>*>(type) != nullptr ||
        dynamic_cast<const po::typed_value<uint64_t>*>(type) != nullptr) {
      return &option;
    }
  }
  return nullptr;
}

std::vector<std::string> option_names(const Options& options) {
  std::vector<std::string> names;
  for (const auto& option : options.options()) names.push_back("--" + option->long_name());
  return names;
}

}  // namespace

std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& names) {
  std::optional<std::string> best;
  size_t best_distance = word.size() / 3 + 2;
  for (const std::string& name : names) {
    const size_t distance = edit_distance(word, name);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

std::optional<int> CommandLine::parse(const Arguments& arguments, Values& values) const {
  Options all("Options");
  all.add(options);
  all.add_options()("help,h", "show this help");
  po::positional_options_description positions;
  for (const char* name : positional) positions.add(name, 1);
  try {
    const auto parsed = po::command_line_parser(arguments).options(all).positional(positions).run();
    if (const po::option* option = with_a_sign(parsed, all)) {
      return usage_error(*this, "--" + option->string_key + " must be a whole number, at least 0");
    }
    po::store(parsed, values);
    if (values.count("help") != 0) {
      std::cout << "usage: " << usage << "\n\n" << text << "\n\n" << all;
      return kSuccess;
    }
    po::notify(values);
  } catch (const po::unknown_option& unknown) {
    const auto meant = nearest(unknown.get_option_name(), option_names(all));
    return usage_error(
        *this, std::string(unknown.what()) + (meant ? "; did you mean '" + *meant + "'?" : ""));
  } catch (const po::error& error) {
    return usage_error(*this, error.what());
  }
  return std::nullopt;
}

int fail(const Error& error) {
  std::cerr << "troupe: " << error.message << '\n';
  switch (error.code) {
    case Code::kInvalidArgument:
    case Code::kNotFound: return kUsage;
    case Code::kUnavailable:
    case Code::kDeadlineExceeded: return kUnreachable;
    case Code::kCancelled: return kInterrupted;
    default: return kFailure;
  }
}

}  // namespace troupe::apps
