#pragma once

// What the tests of text share: goldens of tests/golden/tokenizers, and small made-up tokenizers.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "model/tokenizer.hpp"

namespace troupe::model {

std::string read_test_file(const std::string& path_in_repository);

/// tests/golden/tokenizers/NAME/tokenizer.json; ends the test program if it cannot be read.
Tokenizer golden_tokenizer(const std::string& name);

/// The parts of a made-up tokenizer.json; each is JSON text. Its vocabulary is the 256 bytes in the
/// order of their values, then `extra_tokens` from id 256 on.
struct TokenizerParts {
  std::string added_tokens = "[]";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})";
  std::string post_processor = "null";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string model_options;  // ", \"ignore_merges\": true"
  std::vector<std::string> extra_tokens;
  std::string merges = "[]";
  std::string root_options;

  [[nodiscard]] std::string json() const;
};

/// Parses, and fails the test with the message if that is an Error.
Tokenizer make_tokenizer(const TokenizerParts& parts, std::string_view config = "{}");

}  // namespace troupe::model
