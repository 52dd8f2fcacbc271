#include "base/kernel_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/parse.hpp"

namespace troupe {
namespace {

constexpr std::string_view kBlanks = " \t";

Error unreadable(const std::filesystem::path& file) {
  return {Code::kUnavailable, "cannot read " + file.string() + ": " + std::strerror(errno)};
}

Error lacks(const std::filesystem::path& file, std::string_view what) {
  return {Code::kUnavailable, file.string() + " has no " + std::string(what)};
}

std::string_view without_blanks(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(kBlanks), text.size()));
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

}  // namespace

Result<std::string> first_line(const std::filesystem::path& file) {
  std::ifstream in(file);
  if (!in) return unreadable(file);
  std::string line;
  if (!std::getline(in, line)) return lacks(file, "line");
  return line;
}

Result<std::string> line_of(const std::filesystem::path& file, std::string_view name) {
  std::ifstream in(file);
  if (!in) return unreadable(file);
  for (std::string line; std::getline(in, line);) {
    const size_t colon = line.find(':');
    if (colon != line.npos && without_blanks(std::string_view(line).substr(0, colon)) == name) {
      return std::string(without_blanks(std::string_view(line).substr(colon + 1)));
    }
  }
  return lacks(file, name);
}

Result<uint64_t> bytes_of(const std::filesystem::path& file, std::string_view name) {
  const std::string line = TRY(line_of(file, name));
  constexpr std::string_view kUnit = " kB";
  if (!line.ends_with(kUnit)) return lacks(file, std::string(name) + " in kB");
  const auto kib =
      parse_number<uint64_t>(std::string_view(line).substr(0, line.size() - kUnit.size()));
  if (!kib) return lacks(file, std::string(name) + " in kB");
  return *kib << 10;
}

}  // namespace troupe
