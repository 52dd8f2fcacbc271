#pragma once

// Counter-based random numbers: a draw is a pure function of (seed, position, stream), so any
// worker can resume any request at any token and draw what another would have drawn.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox4x32-10.

#include <array>
#include <cstdint>

namespace troupe {

/// Philox4x32 with ten rounds; the test vectors of the paper's reference hold.
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter,
                                             std::array<uint32_t, 2> key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

/// 64 random bits for (seed, position, stream).
constexpr uint64_t random_bits(uint64_t seed, uint64_t position, uint64_t stream = 0) {
  const auto words =
      philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32),
                  static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return (static_cast<uint64_t>(words[1]) << 32) | words[0];
}

/// A double in [0, 1), all 53 bits used.
constexpr double random_uniform(uint64_t seed, uint64_t position, uint64_t stream = 0) {
  return static_cast<double>(random_bits(seed, position, stream) >> 11) * 0x1.0p-53;
}

}  // namespace troupe
