#include "model/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <span>
#include <string>

#include "tests/model/checkpoint_files.hpp"

namespace troupe::model {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<std::vector<TensorHeader>> parse(const std::string& file) {
  return TRY(parse_safetensors(std::as_bytes(std::span(file)), file.size())).tensors;
}

/// A file with this header and so many bytes of data.
std::string file_of(const std::string& header, size_t data_bytes) {
  return safetensors_prefix(header) + std::string(data_bytes, '\0');
}

TEST(Safetensors, GivesNameTypeShapeAndPlaceOfEachTensor) {
  const std::string header =
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";
  const auto tensors = parse(file_of(header, 16));
  ASSERT_TRUE(tensors.ok()) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 2U);
  const TensorHeader& a = (*tensors)[0];
  const TensorHeader& b = (*tensors)[1];
  EXPECT_EQ(a.name, "a");
  EXPECT_EQ(a.dtype, DType::kF32);
  EXPECT_EQ(a.num_elements(), 1U);
  EXPECT_EQ(a.begin, 8 + header.size());
  EXPECT_EQ(b.name, "b");
  EXPECT_EQ(b.dtype, DType::kBF16);
  EXPECT_THAT(b.shape, ElementsAre(2, 3));
  EXPECT_EQ(b.begin, a.end);
  EXPECT_EQ(b.end, b.begin + 12);
}

TEST(Safetensors, KnowsTypesItDoesNotComputeWith) {
  const auto tensors =
      parse(file_of(R"({"ids":{"dtype":"I64","shape":[3],"data_offsets":[0,24]}})", 24));
  ASSERT_TRUE(tensors.ok()) << tensors.error().message;
  EXPECT_EQ((*tensors)[0].stored_dtype, "I64");
  EXPECT_FALSE((*tensors)[0].dtype.has_value());
}

TEST(Safetensors, TakesEmptyTensorsAndPaddedHeaders) {
  const auto tensors =
      parse(file_of(R"({"e":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},)"
                    R"("f":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}       )",
                    1));
  ASSERT_TRUE(tensors.ok()) << tensors.error().message;
  EXPECT_EQ(tensors->size(), 2U);
}

struct LyingHeader {
  const char* name;
  const char* header;
  size_t data_bytes;
  const char* mentions;
};

class LyingSafetensors : public ::testing::TestWithParam<LyingHeader> {};

TEST_P(LyingSafetensors, AreRefusedByName) {
  const auto result = parse(file_of(GetParam().header, GetParam().data_bytes));
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr(GetParam().mentions));
}

INSTANTIATE_TEST_SUITE_P(
    Headers, LyingSafetensors,
    ::testing::Values(
        LyingHeader{"Array", "[]", 0, "not an object"},
        LyingHeader{"Empty", "", 0, "not valid JSON"},
        LyingHeader{"TwoDocuments", "{}{}", 0, "not valid JSON"},
        LyingHeader{"NotUtf8", "{\"\xff\":{}}", 0, "not valid JSON"},
        LyingHeader{"TooDeep", R"({"w":[[[[[[[[[[]]]]]]]]]]})", 0, "too deep"},
        LyingHeader{"EntryIsNumber", R"({"w":3})", 0, "\"w\""},
        LyingHeader{"NoDtype", R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4, "\"w\""},
        LyingHeader{"NoOffsets", R"({"w":{"dtype":"F32","shape":[1]}})", 4, "\"w\""},
        LyingHeader{"ExtraKey",
                    R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]}})", 4,
                    "\"strides\""},
        LyingHeader{"UnknownDtype", R"({"w":{"dtype":"F12","shape":[1],"data_offsets":[0,4]}})", 4,
                    "\"F12\""},
        LyingHeader{"DtypeIsNumber", R"({"w":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4,
                    "dtype is 32"},
        LyingHeader{"NegativeDim", R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4,
                    "shape holds -1"},
        LyingHeader{"FractionalDim", R"({"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})",
                    4, "shape"},
        LyingHeader{"TooManyDims",
                    R"({"w":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}})", 1,
                    "shape"},
        LyingHeader{"SizeOverflows",
                    R"({"w":{"dtype":"F32","shape":[4294967296,4294967296,1],)"
                    R"("data_offsets":[0,0]}})",
                    0, "does not fit"},
        LyingHeader{"OverflowHiddenByZero",
                    R"({"w":{"dtype":"F32","shape":[4294967296,4294967296,0],)"
                    R"("data_offsets":[0,0]}})",
                    0, "does not fit"},
        LyingHeader{"ShapeTooSmall", R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}})", 8,
                    "does not fit"},
        LyingHeader{"ShapeTooLarge", R"({"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8,
                    "does not fit"},
        LyingHeader{"BeyondTheEnd", R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4,
                    "outside"},
        LyingHeader{"OffsetsSwapped", R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})",
                    4, "outside"},
        LyingHeader{"OneOffset", R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4]}})", 4,
                    "data_offsets"},
        LyingHeader{"HugeOffsets",
                    R"({"w":{"dtype":"F32","shape":[1],)"
                    R"("data_offsets":[18446744073709551612,18446744073709551615]}})",
                    4, "outside"},
        LyingHeader{"Overlap",
                    R"({"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                    R"("w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                    12, "\"w\""},
        LyingHeader{"SameBytesTwice",
                    R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                    R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                    4, "\"w\""},
        LyingHeader{"Gap",
                    R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                    R"("w":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                    12, "\"w\""},
        LyingHeader{"TrailingBytes", R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 9,
                    "has 9"},
        LyingHeader{"RepeatedName",
                    R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                    R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                    4, "\"w\" occurs twice"},
        LyingHeader{"MetadataIsList", R"({"__metadata__":[]})", 0, "__metadata__"},
        LyingHeader{"MetadataHoldsNumber", R"({"__metadata__":{"a":1}})", 0, "__metadata__"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Safetensors, ChecksTheHeaderLengthBeforeReadingIt) {
  const auto size_of = [](uint64_t claimed, uint64_t file_size) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &claimed, 8);
    return safetensors_header_size(std::as_bytes(std::span(bytes)), file_size);
  };
  EXPECT_EQ(*size_of(10, 18), 18U);
  EXPECT_FALSE(size_of(11, 18).ok());
  EXPECT_FALSE(size_of(UINT64_MAX, 18).ok());
  EXPECT_FALSE(size_of(kMaxSafetensorsHeader + 1, UINT64_MAX).ok());
  EXPECT_FALSE(safetensors_header_size({}, 0).ok());
}

TEST(Safetensors, EveryTruncationOfAFileIsAnError) {
  const std::string file = safetensors({{"v", ramp({3, 5})}, {"w", ramp_bf16({4})}});
  ASSERT_TRUE(parse(file).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(parse(file.substr(0, size)).ok()) << size;
  }
}

}  // namespace
}  // namespace troupe::model
