#include "tests/model/published_tensors.hpp"

#include <array>
#include <functional>
#include <ostream>
#include <utility>

#include "base/random.hpp"

namespace troupe::model {
namespace {

using At = std::function<unsigned(size_t row, size_t column)>;

void put(std::string& bytes, uint32_t word) {
  bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
}

/// I32 [rows / n, columns]: n neighbours of a column in a word, the first in the lowest bits.
TestTensor packed_down(size_t rows, size_t columns, size_t bits, const At& at) {
  const size_t n = 32 / bits;
  TestTensor tensor{"I32", {rows / n, columns}, {}};
  for (size_t row = 0; row < rows; row += n) {
    for (size_t column = 0; column < columns; ++column) {
      uint32_t word = 0;
      for (size_t k = 0; k < n; ++k) word |= uint32_t{at(row + k, column)} << (bits * k);
      put(tensor.bytes, word);
    }
  }
  return tensor;
}

/// I32 [rows, columns / n]: n neighbours of a row in a word, in this order from the lowest bits on.
TestTensor packed_along(size_t rows, size_t columns, size_t bits, const At& at,
                        const std::array<size_t, 8>& order = {0, 1, 2, 3, 4, 5, 6, 7}) {
  const size_t n = 32 / bits;
  TestTensor tensor{"I32", {rows, columns / n}, {}};
  for (size_t row = 0; row < rows; ++row) {
    for (size_t column = 0; column < columns; column += n) {
      uint32_t word = 0;
      for (size_t k = 0; k < n; ++k) word |= uint32_t{at(row, column + order[k])} << (bits * k);
      put(tensor.bytes, word);
    }
  }
  return tensor;
}

TestTensor bf16(size_t rows, size_t columns,
                const std::function<float(size_t row, size_t column)>& at) {
  TestTensor tensor{"BF16", {rows, columns}, {}};
  for (size_t row = 0; row < rows; ++row) {
    for (size_t column = 0; column < columns; ++column) {
      const float value = at(row, column);
      tensor.bytes.append(reinterpret_cast<const char*>(&value) + 2, 2);
    }
  }
  return tensor;
}

PublishedTestFormat compressed(const char* name, PublishedIntegers published,
                               const std::string& weights) {
  const bool packed = published.format == PublishedFormat::kCompressedPacked;
  return {name, published,
          R"({"quant_method":"compressed-tensors","ignore":["lm_head"],"format":")" +
              std::string(packed ? "pack-quantized" : "int-quantized") +
              R"(","config_groups":{"group_0":{"targets":["Linear"],"weights":{"type":"int",)" +
              weights + "}}}}"};
}

}  // namespace

void PrintTo(const PublishedTestFormat& format, std::ostream* out) { *out << format.name; }

const std::vector<PublishedTestFormat>& published_formats() {
  using F = PublishedFormat;
  constexpr DType kI4 = DType::kI4, kI8 = DType::kI8;
  static const std::vector<PublishedTestFormat> all = {
      compressed("CompressedInt8", {F::kCompressedInt8, kI8, 0, false},
                 R"("num_bits":8,"symmetric":true,"strategy":"channel","group_size":null,)"
                 R"("dynamic":false)"),
      compressed("CompressedInt8Groups", {F::kCompressedInt8, kI8, 32, false},
                 R"("num_bits":8,"symmetric":true,"strategy":"group","group_size":32)"),
      compressed("CompressedInt4", {F::kCompressedPacked, kI4, 32, false},
                 R"("num_bits":4,"symmetric":true,"strategy":"group","group_size":32,)"
                 R"("actorder":null)"),
      compressed("CompressedInt4Zeros", {F::kCompressedPacked, kI4, 32, true},
                 R"("num_bits":4,"symmetric":false,"strategy":"group","group_size":32,)"
                 R"("actorder":"weight","zp_dtype":"torch.int8")"),
      compressed("CompressedInt4Rows", {F::kCompressedPacked, kI4, 0, false},
                 R"("num_bits":4,"symmetric":true,"strategy":"channel","group_size":-1,)"
                 R"("actorder":"static")"),
      compressed("CompressedInt4RowsZeros", {F::kCompressedPacked, kI4, 0, true},
                 R"("num_bits":4,"symmetric":false,"strategy":"channel")"),
      compressed("CompressedPackedInt8", {F::kCompressedPacked, kI8, 0, false},
                 R"("num_bits":8,"symmetric":true,"strategy":"channel")"),
      compressed("CompressedPackedInt8Groups", {F::kCompressedPacked, kI8, 32, false},
                 R"("num_bits":8,"symmetric":true,"strategy":"group","group_size":32)"),
      compressed("CompressedActOrder", {F::kCompressedPacked, kI4, 32, true, true},
                 R"("num_bits":4,"symmetric":false,"strategy":"group","group_size":32,)"
                 R"("actorder":"group")"),
      {"Gptq",
       {F::kGptq, kI4, 32, true},
       R"({"quant_method":"gptq","bits":4,"group_size":32,"desc_act":false,"sym":false})"},
      {"GptqV2",
       {F::kGptqV2, kI4, 32, true},
       R"({"quant_method":"gptq","bits":4,"group_size":32,"checkpoint_format":"gptq_v2"})"},
      {"GptqInt8",
       {F::kGptq, kI8, 32, true},
       R"({"quant_method":"gptq","bits":8,"group_size":32,"sym":true})"},
      {"GptqActOrder",
       {F::kGptq, kI4, 32, true, true},
       R"({"quant_method":"gptq","bits":4,"group_size":32,"desc_act":true,"sym":false})"},
      {"GptqActOrderInt8",
       {F::kGptq, kI8, 32, true, true},
       R"({"quant_method":"gptq","bits":8,"group_size":32,"desc_act":true,"sym":true})"},
      {"GptqV2Int8",
       {F::kGptqV2, kI8, 0, true},
       R"({"quant_method":"gptq","bits":8,"group_size":-1,"checkpoint_format":"gptq_v2"})"},
      {"Awq",
       {F::kAwq, kI4, 32, true},
       R"({"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,"version":"gemm"})"},
  };
  return all;
}

std::vector<uint32_t> random_groups(size_t in, size_t group, uint64_t seed) {
  std::vector<uint32_t> groups(in);
  for (size_t i = 0; i < in; ++i) groups[i] = static_cast<uint32_t>(i / group);
  for (size_t i = in; i-- > 1;) std::swap(groups[i], groups[random_bits(seed, i, 3) % (i + 1)]);
  return groups;
}

IntegerMatrix random_integers(const PublishedIntegers& format, size_t out, size_t in,
                              uint64_t seed) {
  const bool int8 = format.dtype == DType::kI8;
  IntegerMatrix m{.out = out, .in = in, .group = format.group == 0 ? in : format.group};
  for (size_t i = 0; i < out * in; ++i) {
    m.integers.push_back(static_cast<unsigned>(random_bits(seed, i) & (int8 ? 255 : 15)));
  }
  // The first version of GPTQ cannot store a zero of 0.
  const unsigned least = format.format == PublishedFormat::kGptq ? 1 : 0;
  for (size_t i = 0; i < out * m.num_groups(); ++i) {
    const auto bits = static_cast<unsigned>(random_bits(seed, i, 1) & 15);
    m.zeros.push_back(int8 ? 128 : format.zeros ? bits + least : 8);
    m.scales.push_back(static_cast<float>(1 + (random_bits(seed, i, 2) & 63)) * 0x1p-10F);
  }
  if (format.reordered) m.groups = random_groups(in, m.group, seed);
  return m;
}

TestTensors published_tensors(const PublishedIntegers& format, const IntegerMatrix& m) {
  const size_t bits = format.dtype == DType::kI8 ? 8 : 4;
  const size_t groups = m.num_groups();
  const At integer = [&](size_t o, size_t i) { return m.integers[o * m.in + i]; };
  const At zero = [&](size_t o, size_t g) { return m.zeros[o * groups + g]; };
  const auto scale = [&](size_t o, size_t g) { return m.scales[o * groups + g]; };
  const auto group_index = [&] {
    TestTensor tensor{"I32", {m.in}, {}};
    for (size_t i = 0; i < m.in; ++i) put(tensor.bytes, static_cast<uint32_t>(m.group_of(i)));
    return tensor;
  };
  TestTensors tensors;
  switch (format.format) {
    case PublishedFormat::kCompressedInt8: {
      TestTensor& weight = tensors["weight"] = {"I8", {m.out, m.in}, {}};
      for (const unsigned q : m.integers) weight.bytes += static_cast<char>(q - 128);
      tensors["weight_scale"] = bf16(m.out, groups, scale);
      break;
    }
    case PublishedFormat::kCompressedPacked:
      tensors["weight_packed"] = packed_along(m.out, m.in, bits, integer);
      tensors["weight_scale"] = bf16(m.out, groups, scale);
      if (format.zeros) tensors["weight_zero_point"] = packed_down(m.out, groups, bits, zero);
      if (format.reordered) tensors["weight_g_idx"] = group_index();
      tensors["weight_shape"] = {"I64", {2}, std::string(16, '\0')};
      break;
    case PublishedFormat::kGptq:
    case PublishedFormat::kGptqV2: {
      const unsigned less = format.format == PublishedFormat::kGptq ? 1 : 0;
      tensors["qweight"] =
          packed_down(m.in, m.out, bits, [&](size_t i, size_t o) { return integer(o, i); });
      tensors["qzeros"] =
          packed_along(groups, m.out, bits, [&](size_t g, size_t o) { return zero(o, g) - less; });
      tensors["scales"] = bf16(groups, m.out, [&](size_t g, size_t o) { return scale(o, g); });
      tensors["g_idx"] = group_index();
      break;
    }
    case PublishedFormat::kAwq: {
      constexpr std::array<size_t, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};
      tensors["qweight"] = packed_along(
          m.in, m.out, bits, [&](size_t i, size_t o) { return integer(o, i); }, kOrder);
      tensors["qzeros"] = packed_along(
          groups, m.out, bits, [&](size_t g, size_t o) { return zero(o, g); }, kOrder);
      tensors["scales"] = bf16(groups, m.out, [&](size_t g, size_t o) { return scale(o, g); });
      break;
    }
  }
  return tensors;
}

}  // namespace troupe::model
