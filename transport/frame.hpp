#pragma once

// What travels between routers and expert shards, and between routers. A frame says where it
// belongs; a receiver drops what is stale, and a duplicate does no harm. On the wire: a 24-byte
// prefix and a Cap'n Proto message (wire.capnp) in front, padded together to 64 bytes, then the
// payload. docs/wire_format.md has it byte by byte.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/result.hpp"

namespace troupe::transport {

/// Only kDispatch and kCombine tie their payload to num_rows x hidden, and only kDispatch has
/// assignments; the payload of the others is opaque bytes.
enum class FrameKind : uint8_t {
  kDispatch,  ///< router to shard: token rows and which experts they want
  kCombine,   ///< shard to router: one row per assignment, in the dispatch's order
  kFailed,    ///< shard to router: this dispatch cannot be served (not ready, no expert, no room)
  kPing,      ///< are you there, in this epoch? A shard answers with kPong, a router with kPing
  kPong,
  kKvWanted,  ///< router to router: send me blocks of these tokens
  kKvBlock,   ///< the answer: one block, or no bytes if there is none
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
  uint64_t cluster =
      0;              ///< hash of the cluster's name: strangers' frames are dropped. Set by send()
  Epoch epoch;        ///< placement epoch of the sender
  NodeId source;      ///< set by send()
  RequestId request;  ///< of KV frames; 0 for batches of many requests
  StepId step;
  uint32_t layer = 0;
  uint32_t attempt = 0;  ///< resend number of the same work
  uint32_t num_rows = 0;
  uint32_t hidden = 0;            ///< float32 per row
  uint64_t arithmetic_class = 0;  ///< hash of its name; rows of another class must not be mixed in
  std::vector<Assignment> assignments;  ///< kDispatch: the work; kCombine: empty
  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

/// Bytes that live as long as anyone holds them; 64-byte aligned.
class Buffer {
 public:
  static std::shared_ptr<Buffer> allocate(size_t size_bytes);
  /// `size` bytes of `whole` from `offset`; keeps `whole` alive, copies nothing.
  /// REQUIRES: offset + size <= whole->size().
  static std::shared_ptr<const Buffer> slice(std::shared_ptr<const Buffer> whole, size_t offset,
                                             size_t size);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() { return data_; }
  [[nodiscard]] const std::byte* data() const { return data_; }
  [[nodiscard]] size_t size() const { return size_; }
  float* floats() { return reinterpret_cast<float*>(data_); }
  [[nodiscard]] const float* floats() const { return reinterpret_cast<const float*>(data_); }

 private:
  Buffer(std::byte* data, size_t size, std::shared_ptr<const Buffer> owner);
  std::byte* data_;
  size_t size_;
  std::shared_ptr<const Buffer> owner_;  ///< of a slice; nullptr: these bytes are ours to free
};

/// A frame in memory: header and payload rows [num_rows, hidden] float32 (or opaque bytes for
/// pings).
struct Frame {
  FrameHeader header;
  std::shared_ptr<const Buffer> payload;  ///< may be nullptr for an empty payload
};

/// A frame ready for a wire: the message is `header` followed by the payload.
struct EncodedFrame {
  std::vector<std::byte> header;          ///< a multiple of 64 bytes
  std::shared_ptr<const Buffer> payload;  ///< may be nullptr for an empty payload

  [[nodiscard]] size_t size_bytes() const {
    return header.size() + (payload ? payload->size() : 0);
  }
};

/// Peers with another version are refused; so is anything that changes a field's meaning.
inline constexpr uint16_t kProtocolVersion = 1;
/// Largest frame that is sent or accepted.
inline constexpr size_t kMaxFrameBytes = size_t{256} << 20;
inline constexpr size_t kMaxAssignments = size_t{1} << 20;
inline constexpr size_t kFrameAlignment = 64;

/// The header's bytes, padded to 64: payload length and a hash of the payload are in it.
/// Cost: one pass over the payload for its hash (about 10 GB/s).
/// @errors kInvalidArgument for a frame that decode_frame would refuse.
Result<std::vector<std::byte>> encode_header(const Frame& frame);

/// Parses and checks one whole received message: lengths, bounds of rows x hidden, assignments
/// within rows, header and payload hash.
/// @param message any alignment, any bytes; where it is 64-byte aligned the payload of the result
/// is
///        its tail in place and keeps it alive, else a copy.
/// @errors kCorrupt; kUnsupported for another protocol version; never reads out of bounds, whatever
///         the bytes.
Result<Frame> decode_frame(std::shared_ptr<const Buffer> message);

/// The same for a header and a payload that were received apart.
Result<Frame> decode_frame(Bytes header, std::shared_ptr<const Buffer> payload);

}  // namespace troupe::transport
