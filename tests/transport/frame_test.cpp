#include "transport/frame.hpp"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <gtest/gtest.h>
#include <xxh_x86dispatch.h>

#include <cstring>
#include <functional>

#include "tests/transport/inbox.hpp"
#include "transport/wire.capnp.h"

namespace troupe::transport {
namespace {

Frame dispatch(uint32_t rows, uint32_t hidden) {
  Frame frame;
  frame.header = {.kind = FrameKind::kDispatch,
                  .cluster = 0x1122334455667788,
                  .epoch = Epoch{3},
                  .source = NodeId{0xdeadbeefcafe},
                  .request = RequestId{17},
                  .step = StepId{99},
                  .layer = 12,
                  .attempt = 2,
                  .num_rows = rows,
                  .hidden = hidden,
                  .arithmetic_class = 0xabcdef};
  for (uint32_t row = 0; row < rows; ++row) {
    for (uint32_t k = 0; k < 6; ++k) frame.header.assignments.push_back({row, row * 5 + k});
  }
  auto payload = Buffer::allocate(size_t{rows} * hidden * sizeof(float));
  for (size_t i = 0; i < size_t{rows} * hidden; ++i) payload->floats()[i] = 0.5F * float(i);
  frame.payload = std::move(payload);
  return frame;
}

std::vector<std::byte> message_of(const Frame& frame) {
  std::vector<std::byte> message = encode_header(frame).value();
  if (frame.payload) {
    message.insert(message.end(), frame.payload->data(),
                   frame.payload->data() + frame.payload->size());
  }
  return message;
}

Result<Frame> decode(const std::vector<std::byte>& bytes, size_t misalignment = 0) {
  auto whole = Buffer::allocate(bytes.size() + misalignment);
  if (!bytes.empty()) std::memcpy(whole->data() + misalignment, bytes.data(), bytes.size());
  return decode_frame(Buffer::slice(whole, misalignment, bytes.size()));
}

TEST(Frame, ComesBackAsItWasSent) {
  for (const uint32_t rows : {1U, 3U, 128U, 1000U}) {
    const Frame sent = dispatch(rows, 33);
    const auto received = decode(message_of(sent));
    ASSERT_TRUE(received.ok()) << received.error().message;
    EXPECT_EQ(received.value().header, sent.header);
    EXPECT_TRUE(same_payload(received.value(), sent));
  }
}

TEST(Frame, OfEachKindComesBack) {
  for (const FrameKind kind : {FrameKind::kFailed, FrameKind::kPing, FrameKind::kPong,
                               FrameKind::kKvWanted, FrameKind::kKvBlock}) {
    for (const size_t size : {0, 1, 63, 64, 65, 5000}) {
      Frame sent = ping(size);
      sent.header.kind = kind;
      const auto received = decode(message_of(sent));
      ASSERT_TRUE(received.ok()) << received.error().message;
      EXPECT_EQ(received.value().header, sent.header);
      EXPECT_TRUE(same_payload(received.value(), sent));
    }
  }
  Frame combine = dispatch(6, 16);
  combine.header.kind = FrameKind::kCombine;
  combine.header.assignments.clear();
  EXPECT_TRUE(decode(message_of(combine)).ok());
}

TEST(Frame, HeaderIsPaddedTo64AndPayloadIsReadInPlace) {
  const Frame sent = dispatch(2, 16);
  const auto message = message_of(sent);
  EXPECT_EQ((message.size() - sent.payload->size()) % 64, 0U);
  auto whole = Buffer::allocate(message.size());
  std::memcpy(whole->data(), message.data(), message.size());
  const auto received = decode_frame(whole);
  ASSERT_TRUE(received.ok());
  EXPECT_EQ(received.value().payload->data(),
            whole->data() + message.size() - sent.payload->size());
}

TEST(Frame, AtAnyAlignmentIsReadAndItsPayloadAligned) {
  const Frame sent = dispatch(2, 16);
  for (size_t misalignment = 0; misalignment < 65; ++misalignment) {
    const auto received = decode(message_of(sent), misalignment);
    ASSERT_TRUE(received.ok()) << misalignment << ": " << received.error().message;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(received.value().payload->data()) % 64, 0U);
    EXPECT_TRUE(same_payload(received.value(), sent));
  }
}

TEST(Frame, EveryPrefixOfAMessageIsRefused) {
  const auto message = message_of(dispatch(2, 16));
  for (size_t length = 0; length < message.size(); ++length) {
    EXPECT_FALSE(decode({message.begin(), message.begin() + long(length)}).ok()) << length;
  }
}

TEST(Frame, EveryFlippedBitIsRefused) {
  auto message = message_of(dispatch(2, 5));
  for (size_t bit = 0; bit < message.size() * 8; ++bit) {
    message[bit / 8] ^= std::byte(1U << bit % 8);
    EXPECT_FALSE(decode(message).ok()) << "bit " << bit;
    message[bit / 8] ^= std::byte(1U << bit % 8);
  }
  EXPECT_TRUE(decode(message).ok());
}

TEST(Frame, AnotherProtocolVersionIsToldApartFromDamage) {
  auto message = message_of(ping(10));
  message[12] = std::byte{kProtocolVersion + 1};
  const auto refused = decode(message);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, Code::kUnsupported);
  EXPECT_NE(refused.error().message.find("version"), std::string::npos);
}

TEST(Frame, WhatNoReceiverTakesCannotBeEncoded) {
  const auto refused = [](const Frame& frame) {
    const auto header = encode_header(frame);
    return !header.ok() && header.error().code == Code::kInvalidArgument;
  };
  Frame frame = dispatch(2, 16);
  frame.header.num_rows = 3;
  EXPECT_TRUE(refused(frame)) << "payload of another size";
  frame = dispatch(2, 16);
  frame.header.assignments[3].row = 2;
  EXPECT_TRUE(refused(frame)) << "row beyond the rows";
  frame = dispatch(2, 16);
  frame.header.kind = FrameKind::kCombine;
  EXPECT_TRUE(refused(frame)) << "combine with assignments";
  frame = dispatch(2, 16);
  frame.header.kind = static_cast<FrameKind>(7);
  EXPECT_TRUE(refused(frame)) << "unknown kind";
  frame = dispatch(1, 1);
  frame.header.assignments.resize(kMaxAssignments + 1);
  EXPECT_TRUE(refused(frame)) << "too many assignments";
}

// A message whose hashes are right and whose content is not: what a hostile peer would send.
struct Forgery {
  const char* what;
  std::function<void(wire::FrameHeader::Builder)> change;
  size_t payload_bytes = 128;
};

std::vector<std::byte> sealed(std::vector<std::byte> header) {
  const uint64_t hash = XXH3_64bits(header.data() + 8, header.size() - 8);
  std::memcpy(header.data(), &hash, 8);
  return header;
}

// The header around any words, as encode_header lays it out.
std::vector<std::byte> header_around(kj::ArrayPtr<const capnp::word> words) {
  std::vector<std::byte> header((24 + words.size() * 8 + 63) / 64 * 64);
  const uint32_t magic = 0x46505254;
  const uint16_t version = kProtocolVersion;
  const auto header_bytes = static_cast<uint32_t>(header.size());
  const auto num_words = static_cast<uint32_t>(words.size());
  std::memcpy(header.data() + 8, &magic, 4);
  std::memcpy(header.data() + 12, &version, 2);
  std::memcpy(header.data() + 16, &header_bytes, 4);
  std::memcpy(header.data() + 20, &num_words, 4);
  if (words.size() > 0) std::memcpy(header.data() + 24, words.begin(), words.size() * 8);
  return sealed(std::move(header));
}

std::vector<std::byte> forged(const Forgery& forgery) {
  const std::vector<std::byte> payload(forgery.payload_bytes);
  capnp::MallocMessageBuilder builder;
  auto wire = builder.initRoot<wire::FrameHeader>();
  wire.setKind(static_cast<uint8_t>(FrameKind::kDispatch));
  wire.setNumRows(2);
  wire.setHidden(16);
  wire.setPayloadBytes(forgery.payload_bytes);
  wire.setPayloadHash(XXH3_64bits(payload.data(), payload.size()));
  wire.initAssignments(4);
  forgery.change(wire);
  std::vector<std::byte> message = header_around(capnp::messageToFlatArray(builder));
  message.insert(message.end(), payload.begin(), payload.end());
  return message;
}

TEST(HostileFrame, WithRightHashesAndWrongContentIsRefused) {
  using Wire = wire::FrameHeader::Builder;
  ASSERT_TRUE(decode(forged({"nothing changed", [](Wire) {}})).ok()) << "the forger works";
  const std::vector<Forgery> forgeries = {
      {"kind 5", [](Wire w) { w.setKind(5); }},
      {"kind 255", [](Wire w) { w.setKind(255); }},
      {"combine with assignments", [](Wire w) { w.setKind(1); }},
      {"failed with assignments", [](Wire w) { w.setKind(2); }},
      {"ping with assignments", [](Wire w) { w.setKind(3); }},
      {"pong with assignments", [](Wire w) { w.setKind(4); }},
      {"no rows", [](Wire w) { w.setNumRows(0); }},
      {"one row too few", [](Wire w) { w.setNumRows(1); }},
      {"one row too many", [](Wire w) { w.setNumRows(3); }},
      {"most rows", [](Wire w) { w.setNumRows(~0U); }},
      {"no columns", [](Wire w) { w.setHidden(0); }},
      {"one column too many", [](Wire w) { w.setHidden(17); }},
      {"most columns", [](Wire w) { w.setHidden(~0U); }},
      {"most of both", [](Wire w) { w.setNumRows(~0U), w.setHidden(~0U); }},
      {"product wraps at 2^32", [](Wire w) { w.setNumRows(1U << 31), w.setHidden(1U << 31); }},
      {"bytes wrap at 2^64", [](Wire w) { w.setNumRows(1U << 31), w.setHidden(1U << 31); }, 0},
      {"wraps to 32 elements", [](Wire w) { w.setNumRows((1U << 31) + 1), w.setHidden(32); }},
      {"payload said to be empty", [](Wire w) { w.setPayloadBytes(0); }},
      {"payload said shorter", [](Wire w) { w.setPayloadBytes(127); }},
      {"payload said longer", [](Wire w) { w.setPayloadBytes(129); }},
      {"payload said endless", [](Wire w) { w.setPayloadBytes(~uint64_t{0}); }},
      {"payload hash 0", [](Wire w) { w.setPayloadHash(0); }},
      {"payload missing", [](Wire) {}, 0},
      {"payload with a byte more", [](Wire) {}, 129},
      {"row 2 of 2", [](Wire w) { w.getAssignments().set(0, 2); }},
      {"last row 2 of 2", [](Wire w) { w.getAssignments().set(2, 2); }},
      {"row 2^32 - 1", [](Wire w) { w.getAssignments().set(2, ~0U); }},
      {"odd number of numbers", [](Wire w) { w.initAssignments(3); }},
      {"one lone number", [](Wire w) { w.initAssignments(1); }},
      {"too many assignments", [](Wire w) { w.initAssignments(2 * kMaxAssignments + 2); }},
  };
  for (const Forgery& forgery : forgeries) {
    const auto refused = decode(forged(forgery));
    ASSERT_FALSE(refused.ok()) << forgery.what;
    EXPECT_EQ(refused.error().code, Code::kCorrupt) << forgery.what;
  }
}

TEST(HostileFrame, WithCapnProtoWordsThatLieIsRefused) {
  // The pointer words of Cap'n Proto, by hand: segment table, then the root pointer.
  const auto refused = [](const char* what, std::vector<uint64_t> raw) {
    std::vector<std::byte> message =
        header_around({reinterpret_cast<const capnp::word*>(raw.data()), raw.size()});
    message.resize(message.size() + 128);
    const auto result = decode(message);
    ASSERT_FALSE(result.ok()) << what;
    EXPECT_EQ(result.error().code, Code::kCorrupt) << what;
  };
  const auto table = [](uint32_t segments, uint32_t words) {
    return uint64_t{segments - 1} | uint64_t{words} << 32;
  };
  const auto struct_pointer = [](int32_t offset, uint16_t data, uint16_t pointers) {
    return (uint64_t{static_cast<uint32_t>(offset)} << 2 & 0xffffffff) | uint64_t{data} << 32 |
           uint64_t{pointers} << 48;
  };
  const auto list_pointer = [](int32_t offset, uint32_t kind, uint32_t size) {
    return 1 | (uint64_t{static_cast<uint32_t>(offset)} << 2 & 0xffffffff) | uint64_t{kind} << 32 |
           uint64_t{size} << 35;
  };
  const auto far_pointer = [](uint32_t offset, uint32_t segment) {
    return uint64_t{2} | uint64_t{offset} << 3 | uint64_t{segment} << 32;
  };
  const auto with_list = [&](uint64_t pointer) {
    std::vector<uint64_t> raw = {table(1, 14), struct_pointer(0, 12, 1)};
    raw.resize(14);
    raw.push_back(pointer);
    return raw;
  };
  refused("no words at all", {});
  refused("a table alone", {table(1, 0)});
  refused("a segment longer than the message", {table(1, 1000), struct_pointer(0, 12, 1)});
  refused("2^32 segments", {table(0, 1)});
  refused("512 segments", {table(512, 1), 0, 0});
  refused("a root beyond the end", {table(1, 1), struct_pointer(100, 12, 1)});
  refused("a root before the beginning", {table(1, 1), struct_pointer(-5, 12, 1)});
  refused("a root larger than the segment", {table(1, 1), struct_pointer(0, 0xffff, 0xffff)});
  refused("a root that is a list", {table(1, 1), list_pointer(0, 2, 0)});
  refused("a root that is a capability", {table(1, 1), 3});
  refused("a far pointer to nowhere", {table(1, 1), far_pointer(0, 7)});
  refused("a far pointer to itself", {table(1, 1), far_pointer(0, 0)});
  refused("a double far pointer to itself", {table(1, 1), far_pointer(0, 0) | 4});
  refused("a null root", {table(1, 1), 0});
  refused("a list beyond the end", with_list(list_pointer(1000, 4, 4)));
  refused("a list before the beginning", with_list(list_pointer(-1000, 4, 4)));
  refused("a list of 2^29 - 1 numbers", with_list(list_pointer(0, 4, (1U << 29) - 1)));
  refused("a list of 2^29 - 1 nothings", with_list(list_pointer(0, 0, (1U << 29) - 1)));
  refused("a list of 2^20 nothings", with_list(list_pointer(0, 0, 1U << 20)));
  refused("a list of bits", with_list(list_pointer(0, 1, 64)));
  refused("a list of bytes", with_list(list_pointer(0, 2, 8)));
  refused("a list of pointers", with_list(list_pointer(0, 6, 1)));
  refused("a composite list that lies", with_list(list_pointer(0, 7, 1000)));
  refused("a struct for a list", with_list(struct_pointer(0, 1, 1)));
  refused("a list that is the struct itself", with_list(list_pointer(-14, 7, 13)));
  refused("a capability for a list", with_list(3));
}

TEST(HostileFrame, WithAPrefixThatLiesIsRefused) {
  const auto good = message_of(ping(100));
  const auto refused = [&](const char* what, size_t at, std::vector<uint8_t> bytes,
                           bool seal = true) {
    std::vector<std::byte> message = good;
    for (size_t i = 0; i < bytes.size(); ++i) message[at + i] = std::byte{bytes[i]};
    if (seal) message = sealed(std::move(message));
    EXPECT_FALSE(decode(message).ok()) << what;
  };
  refused("hash", 0, {1, 2, 3, 4, 5, 6, 7, 8}, false);
  refused("magic", 8, {'H', 'T', 'T', 'P'});
  refused("version 0", 12, {0, 0});
  refused("version 65535", 12, {0xff, 0xff});
  refused("reserved bits", 14, {1});
  refused("header of 0 bytes", 16, {0, 0, 0, 0});
  refused("header of 63 bytes", 16, {63, 0, 0, 0});
  refused("header of 64 bytes", 16, {64, 0, 0, 0});
  refused("header of 4 GiB", 16, {0xff, 0xff, 0xff, 0xff});
  refused("no words", 20, {0, 0, 0, 0});
  refused("a word less", 20, {static_cast<uint8_t>(static_cast<uint8_t>(good[20]) - 1)});
  refused("4 Gi words", 20, {0xff, 0xff, 0xff, 0xff});
  refused("both lengths large and consistent", 16, {0x40, 0, 0, 1, 0xfd, 0xff, 0x1f, 0});
}

}  // namespace
}  // namespace troupe::transport
