#include "apps/progress_bar.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <utility>

namespace troupe::apps {

ProgressBar::ProgressBar(std::string what)
    : what_(std::move(what)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      interval_(terminal_ ? std::chrono::milliseconds(200) : std::chrono::seconds(10)) {}

void ProgressBar::show(uint64_t bytes_done, uint64_t bytes_total) {
  const Clock::time_point now = Clock::now();
  if (!shown_) first_bytes_ = bytes_done;
  shown_ = true;
  if (now < next_ && bytes_done < bytes_total) return;
  next_ = now + interval_;
  const double part =
      static_cast<double>(bytes_done) / static_cast<double>(std::max<uint64_t>(bytes_total, 1));
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double speed = static_cast<double>(bytes_done - first_bytes_) / std::max(seconds, 1e-3);
  const double left = static_cast<double>(bytes_total - bytes_done) / std::max(speed, 1.0);
  std::string bar(30, '.');
  std::fill_n(bar.begin(), std::min<size_t>(30, static_cast<size_t>(part * 30)), '#');
  std::fprintf(stderr, "%s%s [%s] %5.1f %%  %.2f of %.2f GiB, %.0f MiB/s, %.0f s left%s",
               terminal_ ? "\r" : "", what_.c_str(), bar.c_str(), part * 100,
               static_cast<double>(bytes_done) / 0x1p30, static_cast<double>(bytes_total) / 0x1p30,
               speed / 0x1p20, left, terminal_ ? "  " : "\n");
}

void ProgressBar::finish() {
  if (terminal_ && shown_) std::fputc('\n', stderr);
}

}  // namespace troupe::apps
