#include "apps/signals.hpp"

#include <csignal>
#include <ctime>

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

}  // namespace troupe::apps
