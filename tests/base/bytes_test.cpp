#include "base/bytes.hpp"

#include <gtest/gtest.h>

#include <array>

namespace troupe {
namespace {

TEST(ByteReader, ReadsLittleEndianAndRefusesToPassTheEnd) {
  const std::array<std::byte, 6> raw{std::byte{1}, std::byte{2}, std::byte{3},
                                     std::byte{4}, std::byte{5}, std::byte{6}};
  ByteReader reader(raw);
  EXPECT_EQ(*reader.read<uint32_t>(), 0x04030201U);
  EXPECT_FALSE(reader.read<uint32_t>().ok());
  EXPECT_EQ(reader.remaining(), 2U);
  EXPECT_EQ(*reader.read<uint16_t>(), 0x0605U);
  EXPECT_EQ(reader.take(1).error().code, Code::kCorrupt);
}

}  // namespace
}  // namespace troupe
