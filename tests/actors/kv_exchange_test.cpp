#include "actors/kv_exchange.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace troupe::actors {
namespace {

std::shared_ptr<transport::Buffer> first_bytes(const transport::Buffer& whole, size_t size) {
  auto part = transport::Buffer::allocate(size);
  std::memcpy(part->data(), whole.data(), size);
  return part;
}

TEST(KvQuestion, ComesBackAsItWas) {
  const std::vector<TokenId> tokens{5, -1, 129'279};
  const auto decoded = decode_prefix(encode_prefix("tenant/salt", tokens));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  EXPECT_EQ(decoded->cache_namespace, "tenant/salt");
  EXPECT_EQ(decoded->tokens, tokens);
}

TEST(KvQuestion, IsRefusedWhenItIsCutShortOrLiesAboutItsLength) {
  const auto whole = encode_prefix("", {1, 2, 3});
  for (size_t size = 0; size < whole->size(); ++size) {
    EXPECT_FALSE(decode_prefix(first_bytes(*whole, size)).ok()) << size << " bytes";
  }
  EXPECT_FALSE(decode_prefix(nullptr).ok());
  for (const uint32_t lie : {0U, 4U, 0x40000001U, 0xFFFFFFFFU}) {
    auto lying = first_bytes(*whole, whole->size());
    std::memcpy(lying->data(), &lie, sizeof(lie));
    EXPECT_FALSE(decode_prefix(lying).ok()) << lie;
  }
}

}  // namespace
}  // namespace troupe::actors
