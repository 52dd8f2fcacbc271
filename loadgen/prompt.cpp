#include "loadgen/prompt.hpp"

#include <algorithm>
#include <string_view>

#include "base/check.hpp"
#include "base/random.hpp"

namespace troupe::loadgen {
namespace {

constexpr size_t kMinWords = 64;
constexpr size_t kMaxWords = 8192;  // more would not make prompts more different

constexpr std::string_view kCommonWords =
    " about above after again all also always among and another answer any area around ask away "
    "back"
    " because become before began begin being below best better between big black blue board body"
    " book both bring build business but call came can car care carry case change check children"
    " city class clear close cold come common complete could country course cut dark day deep did"
    " different door down draw dry during each early earth east easy eat end enough even ever every"
    " example eye face fact fall family far farm fast father feel feet few field figure find fire"
    " first fish five fly follow food foot for force form found four free friend from front full"
    " gave get girl give gold good got govern great green ground group grow had half hand happen"
    " hard has have head hear heat help here high hold home hope hot hour house how hundred idea"
    " inch interest island just keep kind king knew know land language large last late laugh lay"
    " lead learn leave left less let letter life light like line list listen little live long look"
    " love low machine made main make man many map mark may mean measure men might mile mind minute"
    " money moon more morning most mother mountain move much music must name near need never new "
    "next"
    " night north note nothing notice now number object off often old once one only open order "
    "other"
    " our out over own page paper part pass pattern people person picture piece place plain plan"
    " plane plant play point port pose possible power problem produce product program pull put"
    " question quick rain ran reach read real record red remember rest right river road rock room"
    " round rule run said same saw say school science sea second see seem self sentence serve set"
    " several shape she ship short should show side simple since sing sit six size sleep slow small"
    " snow some song soon sound south space special spell stand star start state stay step still"
    " stood stop story street strong study such sun sure surface table take talk teach tell ten "
    "test"
    " than that the their them then there these they thing think this those though thought thousand"
    " three through time together told too took top town travel tree true try turn two under unit"
    " until use usual very voice vowel walk want war warm was watch water way week well went were"
    " west what wheel when where which while white who whole why will wind with wonder wood word "
    "work"
    " world would write year young your";

template <class Take>
void each_word(uint64_t seed, const std::vector<Segment>& segments, Take&& take) {
  for (const Segment& segment : segments) {
    for (uint32_t i = 0; i < segment.num_words; ++i) {
      take(random_bits(seed, i, segment.stream));
    }
  }
}

}  // namespace

WordPool common_words(TokenId first_id, TokenId last_id) {
  CHECK(first_id >= 0 && first_id <= last_id);
  WordPool pool;
  for (size_t begin = 0; begin != std::string_view::npos;) {
    const size_t end = kCommonWords.find(' ', begin + 1);
    pool.texts.emplace_back(kCommonWords.substr(begin, end - begin));
    begin = end;
  }
  for (TokenId id = first_id; id <= last_id; ++id) pool.ids.push_back(id);
  return pool;
}

Result<WordPool> words_of(const model::Tokenizer& tokenizer) {
  WordPool pool;
  for (TokenId id = 0; id < static_cast<TokenId>(tokenizer.vocab_size()); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id);
    // A blank and small letters: pre-tokenizers cut before it, whatever stands there.
    const bool is_word =
        bytes.size() >= 3 && bytes[0] == ' ' &&
        std::all_of(bytes.begin() + 1, bytes.end(), [](char c) { return c >= 'a' && c <= 'z'; });
    if (!is_word || tokenizer.is_special(id)) continue;
    const auto encoded = TRY(tokenizer.encode_plain(bytes));
    if (encoded != std::vector<TokenId>{id}) continue;
    pool.texts.emplace_back(bytes);
    pool.ids.push_back(id);
    if (pool.ids.size() == kMaxWords) break;
  }
  if (pool.ids.size() < kMinWords) {
    return Error{Code::kUnsupported, "the tokenizer has only " + std::to_string(pool.ids.size()) +
                                         " words of one token; prompts need " +
                                         std::to_string(kMinWords)};
  }
  return pool;
}

std::string text_of(const WordPool& pool, uint64_t seed, const std::vector<Segment>& segments) {
  std::string text;
  each_word(seed, segments, [&](uint64_t bits) { text += pool.texts[bits % pool.texts.size()]; });
  return text;
}

std::vector<TokenId> tokens_of(const WordPool& pool, uint64_t seed,
                               const std::vector<Segment>& segments) {
  std::vector<TokenId> tokens;
  each_word(seed, segments,
            [&](uint64_t bits) { tokens.push_back(pool.ids[bits % pool.ids.size()]); });
  return tokens;
}

}  // namespace troupe::loadgen
