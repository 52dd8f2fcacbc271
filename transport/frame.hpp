#pragma once

// What travels between routers and expert shards. A frame says where it belongs; a receiver drops
// what is stale, and a duplicate does no harm. On the wire: a Cap'n Proto message (wire.capnp) in
// front, padded to 64 bytes, then the payload. docs/wire_format.md has it byte by byte.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::transport {

enum class FrameKind : uint8_t {
  kDispatch,  ///< router to shard: token rows and which experts they want
  kCombine,   ///< shard to router: one row per assignment, in the dispatch's order
  kFailed,    ///< shard to router: this dispatch cannot be served (not ready, wrong epoch, no expert)
  kPing,      ///< measures a link; answered by kPong with the same payload
  kPong,
};

/// One row to be computed by one routed expert.
struct Assignment {
  uint32_t row = 0;     ///< index into the frame's rows
  uint32_t expert = 0;  ///< number within the layer
  friend bool operator==(const Assignment&, const Assignment&) = default;
};

/// Everything of a frame but its payload.
struct FrameHeader {
  FrameKind kind = FrameKind::kPing;
  uint64_t cluster = 0;  ///< hash of the cluster's name: strangers' frames are dropped
  Epoch epoch;           ///< placement epoch of the sender
  NodeId source;
  RequestId request;     ///< of KV frames; 0 for batches of many requests
  StepId step;
  uint32_t layer = 0;
  uint32_t attempt = 0;  ///< resend number of the same work
  uint32_t num_rows = 0;
  uint32_t hidden = 0;   ///< float32 per row
  std::vector<Assignment> assignments;  ///< kDispatch: the work; kCombine: empty
  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

/// Bytes that live as long as anyone holds them; 64-byte aligned.
class Buffer {
 public:
  static std::shared_ptr<Buffer> allocate(size_t size_bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() { return data_; }
  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }
  float* floats() { return reinterpret_cast<float*>(data_); }
  [[nodiscard]] const float* floats() const { return reinterpret_cast<const float*>(data_); }

 private:
  Buffer(std::byte* data, size_t size) : data_(data), size_(size) {}
  std::byte* data_;
  size_t size_;
};

/// A frame in memory: header and payload rows [num_rows, hidden] float32 (or opaque bytes for pings).
struct Frame {
  FrameHeader header;
  std::shared_ptr<const Buffer> payload;  ///< may be nullptr for an empty payload
};

/// Largest frame that is sent or accepted.
inline constexpr size_t kMaxFrameBytes = size_t{256} << 20;

/// The header's bytes, padded to 64: payload length and a hash of the payload are in it.
Result<std::vector<std::byte>> encode_header(const Frame& frame);

/// Parses and checks one whole received message: lengths, bounds of rows x hidden, assignments
/// within rows, payload hash.
/// @param message 8-byte aligned; the payload of the result is `message`'s tail, copied or aliased
///        through `owner`.
/// @errors kCorrupt; never reads out of bounds, whatever the bytes.
Result<Frame> decode_frame(std::shared_ptr<const Buffer> message);

}  // namespace troupe::transport
