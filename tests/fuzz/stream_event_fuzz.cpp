// The bytes are the data of one event, and the body of an error: what a server may say at any time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.hpp"
#include "loadgen/messages.hpp"

using namespace troupe::loadgen;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto event = parse_event(text);
  if (event.ok() && !event->has_choice) {
    CHECK(!event->has_output() && event->finish_reason.empty());
  }
  (void)server_words(text);
  const std::string message = report_line(text);
  CHECK(message.size() <= kMaxReportLine);
  CHECK(std::ranges::all_of(message, [](char c) { return c >= ' ' && c <= '~'; }));
  return 0;
}
