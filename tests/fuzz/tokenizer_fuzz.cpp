// The bytes up to the first NUL are a tokenizer.json, those behind it a text (the same bytes again
// if there is no NUL). A tokenizer that is accepted must carry any text there and back.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.hpp"
#include "model/text_stream.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_utf8.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace troupe::model;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t nul = input.find('\0');
  const std::string_view text = nul == std::string_view::npos ? input : input.substr(nul + 1);
  const auto tokenizer = Tokenizer::parse(input.substr(0, nul));
  if (!tokenizer.ok()) {
    CHECK(!tokenizer.error().message.empty());
    return 0;
  }
  const auto plain = tokenizer->encode_plain(text);
  const auto tokens = tokenizer->encode(text);
  if (!plain.ok() || !tokens.ok()) return 0;  // a regex that gave up
  std::string repaired;
  append_lossy_utf8(repaired, text);
  CHECK(tokenizer->decode(*plain, false) == repaired);

  for (const bool skip_special : {false, true}) {
    TextStreamOptions options;
    options.skip_special = skip_special;
    auto stream = TextStream::create(*tokenizer, options);
    CHECK(stream.ok());
    std::string streamed;
    for (const troupe::TokenId token : *tokens) {
      CHECK(!tokenizer->token_bytes(token).empty());
      const std::string piece = stream->push(token);
      CHECK_EQ(valid_utf8_prefix(piece), piece.size());
      streamed += piece;
    }
    streamed += stream->flush();
    CHECK(streamed == tokenizer->decode(*tokens, skip_special));
  }
  return 0;
}
