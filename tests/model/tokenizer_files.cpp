#include "tests/model/tokenizer_files.hpp"

#include <boost/json.hpp>
#include <fstream>
#include <sstream>

#include "base/check.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {

std::string read_test_file(const std::string& path_in_repository) {
  std::ifstream in(std::string(TROUPE_SOURCE_DIR) + "/" + path_in_repository, std::ios::binary);
  CHECK(in.good());
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

Tokenizer golden_tokenizer(const std::string& name) {
  auto tokenizer = Tokenizer::parse(
      read_test_file(name == "demo" ? "models/demo/tokenizer.json"
                                    : "tests/golden/tokenizers/" + name + "/tokenizer.json"));
  CHECK(tokenizer.ok());
  return std::move(tokenizer).value();
}

std::string TokenizerParts::json() const {
  std::string vocab;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool prints =
        (byte > ' ' && byte < 0x7F) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string spelling;
    append_utf8(spelling, prints ? byte : next++);
    vocab += boost::json::serialize(spelling) + ":" + std::to_string(uint32_t{byte}) + ",";
  }
  for (size_t i = 0; i < extra_tokens.size(); ++i) {
    vocab += boost::json::serialize(extra_tokens[i]) + ":" + std::to_string(256 + i) + ",";
  }
  vocab.pop_back();
  return R"({"version":"1.0","added_tokens":)" + added_tokens + R"(,"normalizer":)" + normalizer +
         R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"post_processor":)" + post_processor +
         R"(,"decoder":)" + decoder + R"(,"model":{"type":"BPE","vocab":{)" + vocab +
         R"(},"merges":)" + merges + model_options + "}" + root_options + "}";
}

Tokenizer make_tokenizer(const TokenizerParts& parts, std::string_view config) {
  auto tokenizer = Tokenizer::parse(parts.json(), config);
  if (!tokenizer.ok()) {
    internal::check_failed(__FILE__, __LINE__, "made-up tokenizer", tokenizer.error().message);
  }
  return std::move(tokenizer).value();
}

}  // namespace troupe::model
