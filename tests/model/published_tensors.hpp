#pragma once

// Integer matrices packed as compressed-tensors, GPTQ and AWQ store them, by their definitions.

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "model/config.hpp"
#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {

struct PublishedTestFormat {
  const char* name;
  PublishedIntegers published;
  std::string config;  ///< quantization_config
};

void PrintTo(const PublishedTestFormat& format, std::ostream* out);

/// One of each kind that is read.
const std::vector<PublishedTestFormat>& published_formats();

/// Element (o, i) stands for (integer - zero) * scale.
struct IntegerMatrix {
  size_t out = 0, in = 0, group = 0;
  std::vector<unsigned> integers;  ///< [out, in], of 4 or 8 bits
  std::vector<unsigned> zeros;     ///< [out, groups]
  std::vector<float> scales;       ///< [out, groups], each a BF16
  std::vector<uint32_t> groups;    ///< [in], of each column; empty: as they come

  [[nodiscard]] size_t num_groups() const { return (in + group - 1) / group; }
  [[nodiscard]] size_t group_of(size_t i) const { return groups.empty() ? i / group : groups[i]; }
  [[nodiscard]] float number(size_t o, size_t i) const {
    const size_t g = o * num_groups() + group_of(i);
    return static_cast<float>(static_cast<int>(integers[o * in + i]) - static_cast<int>(zeros[g])) *
           scales[g];
  }
};

/// Any groups for `in` columns, each of as many.
std::vector<uint32_t> random_groups(size_t in, size_t group, uint64_t seed);

/// A matrix with any integers that the format can store.
IntegerMatrix random_integers(const PublishedIntegers& format, size_t out, size_t in,
                              uint64_t seed);

/// By the end of their names: "weight", "weight_scale"...
TestTensors published_tensors(const PublishedIntegers& format, const IntegerMatrix& matrix);

}  // namespace troupe::model
