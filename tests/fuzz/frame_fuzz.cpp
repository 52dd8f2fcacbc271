// Any bytes as a received message; and, so that mutations get past the hash, the same bytes with
// the header's hash made right.

#include <xxh_x86dispatch.h>

#include <cstring>
#include <memory>

#include "base/check.hpp"
#include "transport/frame.hpp"

using troupe::transport::Buffer;
using troupe::transport::decode_frame;
using troupe::transport::encode_header;

namespace {

void decode(const std::shared_ptr<const Buffer>& message) {
  const auto frame = decode_frame(message);
  if (!frame.ok()) return;
  for (const auto& assignment : frame.value().header.assignments) {
    CHECK_LT(assignment.row, frame.value().header.num_rows);
  }
  CHECK(encode_header(frame.value()).ok());  // what is accepted can be sent on
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto message = Buffer::allocate(size);
  if (size > 0) std::memcpy(message->data(), data, size);
  decode(message);

  uint32_t header_bytes = 0;
  if (size < 24) return 0;
  std::memcpy(&header_bytes, data + 16, sizeof(header_bytes));
  if (header_bytes < 24 || header_bytes > size) return 0;
  const uint64_t hash = XXH3_64bits(message->data() + 8, header_bytes - 8);
  std::memcpy(message->data(), &hash, sizeof(hash));
  decode(message);
  return 0;
}
