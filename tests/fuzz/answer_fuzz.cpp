// The first byte chooses a syntax and how the rest, the text of an answer, is cut into pieces. What
// comes out must not depend on the cuts, and without syntax must be the text itself.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.hpp"
#include "model/answer_parser.hpp"

namespace {

using namespace troupe::model;

std::vector<AnswerPart> parse(AnswerSyntax syntax, std::string_view text, size_t piece) {
  AnswerParser parser(syntax);
  std::vector<AnswerPart> all;
  uint64_t num_calls = 0;
  const auto add = [&](std::vector<AnswerPart> parts) {
    for (AnswerPart& part : parts) {
      const bool is_call = part.kind == AnswerPart::Kind::kToolCall;
      CHECK_EQ(is_call, part.text.empty());
      CHECK_EQ(is_call, !part.name.empty());
      num_calls += is_call ? 1 : 0;
      if (part.kind == AnswerPart::Kind::kArguments) {
        CHECK(!all.empty() && all.back().kind == AnswerPart::Kind::kToolCall);
        CHECK(!all.back().text.empty() || part.text[0] == '{');
        all.back().text += part.text;
      } else if (!is_call && !all.empty() && all.back().kind == part.kind) {
        all.back().text += part.text;
      } else {
        all.push_back(std::move(part));
      }
    }
    CHECK_LE(parser.num_ended_calls(), num_calls);
    CHECK_LE(num_calls, parser.num_ended_calls() + 1);
  };
  for (size_t at = 0; at < text.size(); at += piece) add(parser.push(text.substr(at, piece)));
  add(parser.finish());
  return all;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 65536) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  AnswerSyntax syntax;
  syntax.has_reasoning = (data[0] & 1U) != 0;
  syntax.opens_in_reasoning = syntax.has_reasoning && (data[0] & 2U) != 0;
  syntax.tools = static_cast<ToolSyntax>((data[0] >> 2U & 3U) % 3);
  syntax.guided_calls = (data[0] & 16U) != 0;
  const size_t piece = 1 + (data[0] >> 5U);
  const auto whole = parse(syntax, text, text.size() + 1);
  CHECK(parse(syntax, text, piece) == whole);
  size_t num_bytes = 0;
  for (const AnswerPart& part : whole) num_bytes += part.text.size() + part.name.size();
  CHECK_LE(num_bytes, text.size());
  if (!syntax.has_reasoning && syntax.tools == ToolSyntax::kNone && !text.empty()) {
    CHECK_EQ(whole.size(), 1U);
    CHECK(whole[0].text == text);
  }
  return 0;
}
