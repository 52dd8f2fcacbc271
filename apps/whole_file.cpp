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

/// A device or a pipe: nothing that a rename may replace.
bool is_special(const fs::path& target) {
  std::error_code ignored;
  return fs::exists(target, ignored) && !fs::is_regular_file(target, ignored);
}

/// Where the bytes are collected. Beside the target, because renames stay within a file system.
fs::path draft_of(const fs::path& target) {
  return target.string() + "." + std::to_string(getpid()) + ".part";
}

/// What keeps it from being written, as errno says it; 0 if nothing does.
int write(const fs::path& to, const std::string& text) {
  errno = 0;
  std::ofstream out(to, std::ios::binary);
  out << text;
  out.close();
  return out ? 0 : errno != 0 ? errno : EIO;
}

Error cannot_write(const std::string& path, int failure) {
  return cannot_write(Code::kResourceExhausted, path, std::strerror(failure));
}

}  // namespace

fs::path file_of(const std::string& path) {
  constexpr int kMaxLinks = 40;  // as in Linux
  fs::path file = path;
  std::error_code failed;
  for (int i = 0; i < kMaxLinks && !fs::exists(file, failed) && fs::is_symlink(file, failed); ++i) {
    file = file.parent_path() / fs::read_symlink(file, failed);
  }
  const fs::path absolute = fs::absolute(file, failed);
  const fs::path canonical = failed ? file : fs::weakly_canonical(absolute, failed);
  return failed ? file : canonical;  // a pipe of /dev/stdout has no path of its own
}

Result<void> check_writable(const std::string& path) {
  const fs::path target = file_of(path);
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
  const fs::path target = file_of(path);
  if (is_special(target)) {
    if (const int failure = write(target, text); failure != 0) return cannot_write(path, failure);
    return {};
  }
  const fs::path draft = draft_of(target);
  std::error_code ignored;
  if (const int failure = write(draft, text); failure != 0) {
    fs::remove(draft, ignored);
    return cannot_write(path, failure);
  }
  const fs::file_status before = fs::status(target, ignored);
  if (fs::exists(before)) fs::permissions(draft, before.permissions(), ignored);
  std::error_code failed;
  fs::rename(draft, target, failed);
  if (!failed) return {};
  if (const int failure = write(target, text); failure != 0) {
    return cannot_write(path, failure).with_context(draft.string() + " has the text");
  }
  fs::remove(draft, ignored);
  return {};
}

}  // namespace troupe::apps
