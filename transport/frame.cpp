#include "transport/frame.hpp"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <xxh_x86dispatch.h>

#include <cstring>
#include <new>
#include <string>
#include <utility>

#include "base/check.hpp"
#include "transport/wire.capnp.h"

namespace troupe::transport {
namespace {

// Stands before the Cap'n Proto message, so that a receiver can refuse foreign, damaged or newer
// messages before it parses anything. The hash covers every header byte behind itself.
struct Prefix {
  uint64_t header_hash;
  uint32_t magic;
  uint16_t version;
  uint16_t reserved;
  uint32_t header_bytes;   ///< with prefix and padding; a multiple of 64
  uint32_t message_words;  ///< of the Cap'n Proto message, 8 bytes each
};
static_assert(sizeof(Prefix) == 24);

constexpr uint32_t kMagic = 0x46505254;  // "TRPF"
constexpr size_t kHashedFrom = sizeof(Prefix::header_hash);
// The schema's one struct with room for its growth; the rest of a header is assignments.
constexpr size_t kFixedWords = 64;
constexpr size_t kMaxHeaderWords = kFixedWords + kMaxAssignments;

size_t padded(size_t bytes) {
  return (bytes + kFrameAlignment - 1) / kFrameAlignment * kFrameAlignment;
}

uint64_t payload_hash(const std::shared_ptr<const Buffer>& payload) {
  return payload ? XXH3_64bits(payload->data(), payload->size()) : XXH3_64bits("", 0);
}

Error corrupt(std::string what) {
  return Error{Code::kCorrupt, "received frame refused: " + std::move(what)};
}

// The rules that tie a header to its payload, the same for what is sent and what is received.
Result<void> check(const FrameHeader& header, size_t payload_bytes, Code code) {
  const auto refuse = [&](const std::string& what) {
    return Error{code, "frame refused: " + what};
  };
  if (header.kind > FrameKind::kKvBlock) {
    return refuse("kind " + std::to_string(static_cast<int>(header.kind)) + " is unknown");
  }
  if (header.assignments.size() > kMaxAssignments) {
    return refuse(std::to_string(header.assignments.size()) + " assignments, at most " +
                  std::to_string(kMaxAssignments) + " are allowed");
  }
  if (payload_bytes > kMaxFrameBytes - padded(sizeof(Prefix) + kFixedWords * 8 +
                                              header.assignments.size() * sizeof(Assignment))) {
    return refuse(std::to_string(payload_bytes) + " bytes are more than a frame may have");
  }
  const bool carries_rows =
      header.kind == FrameKind::kDispatch || header.kind == FrameKind::kCombine;
  if (carries_rows) {
    const uint64_t elements = uint64_t{header.num_rows} * header.hidden;
    if (elements > kMaxFrameBytes / sizeof(float) || elements * sizeof(float) != payload_bytes) {
      return refuse(std::to_string(header.num_rows) + " rows of " + std::to_string(header.hidden) +
                    " float32 do not make a payload of " + std::to_string(payload_bytes) +
                    " bytes");
    }
  }
  if (header.kind != FrameKind::kDispatch && !header.assignments.empty()) {
    return refuse("only a dispatch has assignments");
  }
  for (const Assignment& assignment : header.assignments) {
    if (assignment.row >= header.num_rows) {
      return refuse("an assignment names row " + std::to_string(assignment.row) + " of " +
                    std::to_string(header.num_rows));
    }
  }
  return {};
}

Result<Prefix> read_prefix(Bytes message) {
  ByteReader reader(message);
  const auto raw = reader.take(sizeof(Prefix));
  if (!raw.ok()) return corrupt("it is shorter than the prefix");
  Prefix prefix;
  std::memcpy(&prefix, raw.value().data(), sizeof(Prefix));
  if (prefix.magic != kMagic) return corrupt("it does not begin as a frame of Troupe");
  if (prefix.version != kProtocolVersion) {
    return Error{Code::kUnsupported, "received frame refused: it has protocol version " +
                                         std::to_string(prefix.version) + ", this build speaks " +
                                         std::to_string(kProtocolVersion) +
                                         "; run the same release on all nodes"};
  }
  if (prefix.reserved != 0 || prefix.message_words == 0 || prefix.message_words > kMaxHeaderWords ||
      prefix.header_bytes != padded(sizeof(Prefix) + size_t{prefix.message_words} * 8) ||
      prefix.header_bytes > message.size()) {
    return corrupt("its header has impossible lengths");
  }
  return prefix;
}

}  // namespace

Buffer::Buffer(std::byte* data, size_t size, std::shared_ptr<const Buffer> owner)
    : data_(data), size_(size), owner_(std::move(owner)) {}

Buffer::~Buffer() {
  if (!owner_) ::operator delete (data_, std::align_val_t{kFrameAlignment});
}

std::shared_ptr<Buffer> Buffer::allocate(size_t size_bytes) {
  auto* data =
      static_cast<std::byte*>(::operator new (size_bytes, std::align_val_t{kFrameAlignment}));
  return std::shared_ptr<Buffer>(new Buffer(data, size_bytes, nullptr));
}

std::shared_ptr<const Buffer> Buffer::slice(std::shared_ptr<const Buffer> whole, size_t offset,
                                            size_t size) {
  CHECK(offset <= whole->size() && size <= whole->size() - offset);
  // Only const views of a slice are handed out, so the cast gives nobody a way to write.
  auto* data = const_cast<std::byte*>(whole->data()) + offset;
  return std::shared_ptr<const Buffer>(new Buffer(data, size, std::move(whole)));
}

Result<std::vector<std::byte>> encode_header(const Frame& frame) {
  const FrameHeader& header = frame.header;
  const size_t payload_bytes = frame.payload ? frame.payload->size() : 0;
  TRY(check(header, payload_bytes, Code::kInvalidArgument));

  capnp::MallocMessageBuilder builder(kFixedWords + header.assignments.size());
  auto wire = builder.initRoot<wire::FrameHeader>();
  wire.setKind(static_cast<uint8_t>(header.kind));
  wire.setCluster(header.cluster);
  wire.setEpoch(header.epoch.value);
  wire.setSource(header.source.value);
  wire.setRequest(header.request.value);
  wire.setStep(header.step.value);
  wire.setLayer(header.layer);
  wire.setAttempt(header.attempt);
  wire.setArithmeticClass(header.arithmetic_class);
  wire.setNumRows(header.num_rows);
  wire.setHidden(header.hidden);
  wire.setPayloadBytes(payload_bytes);
  wire.setPayloadHash(payload_hash(frame.payload));
  auto assignments = wire.initAssignments(static_cast<unsigned>(header.assignments.size() * 2));
  unsigned at = 0;
  for (const Assignment& assignment : header.assignments) {
    assignments.set(at++, assignment.row);
    assignments.set(at++, assignment.expert);
  }

  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  Prefix prefix{.header_hash = 0,
                .magic = kMagic,
                .version = kProtocolVersion,
                .reserved = 0,
                .header_bytes = static_cast<uint32_t>(padded(sizeof(Prefix) + words.size() * 8)),
                .message_words = static_cast<uint32_t>(words.size())};
  std::vector<std::byte> bytes(prefix.header_bytes);  // zeros, so the padding is too
  std::memcpy(bytes.data(), &prefix, sizeof(Prefix));
  std::memcpy(bytes.data() + sizeof(Prefix), words.begin(), words.size() * 8);
  prefix.header_hash = XXH3_64bits(bytes.data() + kHashedFrom, bytes.size() - kHashedFrom);
  std::memcpy(bytes.data(), &prefix, sizeof(Prefix));
  return bytes;
}

Result<Frame> decode_frame(Bytes bytes, std::shared_ptr<const Buffer> payload) {
  const Prefix prefix = TRY(read_prefix(bytes));
  if (bytes.size() != prefix.header_bytes) return corrupt("bytes follow its header");
  if (XXH3_64bits(bytes.data() + kHashedFrom, bytes.size() - kHashedFrom) != prefix.header_hash) {
    return corrupt("its header does not match its hash");
  }
  // Cap'n Proto needs words at addresses that are multiples of 8, and a wire promises no alignment.
  auto words = kj::heapArray<capnp::word>(prefix.message_words);
  std::memcpy(words.asBytes().begin(), bytes.data() + sizeof(Prefix), words.size() * 8);

  Frame frame;
  frame.payload = std::move(payload);
  uint64_t payload_bytes = 0;
  uint64_t expected_hash = 0;
  try {  // the library's own checks throw kj::Exception
    capnp::ReaderOptions limits;
    limits.traversalLimitInWords = words.size() + kFixedWords;
    limits.nestingLimit = 4;
    capnp::FlatArrayMessageReader reader(words, limits);
    const auto wire = reader.getRoot<wire::FrameHeader>();
    FrameHeader& header = frame.header;
    header.kind = static_cast<FrameKind>(wire.getKind());
    header.cluster = wire.getCluster();
    header.epoch = Epoch{wire.getEpoch()};
    header.source = NodeId{wire.getSource()};
    header.request = RequestId{wire.getRequest()};
    header.step = StepId{wire.getStep()};
    header.layer = wire.getLayer();
    header.attempt = wire.getAttempt();
    header.arithmetic_class = wire.getArithmeticClass();
    header.num_rows = wire.getNumRows();
    header.hidden = wire.getHidden();
    payload_bytes = wire.getPayloadBytes();
    expected_hash = wire.getPayloadHash();
    const auto assignments = wire.getAssignments();
    // A list of zero-sized elements can claim any length in a few bytes; ours has real ones.
    if (assignments.size() % 2 != 0 || assignments.size() / 2 > kMaxAssignments ||
        assignments.size() / 2 > words.size()) {
      return corrupt("its list of assignments has an impossible length");
    }
    header.assignments.resize(assignments.size() / 2);
    unsigned at = 0;
    for (Assignment& assignment : header.assignments) {
      assignment.row = assignments[at++];
      assignment.expert = assignments[at++];
    }
  } catch (const kj::Exception& e) {
    return corrupt(std::string("Cap'n Proto says: ") + e.getDescription().cStr());
  }
  const size_t received = frame.payload ? frame.payload->size() : 0;
  if (payload_bytes != received) {
    return corrupt("it announces " + std::to_string(payload_bytes) + " bytes of payload and has " +
                   std::to_string(received));
  }
  TRY(check(frame.header, received, Code::kCorrupt));
  if (payload_hash(frame.payload) != expected_hash) {
    return corrupt("its payload does not match its hash");
  }
  return frame;
}

Result<Frame> decode_frame(std::shared_ptr<const Buffer> message) {
  const Bytes all(message->data(), message->size());
  const size_t header_bytes = TRY(read_prefix(all)).header_bytes;
  const size_t payload_bytes = all.size() - header_bytes;
  std::shared_ptr<const Buffer> payload;
  if (payload_bytes == 0) {
    // an empty payload is no payload
  } else if (reinterpret_cast<uintptr_t>(all.data()) % kFrameAlignment == 0) {
    payload = Buffer::slice(message, header_bytes, payload_bytes);
  } else {  // kernels want rows at multiples of 64
    auto copy = Buffer::allocate(payload_bytes);
    std::memcpy(copy->data(), all.data() + header_bytes, payload_bytes);
    payload = std::move(copy);
  }
  return decode_frame(all.first(header_bytes), std::move(payload));
}

}  // namespace troupe::transport
