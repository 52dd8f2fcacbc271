#include "apps/whole_file.hpp"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace troupe::apps {
namespace fs = std::filesystem;
namespace {

Error cannot_write(Code code, const std::string& path, const std::string& reason) {
  return Error{code, "cannot write " + path + ": " + reason};
}

/// The file itself, where the path is a link to it: the link shall stay one.
fs::path target_of(const std::string& path) {
  std::error_code failed;
  const fs::path target = fs::canonical(path, failed);
  return failed ? fs::path(path) : target;
}

/// A device or a pipe: nothing that a rename may replace.
bool is_special(const fs::path& target) {
  std::error_code ignored;
  return fs::exists(target, ignored) && !fs::is_regular_file(target, ignored);
}

/// Where the bytes are collected. Beside the target, because renames stay within a file system.
fs::path draft_of(const fs::path& target) {
  return target.string() + "." + std::to_string(getpid()) + ".part";
}

}  // namespace

Result<void> check_writable(const std::string& path) {
  const fs::path target = target_of(path);
  std::error_code ignored;
  if (fs::is_directory(target, ignored)) {
    return cannot_write(Code::kInvalidArgument, path, "it is a directory");
  }
  if (fs::exists(target, ignored) && ::access(target.c_str(), W_OK) != 0) {
    return cannot_write(Code::kInvalidArgument, path, std::strerror(errno));
  }
  if (is_special(target)) return {};
  const fs::path draft = draft_of(target);
  if (!std::ofstream(draft)) {
    return cannot_write(Code::kInvalidArgument, path, std::strerror(errno));
  }
  fs::remove(draft, ignored);
  return {};
}

Result<void> write_whole(const std::string& path, const std::string& text) {
  const fs::path target = target_of(path);
  const fs::path draft = is_special(target) ? target : draft_of(target);
  std::ofstream out(draft, std::ios::binary);
  out << text;
  out.close();
  std::error_code failed;
  if (!out) {
    failed.assign(errno != 0 ? errno : EIO, std::generic_category());
  } else if (draft != target) {
    std::error_code none_before;
    const fs::file_status before = fs::status(target, none_before);
    if (fs::exists(before)) fs::permissions(draft, before.permissions(), failed);
    if (!failed) fs::rename(draft, target, failed);
  }
  if (!failed) return {};
  std::error_code ignored;
  if (draft != target) fs::remove(draft, ignored);
  return cannot_write(Code::kResourceExhausted, path, failed.message());
}

}  // namespace troupe::apps
