#include "transport/port_address.hpp"

#include <capnp/message.h>
#include <capnp/serialize.h>
#include <sys/stat.h>
#include <xxh_x86dispatch.h>

#include <cstring>

#include "base/kernel_file.hpp"
#include "transport/frame.hpp"
#include "transport/wire.capnp.h"

namespace troupe::transport {
namespace {

constexpr std::string_view kPrefix = "ucx1:";
constexpr uint8_t kNetBit = 1, kShmBit = 2;
constexpr std::string_view kDigits = "0123456789abcdef";
// Worker addresses have some hundred bytes per network device.
constexpr size_t kMaxTextBytes = size_t{64} << 10;

Error damaged(const std::string& what) {
  return Error{Code::kInvalidArgument,
               "this is not the address of a UCX port (" + what +
                   "); use the text that Port::address() of the peer returned, unchanged"};
}

Result<std::vector<std::byte>> from_hex(std::string_view digits) {
  if (digits.size() % 2 != 0) return damaged("odd number of digits");
  std::vector<std::byte> bytes(digits.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    const size_t high = kDigits.find(digits[2 * i]);
    const size_t low = kDigits.find(digits[2 * i + 1]);
    if (high == std::string_view::npos || low == std::string_view::npos) {
      return damaged("a character that is no hexadecimal digit");
    }
    bytes[i] = static_cast<std::byte>(high << 4 | low);
  }
  return bytes;
}

capnp::Data::Reader as_data(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

std::vector<std::byte> as_bytes(capnp::Data::Reader data) {
  const auto* first = reinterpret_cast<const std::byte*>(data.begin());
  return {first, first + data.size()};
}

std::string identity_of(const char* path) {
  struct stat info {};
  if (stat(path, &info) != 0) return "none";
  return std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
}

}  // namespace

std::string to_text(const PortAddress& address) {
  capnp::MallocMessageBuilder builder;
  auto wire = builder.initRoot<wire::PortAddress>();
  wire.setProtocol(kProtocolVersion);
  wire.setWires(
      static_cast<uint8_t>((address.by_net ? kNetBit : 0) | (address.by_shm ? kShmBit : 0)));
  wire.setHost(address.host);
  wire.setNetWorker(as_data(address.net_worker));
  wire.setShmWorker(as_data(address.shm_worker));
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(builder);
  const auto message = words.asBytes();
  const uint64_t hash = XXH3_64bits(message.begin(), message.size());

  std::vector<uint8_t> bytes(sizeof(hash) + message.size());
  std::memcpy(bytes.data(), &hash, sizeof(hash));
  std::memcpy(bytes.data() + sizeof(hash), message.begin(), message.size());
  std::string text(kPrefix);
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

Result<PortAddress> parse_port_address(const std::string& text) {
  if (!text.starts_with(kPrefix)) return damaged("it does not begin with 'ucx1:'");
  if (text.size() > kMaxTextBytes) return damaged("too long");
  const std::vector<std::byte> bytes = TRY(from_hex(std::string_view(text).substr(kPrefix.size())));
  uint64_t hash = 0;
  if (bytes.size() <= sizeof(hash) || bytes.size() % 8 != 0) return damaged("wrong length");
  std::memcpy(&hash, bytes.data(), sizeof(hash));
  auto words = kj::heapArray<capnp::word>(bytes.size() / 8 - 1);
  std::memcpy(words.asBytes().begin(), bytes.data() + sizeof(hash), words.size() * 8);
  if (XXH3_64bits(words.begin(), words.size() * 8) != hash) return damaged("its checksum is wrong");
  try {
    capnp::FlatArrayMessageReader reader(words);
    const auto wire = reader.getRoot<wire::PortAddress>();
    if (wire.getProtocol() != kProtocolVersion) {
      return Error{Code::kUnsupported, "the peer speaks protocol version " +
                                           std::to_string(wire.getProtocol()) + ", this build " +
                                           std::to_string(kProtocolVersion) +
                                           "; run the same release on all nodes"};
    }
    return PortAddress{.by_net = (wire.getWires() & kNetBit) != 0,
                       .by_shm = (wire.getWires() & kShmBit) != 0,
                       .host = wire.getHost(),
                       .net_worker = as_bytes(wire.getNetWorker()),
                       .shm_worker = as_bytes(wire.getShmWorker())};
  } catch (const kj::Exception& e) {
    return damaged(e.getDescription().cStr());
  }
}

uint64_t this_host() {
  const auto boot = first_line("/proc/sys/kernel/random/boot_id");
  const std::string identity = (boot.ok() ? *boot : "") + "|" + identity_of("/proc/self/ns/pid") +
                               "|" + identity_of("/proc/self/ns/ipc") + "|" +
                               identity_of("/dev/shm");
  return XXH3_64bits(identity.data(), identity.size());
}

}  // namespace troupe::transport
