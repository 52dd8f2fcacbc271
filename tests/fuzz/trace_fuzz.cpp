// The first byte chooses a format, the rest is a file of it. What is read makes a workload whose
// requests are as long as the file says.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/check.hpp"
#include "loadgen/trace.hpp"
#include "loadgen/workload.hpp"

using namespace troupe;
using namespace troupe::loadgen;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  auto rows = data[0] % 3 == 0   ? parse_mooncake(text)
              : data[0] % 3 == 1 ? parse_azure(text)
                                 : parse_prompts(text, 16);
  if (!rows.ok()) {
    CHECK(rows.error().message.starts_with("line "));
    return 0;
  }
  Duration last;
  for (const TraceRow& row : *rows) {
    CHECK(row.at >= last);
    last = row.at;
  }
  const auto kept = std::make_shared<const std::vector<TraceRow>>(
      window_of(std::move(*rows), seconds(1), seconds(1000), 2));
  const Workload workload({.rows = kept});
  for (size_t i = 0; i < kept->size(); ++i) {
    const PlannedRequest request = workload.plan(i, 0);
    CHECK_EQ(request.num_words(), (*kept)[i].input_tokens);
    CHECK_GE(request.output_tokens, 1U);
  }
  return 0;
}
