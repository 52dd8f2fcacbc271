#include "model/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "base/check.hpp"

namespace troupe::model {
namespace {

Error system_error(Code code, const std::string& what, int number) {
  return Error{code, what + ": " + std::generic_category().message(number)};
}

Code code_of_open(int number) {
  switch (number) {
    case ENOENT:
    case ENOTDIR: return Code::kNotFound;
    case EMFILE:
    case ENFILE: return Code::kResourceExhausted;
    case EACCES:
    case ELOOP:
    case ENAMETOOLONG: return Code::kInvalidArgument;
    default: return Code::kInternal;
  }
}

}  // namespace

MappedFile::MappedFile(std::string path, std::shared_ptr<const int> descriptor, uint64_t size)
    : path_(std::move(path)), descriptor_(std::move(descriptor)), size_(size) {}

Result<MappedFile> MappedFile::open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must fail the check below instead of waiting for a writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return system_error(code_of_open(errno), "cannot open " + path, errno);
  }
  std::shared_ptr<const int> descriptor(new int(fd), [](const int* held) {
    ::close(*held);
    delete held;
  });
  struct stat status {};
  if (::fstat(fd, &status) != 0) {
    return system_error(Code::kInternal, "cannot examine " + path, errno);
  }
  if (!S_ISREG(status.st_mode)) {
    return Error{Code::kInvalidArgument, path + " is not a regular file"};
  }
  return MappedFile(path, std::move(descriptor), static_cast<uint64_t>(status.st_size));
}

Result<void> MappedFile::check_size() const {
  struct stat status {};
  if (::fstat(*descriptor_, &status) != 0) {
    return system_error(Code::kInternal, "cannot examine " + path_, errno);
  }
  if (static_cast<uint64_t>(status.st_size) != size_) {
    return Error{Code::kCorrupt, path_ + " had " + std::to_string(size_) +
                                     " bytes when it was opened and now has " +
                                     std::to_string(status.st_size) +
                                     "; replace checkpoints by rename, never in place"};
  }
  return {};
}

Result<std::vector<std::byte>> MappedFile::read(uint64_t begin, uint64_t end) const {
  CHECK_LE(begin, end);
  CHECK_LE(end, size_);
  TRY(check_size());
  std::vector<std::byte> bytes(end - begin);
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = ::pread(*descriptor_, bytes.data() + done, bytes.size() - done,
                                static_cast<off_t>(begin + done));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      return system_error(Code::kInternal, "cannot read " + path_, errno);
    }
    if (got == 0) {
      return Error{Code::kCorrupt,
                   path_ + " ended at byte " + std::to_string(begin + done) + " while it was read"};
    }
    done += static_cast<size_t>(got);
  }
  return bytes;
}

Result<std::shared_ptr<const std::byte>> MappedFile::map(uint64_t begin, uint64_t end) const {
  CHECK_LT(begin, end);
  CHECK_LE(end, size_);
  TRY(check_size());
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t first = begin / page * page;
  const size_t length = end - first;
  void* address =
      ::mmap(nullptr, length, PROT_READ, MAP_SHARED, *descriptor_, static_cast<off_t>(first));
  if (address == MAP_FAILED) {
    return system_error(Code::kResourceExhausted,
                        "cannot map " + std::to_string(length) + " bytes of " + path_, errno);
  }
  const std::shared_ptr<void> pages(address, [length](void* held) { ::munmap(held, length); });
  return std::shared_ptr<const std::byte>(pages,
                                          static_cast<const std::byte*>(address) + (begin - first));
}

Result<std::string> read_text_file(const std::string& path, uint64_t max_bytes) {
  const MappedFile file = TRY(MappedFile::open(path));
  if (file.size() > max_bytes) {
    return Error{Code::kInvalidArgument, path + " has " + std::to_string(file.size()) +
                                             " bytes, more than the limit of " +
                                             std::to_string(max_bytes)};
  }
  const std::vector<std::byte> bytes = TRY(file.read(0, file.size()));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace troupe::model
