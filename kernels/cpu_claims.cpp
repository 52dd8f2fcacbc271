#include "kernels/cpu_claims.hpp"

#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <thread>

#include "base/kernel_file.hpp"
#include "base/parse.hpp"
#include "kernels/cpu_choice.hpp"

namespace troupe::kernels {
namespace {

namespace fs = std::filesystem;

/// Reading some hundred small files takes milliseconds, and as many processes may start at once.
constexpr auto kPatience = std::chrono::seconds(1);
constexpr auto kRetry = std::chrono::milliseconds(2);

Error refused(const std::string& what) {
  return {Code::kUnavailable, what + ": " + std::strerror(errno)};
}

/// Ids of a list such as "0-3,8"; nothing if it cannot be read.
std::vector<uint32_t> read_list(const fs::path& path) {
  const auto text = first_line(path);
  if (!text.ok()) return {};
  std::vector<uint32_t> ids;
  for (const std::string_view range : split(*text, ',')) {
    const size_t dash = std::min(range.find('-'), range.size());
    const auto first = parse_number<uint32_t>(range.substr(0, dash));
    const auto last = dash == range.size() ? first : parse_number<uint32_t>(range.substr(dash + 1));
    if (!first || !last || *last >= CPU_SETSIZE) return {};
    for (uint32_t id = *first; id <= *last; ++id) ids.push_back(id);
  }
  return ids;
}

/// Where the kernel does not tell, each CPU is a core, and all lie at node 0.
Result<std::vector<Cpu>> usable_cpus(const fs::path& system) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    return refused("cannot read which CPUs this process may use");
  }
  std::vector<Cpu> cpus;
  for (uint32_t id = 0; id < CPU_SETSIZE; ++id) {
    if (!CPU_ISSET(id, &allowed)) continue;
    const auto siblings =
        read_list(system / "cpu" / ("cpu" + std::to_string(id)) / "topology/thread_siblings_list");
    cpus.push_back({.id = id, .core = siblings.empty() ? id : siblings.front()});
  }
  for (const uint32_t node : read_list(system / "node/online")) {
    for (const uint32_t id :
         read_list(system / "node" / ("node" + std::to_string(node)) / "cpulist")) {
      const auto cpu = std::ranges::find(cpus, id, &Cpu::id);
      if (cpu != cpus.end()) cpu->node = node;
    }
  }
  return cpus;
}

}  // namespace

/// A file that one open descriptor at a time can lock; open as long as this lives.
class FileLock {
 public:
  explicit FileLock(int file) : file_(file) {}
  ~FileLock() { close(file_); }
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

  /// Makes the file if there is none. All users may open it: reading is enough to lock.
  static Result<std::unique_ptr<FileLock>> open(const fs::path& path) {
    constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    int file = ::open(path.c_str(), kFlags);
    if (file < 0 && errno == ENOENT) {
      file = ::open(path.c_str(), kFlags | O_CREAT | O_EXCL, 0644);
      if (file >= 0) fchmod(file, 0644);  // whatever the umask says
      if (file < 0 && errno == EEXIST) file = ::open(path.c_str(), kFlags);
    }
    if (file < 0) return refused("cannot open " + path.string());
    return std::make_unique<FileLock>(file);
  }

  [[nodiscard]] bool try_lock() { return flock(file_, LOCK_EX | LOCK_NB) == 0; }

 private:
  int file_;
};

namespace {

/// Held by the one process that looks at the CPUs: two that try locks at once would find each
/// other's taken.
Result<std::unique_ptr<FileLock>> wait_for_turn(const fs::path& directory) {
  auto turn = TRY(FileLock::open(directory / "troupe-cpus.lock"));
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!turn->try_lock()) {
    if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() > deadline) {
      return refused("cannot lock " + (directory / "troupe-cpus.lock").string());
    }
    std::this_thread::sleep_for(kRetry);
  }
  return turn;
}

/// Of what this thread, and those that it starts, are the first to touch. Refused, as in containers
/// without CAP_SYS_NICE, it lies where they touch it.
void interleave_memory(const std::set<uint32_t>& nodes) {
  constexpr size_t kBits = 8 * sizeof(unsigned long);
  std::vector<unsigned long> mask(*nodes.rbegin() / kBits + 1);
  for (const uint32_t node : nodes) mask[node / kBits] |= 1UL << node % kBits;
  // The kernel takes the number of bits for one more than there are.
  syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, mask.data(), mask.size() * kBits + 1);
}

}  // namespace

CpuClaims::CpuClaims() = default;
CpuClaims::~CpuClaims() = default;

Result<std::unique_ptr<CpuClaims>> CpuClaims::claim(size_t num_threads,
                                                    const CpuClaimsOptions& options) {
  std::vector<Cpu> cpus = TRY(usable_cpus(options.system));
  if (options.num_threads_together > cpus.size()) {
    return Error{Code::kResourceExhausted, "all processes of Troupe on this machine have " +
                                               std::to_string(options.num_threads_together) +
                                               " busy threads together, more than the " +
                                               std::to_string(cpus.size()) +
                                               " CPUs that this process may use"};
  }
  const auto turn = TRY(wait_for_turn(options.directory));
  std::map<uint32_t, std::unique_ptr<FileLock>> locks;
  for (Cpu& cpu : cpus) {
    const std::string name = "troupe-cpu-" + std::to_string(cpu.id) + ".lock";
    locks[cpu.id] = TRY(FileLock::open(options.directory / name));
    cpu.is_free = locks[cpu.id]->try_lock();
  }
  std::unique_ptr<CpuClaims> claims(new CpuClaims);
  claims->cpus_ = choose_cpus(cpus, num_threads);
  if (claims->cpus_.empty()) {
    return Error{Code::kResourceExhausted,
                 std::to_string(num_threads) + " compute threads need as many CPUs; of the " +
                     std::to_string(cpus.size()) + " that this process may use " +
                     std::to_string(std::ranges::count(cpus, true, &Cpu::is_free)) +
                     " are free of other processes of Troupe"};
  }
  std::set<uint32_t> nodes;
  for (const uint32_t id : claims->cpus_) {
    claims->locks_.push_back(std::move(locks[id]));
    nodes.insert(std::ranges::find(cpus, id, &Cpu::id)->node);
  }
  std::vector<uint32_t> near;
  for (const Cpu& cpu : cpus) {
    if (nodes.contains(cpu.node)) near.push_back(cpu.id);
  }
  TRY(run_this_thread_on(near));
  if (nodes.size() > 1) interleave_memory(nodes);
  return claims;
}

Result<void> run_this_thread_on(std::span<const uint32_t> cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const uint32_t id : cpus) CPU_SET(id, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) return refused("cannot pin a thread");
  return {};
}

std::string cpu_list(std::vector<uint32_t> cpus) {
  std::ranges::sort(cpus);
  std::string text;
  for (size_t first = 0, last = 0; first < cpus.size(); first = last + 1) {
    last = first;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(cpus[first]);
    if (last > first) text += "-" + std::to_string(cpus[last]);
  }
  return text;
}

}  // namespace troupe::kernels
