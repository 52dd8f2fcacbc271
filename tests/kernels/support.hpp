#pragma once

// What the kernel tests share: reproducible data, weights in every stored form, KV blocks, and a
// comparison of bits that says where two results differ.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "base/bfloat16.hpp"
#include "base/random.hpp"
#include "kernels/backend.hpp"
#include "kernels/kernel_set.hpp"

namespace troupe::kernels {

/// A stream of draws; equal seeds give equal streams.
class Draws {
 public:
  explicit Draws(uint64_t seed) : seed_(seed) {}
  uint64_t bits() { return random_bits(seed_, position_++); }
  size_t below(size_t n) { return bits() % n; }
  /// Between -1 and 1, times a power of two from 2^-6 to 1.
  float value() {
    const uint64_t b = bits();
    const double uniform = static_cast<double>(b >> 11) * 0x1p-52 - 1.0;
    return static_cast<float>(std::ldexp(uniform, -static_cast<int>(b % 7)));
  }
  std::vector<float> values(size_t n) {
    std::vector<float> out(n);
    for (float& v : out) v = value();
    return out;
  }

 private:
  uint64_t seed_;
  uint64_t position_ = 0;
};

/// A random weight matrix in one stored form, at an odd address.
struct StoredWeight {
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  WeightView view;

  StoredWeight(DType dtype, size_t out, size_t in, Draws& draws, bool with_scales = true)
      : bytes(1 + out * in * size_of(dtype)) {
    for (size_t i = 0; i < out * in; ++i) {
      const float value = draws.value();
      uint32_t bits = std::bit_cast<uint32_t>(value);
      if (dtype == DType::kBF16) bits >>= 16U;
      if (dtype == DType::kF16) bits = draws.bits() & 0xbfffU;  // magnitude below 2
      if (dtype == DType::kF8E4M3) bits = draws.bits() % 0x7fU | (draws.bits() & 0x80U);
      std::memcpy(bytes.data() + 1 + i * size_of(dtype), &bits, size_of(dtype));
    }
    view = {.data = bytes.data() + 1, .dtype = dtype, .out = out, .in = in};
    if (dtype == DType::kF8E4M3 && with_scales) {
      for (size_t i = 0; i < (out + 127) / 128 * ((in + 127) / 128); ++i) {
        scales.push_back(0.004F + 0.001F * std::abs(draws.value()));
      }
      view.scales = scales.data();
    }
  }
};

inline const std::vector<DType>& all_dtypes() {
  static const std::vector<DType> kAll = {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3};
  return kAll;
}

/// How integer weights are stored.
struct IntegerForm {
  std::string name;
  DType dtype;
  size_t group;
  DType scale_dtype;
  bool zeros = false;
};

inline void PrintTo(const IntegerForm& form, std::ostream* out) { *out << form.name; }

inline constexpr size_t kWholeRow = size_t{1} << 20U;

/// What `troupe quantize` writes, with scales in BF16; and with scales in float32 what others
/// publish, or a file may have.
inline const std::vector<IntegerForm>& integer_forms() {
  static const std::vector<IntegerForm> kForms = {
      {"I8PerRow", DType::kI8, kWholeRow, DType::kBF16},
      {"I8In128", DType::kI8, 128, DType::kBF16},
      {"I4In32", DType::kI4, 32, DType::kBF16},
      {"I4In32WithZeros", DType::kI4, 32, DType::kBF16, true},
      {"I4In128", DType::kI4, 128, DType::kBF16},
      {"I4In128WithZeros", DType::kI4, 128, DType::kBF16, true},
      {"I8PerRowByF32", DType::kI8, kWholeRow, DType::kF32},
      {"I8In128ByF32", DType::kI8, 128, DType::kF32},
      {"I4In32WithZerosByF32", DType::kI4, 32, DType::kF32, true},
      {"I4In128ByF32", DType::kI4, 128, DType::kF32},
      {"I4PerRowWithZerosByF32", DType::kI4, kWholeRow, DType::kF32, true},
  };
  return kForms;
}

/// Random integers of one form, all values of the type among them.
struct IntegerWeight {
  std::vector<std::byte> bytes;
  std::vector<std::byte> scales;
  std::vector<uint8_t> zeros;
  WeightView view;

  IntegerWeight(const IntegerForm& form, size_t out, size_t in, Draws& draws) {
    view = {.dtype = form.dtype, .out = out, .in = in};
    view.group_scales = {.dtype = form.scale_dtype, .group = form.group};
    const size_t num_scales = out * view.num_groups();
    bytes.resize(1 + view.size_bytes());  // at an odd address
    for (std::byte& b : bytes) b = static_cast<std::byte>(draws.bits());
    scales.resize(1 + num_scales * size_of(form.scale_dtype));
    for (size_t i = 0; i < num_scales; ++i) {
      uint32_t bits = std::bit_cast<uint32_t>(0.004F + 0.001F * draws.value());
      if (form.scale_dtype == DType::kBF16) bits >>= 16U;
      std::memcpy(&scales[1 + i * size_of(form.scale_dtype)], &bits, size_of(form.scale_dtype));
    }
    view.data = bytes.data() + 1;
    view.group_scales.data = scales.data() + 1;
    if (form.zeros) {
      for (size_t i = 0; i < num_scales; ++i) {
        zeros.push_back(static_cast<uint8_t>(draws.below(17)));
      }
      view.group_scales.zeros = zeros.data();
    }
  }
  IntegerWeight(const IntegerWeight&) = delete;
  IntegerWeight& operator=(const IntegerWeight&) = delete;
};

/// How a cache holds what was drawn: in float32, rounded to BF16, or rounded and as float32 again.
enum class StoredKv { kF32, kBF16, kRounded };

/// The cached rows of one request, in blocks that do not follow each other in memory.
struct KvCache {
  std::vector<std::vector<float>> floats;
  std::vector<std::vector<uint16_t>> halves;
  std::vector<const void*> blocks;
  DType dtype;

  KvCache(size_t positions, size_t block_tokens, size_t width, Draws& draws,
          StoredKv stored = StoredKv::kF32)
      : dtype(stored == StoredKv::kBF16 ? DType::kBF16 : DType::kF32) {
    const size_t n = (positions + block_tokens - 1) / block_tokens;
    for (size_t b = 0; b < n; ++b) {
      floats.push_back(draws.values(block_tokens * width));
      if (stored == StoredKv::kF32) continue;
      std::vector<float>& block = floats.back();
      halves.emplace_back(block.size());
      std::ranges::transform(block, halves.back().begin(), to_bf16);
      std::ranges::transform(halves.back(), block.begin(), from_bf16);
    }
    for (size_t b = n; b-- > 0;) {
      if (dtype == DType::kBF16) {
        blocks.push_back(halves[b].data());
      } else {
        blocks.push_back(floats[b].data());
      }
    }
  }
  [[nodiscard]] AttentionRow row(size_t context_len) const {
    return {.blocks = blocks, .context_len = static_cast<uint32_t>(context_len)};
  }
};

/// "" if all bits agree (a NaN agrees with any NaN), else the first difference.
inline std::string bit_difference(const std::vector<float>& want, const std::vector<float>& got) {
  if (want.size() != got.size()) return "sizes differ";
  for (size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i]) && std::isnan(got[i])) continue;
    if (std::bit_cast<uint32_t>(want[i]) == std::bit_cast<uint32_t>(got[i])) continue;
    std::ostringstream out;
    out << "element " << i << " of " << want.size() << ": " << std::hexfloat << want[i] << " vs "
        << got[i];
    return out.str();
  }
  return "";
}

/// Every way to compute that this machine has: each version of the kernels, without a pool and with
/// 3 threads; the best one with 1, 2 and 5, too, since all are cut into parts alike.
class Versions {
 public:
  struct Version {
    std::string name;
    std::unique_ptr<ThreadPool> pool;
    std::unique_ptr<Ops> ops;
  };

  Versions() {
    for (const KernelSet* kernels : cpu_kernels()) {
      for (const size_t num_threads : {0, 1, 2, 3, 5}) {
        const bool is_best = kernels == cpu_kernels().front();
        if (!is_best && num_threads != 0 && num_threads != 3) continue;
        if (kernels == &scalar_kernels() && num_threads != 3) continue;
        Version v;
        if (num_threads > 0) v.pool = std::make_unique<ThreadPool>(num_threads);
        v.ops = make_cpu_ops(v.pool.get(), *kernels);
        v.name = kernels->target + (", " + std::to_string(num_threads)) + " threads";
        versions_.push_back(std::move(v));
      }
    }
  }

  [[nodiscard]] const std::vector<Version>& all() const { return versions_; }

 private:
  std::vector<Version> versions_;
};

inline const Versions& versions() {
  static const Versions kVersions;
  return kVersions;
}

inline Ops& scalar() {
  static const std::unique_ptr<Ops> kScalar = make_scalar_ops();
  return *kScalar;
}

/// Runs `compute` with the specification and with every version and expects the same bits.
/// @param compute returns all results of one run.
inline void expect_same_bits(const std::string& what,
                             const std::function<std::vector<float>(Ops&)>& compute) {
  const std::vector<float> want = compute(scalar());
  for (const Versions::Version& v : versions().all()) {
    const std::string difference = bit_difference(want, compute(*v.ops));
    ASSERT_EQ(difference, "") << what << " with " << v.name;
  }
}

}  // namespace troupe::kernels
