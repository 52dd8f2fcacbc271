// Runs a fuzzer without libFuzzer: the committed corpus, then a bounded number of mutations of it
// that are the same in every run.
//
//   <name>_fuzz_replay CORPUS_DIR MUTATIONS [ONLY]
//
// Mutation i depends on the corpus and i alone. On a crash its number is printed; ONLY runs just
// that one, under a debugger for instance.

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include <unistd.h>

#include "base/parse.hpp"
#include "base/random.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t kMaxInput = size_t{64} << 10;

char current[96] = "nothing yet";  // what runs now, for the signal handler

void report_crash(int signal) {
  constexpr char kPrefix[] = "crashed on ";
  (void)!::write(STDERR_FILENO, kPrefix, sizeof(kPrefix) - 1);
  (void)!::write(STDERR_FILENO, current, std::strlen(current));
  (void)!::write(STDERR_FILENO, "\n", 1);
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void run(const std::string& input) {
  // A copy of exact size, so that a sanitizer sees a read past the end.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

/// Draws of one mutation.
class Draws {
 public:
  explicit Draws(uint64_t mutation) : mutation_(mutation) {}
  uint64_t bits() { return troupe::random_bits(mutation_, position_++); }
  size_t below(size_t bound) { return bound == 0 ? 0 : bits() % bound; }

 private:
  uint64_t mutation_;
  uint64_t position_ = 0;
};

void mutate_once(std::string& input, const std::vector<std::string>& corpus, Draws& draws) {
  constexpr char kTelling[] = {'\0', '\x01', '\x7f', '\x80', '\xff', '"', '{',  '}', '[',  ']',
                               ',',  ':',    '-',    '9',    'e',    '.', '\\', 'u', '\n', ' '};
  const size_t at = draws.below(input.size() + 1);
  const size_t length = draws.below(std::min<size_t>(input.size() - at, 64) + 1);
  switch (draws.below(7)) {
    case 0:
      if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << draws.below(8)));
      break;
    case 1:
      if (at < input.size()) input[at] = kTelling[draws.below(sizeof(kTelling))];
      break;
    case 2: input.insert(at, 1 + draws.below(4), kTelling[draws.below(sizeof(kTelling))]); break;
    case 3: input.erase(at, length); break;
    case 4: input.insert(at, std::string(input, at, length)); break;
    case 5: input.resize(at); break;
    default: {
      const std::string& other = corpus[draws.below(corpus.size())];
      const size_t from = draws.below(other.size() + 1);
      input.replace(at, std::string::npos, other, from, std::string::npos);
    }
  }
  input.resize(std::min(input.size(), kMaxInput));
}

void run_mutation(uint64_t mutation, const std::vector<std::string>& corpus) {
  std::snprintf(current, sizeof(current), "mutation %llu",
                static_cast<unsigned long long>(mutation));
  Draws draws(mutation);
  std::string input = corpus[draws.below(corpus.size())];
  for (size_t rounds = 1 + draws.below(4); rounds > 0; --rounds) {
    mutate_once(input, corpus, draws);
  }
  run(input);
}

std::vector<std::filesystem::path> files_in(const char* directory) {
  std::vector<std::filesystem::path> paths;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    if (entry.is_regular_file()) {
      paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

int main(int argc, char** argv) {
  const std::optional<uint64_t> mutations =
      argc >= 3 ? troupe::parse_number<uint64_t>(argv[2]) : std::nullopt;
  const std::optional<uint64_t> only =
      argc == 4 ? troupe::parse_number<uint64_t>(argv[3]) : mutations;
  if (!mutations || !only || argc > 4) {
    std::fprintf(stderr, "usage: %s CORPUS_DIR MUTATIONS [ONLY]\n", argv[0]);
    return 2;
  }
  const uint64_t first = argc == 4 ? *only : 0;
  const uint64_t end = argc == 4 ? *only + 1 : *mutations;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    std::signal(signal, report_crash);
  }
  std::vector<std::string> corpus;
  for (const std::filesystem::path& path : files_in(argv[1])) {
    std::ifstream in(path, std::ios::binary);
    corpus.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    std::snprintf(current, sizeof(current), "corpus file %.60s", path.filename().c_str());
    run(corpus.back());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "%s holds no corpus\n", argv[1]);
    return 1;
  }
  for (uint64_t i = first; i < end; ++i) {
    run_mutation(i, corpus);
  }
  std::printf("%zu corpus files and %llu mutations ran\n", corpus.size(),
              static_cast<unsigned long long>(end - first));
  return 0;
}
