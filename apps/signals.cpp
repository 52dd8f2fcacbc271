#include "apps/signals.hpp"

#include <unistd.h>

#include <csignal>
#include <cstring>
#include <ctime>

#include "apps/command.hpp"

namespace troupe::apps {
namespace {

sigset_t blocked_set() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGCHLD);
  return set;
}

const char* interrupted_last_words = "";

/// Does only what a handler may.
void say_last_words_and_end(int) {
  const char* words = interrupted_last_words;
  [[maybe_unused]] const ssize_t heard = write(STDERR_FILENO, words, std::strlen(words));
  _exit(kInterrupted);
}

}  // namespace

void block_signals() {
  const sigset_t set = blocked_set();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int wait_for_signal(Duration limit) {
  const sigset_t set = blocked_set();
  const timespec time{.tv_sec = limit.ns / 1'000'000'000, .tv_nsec = limit.ns % 1'000'000'000};
  const int signal = sigtimedwait(&set, nullptr, &time);
  return signal > 0 ? signal : 0;
}

void end_when_interrupted(const char* last_words) {
  interrupted_last_words = last_words;
  struct sigaction action {};
  action.sa_handler = say_last_words_and_end;
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

}  // namespace troupe::apps
