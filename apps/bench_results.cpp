#include "apps/bench_results.hpp"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <ctime>

#include "apps/whole_file.hpp"
#include "base/kernel_file.hpp"
#include "base/parse.hpp"

namespace troupe::apps {
namespace po = boost::program_options;
namespace {

Result<uint32_t> within(const char* option, uint32_t number, uint32_t least, uint32_t most) {
  if (number >= least && number <= most) return number;
  return Error{Code::kInvalidArgument, std::string("--") + option + " must be between " +
                                           std::to_string(least) + " and " + std::to_string(most)};
}

}  // namespace

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &utc);
  return text;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string cpu_name() {
  const auto name = line_of("/proc/cpuinfo", "model name");
  return name.ok() ? *name : "";
}

Result<std::vector<uint32_t>> number_list(const Values& values, const char* option, uint32_t least,
                                          uint32_t most) {
  std::vector<uint32_t> numbers;
  const std::string text = values[option].as<std::string>();
  for (const std::string_view part : split(text, ',')) {
    const auto number = parse_number<uint32_t>(part);
    if (!number) {
      return Error{
          Code::kInvalidArgument,
          std::string("--") + option + " must be numbers such as 1,16, not \"" + text + "\""};
    }
    numbers.push_back(TRY(within(option, *number, least, most)));
  }
  return numbers;
}

Result<uint32_t> number_value(const Values& values, const char* option, uint32_t least,
                              uint32_t most) {
  return within(option, values[option].as<uint32_t>(), least, most);
}

void add_result_options(Options& options) {
  options.add_options()("format,o", po::value<std::string>()->default_value("md"),
                        "of the results: md, json or csv")(
      "output", po::value<std::string>()->default_value(""),
      "file for the results instead of standard output");
}

Result<ResultTarget> read_result_target(const Values& values) {
  ResultTarget target{
      .format = TRY(loadgen::parse_result_format(values["format"].as<std::string>())),
      .path = values["output"].as<std::string>()};
  if (!target.path.empty()) TRY(check_writable(target.path));
  return target;
}

Result<void> write_results(const ResultTarget& target, const loadgen::ResultTable& table) {
  const std::string text = loadgen::render(table, target.format);
  if (!target.path.empty()) return write_whole(target.path, text);
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
  return {};
}

MeasuringLine::MeasuringLine() : terminal_(isatty(STDERR_FILENO) != 0) {}

MeasuringLine::~MeasuringLine() {
  if (terminal_) std::fprintf(stderr, "\r\033[K");
}

void MeasuringLine::show(const std::string& text) {
  std::fprintf(stderr, terminal_ ? "\r\033[K%s" : "%s\n", text.c_str());
  std::fflush(stderr);
}

std::string formatted(const char* format, ...) {
  char text[256];
  va_list numbers;
  va_start(numbers, format);
  std::vsnprintf(text, sizeof text, format, numbers);
  va_end(numbers);
  return text;
}

}  // namespace troupe::apps
