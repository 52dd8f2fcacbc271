#include <array>
#include <boost/json.hpp>
#include <filesystem>
#include <system_error>

#include "model/json.hpp"
#include "model/mapped_file.hpp"
#include "model/tokenizer.hpp"
#include "model/tokenizer_byte_characters.hpp"
#include "model/tokenizer_json.hpp"
#include "model/tokenizer_utf8.hpp"

namespace troupe::model {
namespace json = boost::json;
namespace {

constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr int64_t kMaxTokenId = (1 << 22) - 1;  // 4 M tokens: beyond any model, little memory
constexpr int kMaxNesting = 8;

std::string in_quotes(std::string_view text) {
  std::string out = "\"";
  append_lossy_utf8(out, text.substr(0, 100));
  return out + "\"";
}

Error invalid(std::string message) { return Error{Code::kInvalidArgument, std::move(message)}; }
Error unsupported(std::string message) { return Error{Code::kUnsupported, std::move(message)}; }

Result<json::value> parse_document(std::string_view text, const std::string& name) {
  if (text.size() > kMaxFileBytes) return unsupported(name + " is larger than 256 MiB");
  auto value = parse_json(text);
  if (!value.ok()) return std::move(value).error().with_context(name);
  return value;
}

Result<TokenId> to_token_id(const json::value& value, const std::string& path) {
  if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > kMaxTokenId) {
    return invalid(path + " has to be an integer in 0 .. " + std::to_string(kMaxTokenId));
  }
  return static_cast<TokenId>(value.get_int64());
}

Result<const json::array*> require_array(const JsonObject& object, std::string_view key) {
  const json::value* value = TRY(object.require(key));
  if (!value->is_array()) return invalid(object.path_of(key) + " has to be an array");
  return &value->get_array();
}

Result<std::string> read_file(const std::filesystem::path& path) {
  const MappedFile file = TRY(MappedFile::open(path.string()));
  if (file.size() > kMaxFileBytes) return unsupported(file.path() + " is larger than 256 MiB");
  const std::vector<std::byte> bytes = TRY(file.read(0, file.size()));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

/// Accepts null, an empty Sequence, and Sequences of these.
Result<void> require_identity_normalizer(const json::value& node, const std::string& path,
                                         int depth) {
  if (node.is_null()) return {};
  const JsonObject normalizer = TRY(JsonObject::at(node, path));
  const std::string_view type = TRY(normalizer.string("type"));
  if (type != "Sequence" || depth > kMaxNesting) {
    return unsupported(normalizer.path_of("type") + " " + in_quotes(type) +
                       " changes the text; Troupe supports tokenizers without normalisation");
  }
  TRY(normalizer.allow_only({"type", "normalizers"}));
  for (const json::value& child : *TRY(require_array(normalizer, "normalizers"))) {
    TRY(require_identity_normalizer(child, normalizer.path_of("normalizers"), depth + 1));
  }
  return {};
}

/// Accepts ByteLevel, alone or as the only member of a Sequence.
Result<void> require_byte_level_decoder(const json::value& node, const std::string& path,
                                        int depth) {
  const JsonObject decoder = TRY(JsonObject::at(node, path));
  const std::string_view type = TRY(decoder.string("type"));
  if (type == "ByteLevel") {
    return decoder.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  }
  if (type == "Sequence" && depth < kMaxNesting) {
    const json::array* decoders = TRY(require_array(decoder, "decoders"));
    if (decoders->size() == 1) {
      return require_byte_level_decoder((*decoders)[0], decoder.path_of("decoders") + "[0]",
                                        depth + 1);
    }
  }
  return unsupported(decoder.path_of("type") + " " + in_quotes(type) + " has to be ByteLevel");
}

}  // namespace

/// Fills a Tokenizer from the two files.
class TokenizerReader {
 public:
  Result<Tokenizer> read(std::string_view tokenizer_json, std::string_view config_json) {
    const json::value document = TRY(parse_document(tokenizer_json, "tokenizer.json"));
    const JsonObject root = TRY(JsonObject::at(document, "tokenizer.json"));
    const json::value config_document = TRY(parse_document(config_json, "tokenizer_config.json"));
    const JsonObject config = TRY(JsonObject::at(config_document, "tokenizer_config.json"));

    TRY(root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer",
                         "pre_tokenizer", "post_processor", "decoder", "model"}));
    TRY(root.require_absent_or_false("truncation"));
    TRY(root.require_absent_or_false("padding"));
    if (const json::value* normalizer = root.find("normalizer")) {
      TRY(require_identity_normalizer(*normalizer, "normalizer", 0));
    }
    out_.pre_tokenizer_ = TRY(PreTokenizer::parse(*TRY(root.require("pre_tokenizer"))));
    TRY(require_byte_level_decoder(*TRY(root.require("decoder")), "decoder", 0));

    const JsonObject model = TRY(JsonObject::at(*TRY(root.require("model")), "model"));
    TRY(check_model(model));
    TRY(read_vocab(model));
    TRY(read_added_tokens(root));
    lay_out_bytes();
    TRY(read_merges(model));
    TRY(read_special_tokens(config));
    if (const json::value* processor = root.find("post_processor")) {
      TRY(read_post_processor(*processor, "post_processor", 0));
    }
    TRY(read_chat_template(config));
    return std::move(out_);
  }

 private:
  static Result<void> check_model(const JsonObject& model) {
    TRY(model.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix",
                          "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges",
                          "vocab", "merges"}));
    if (model.find("type") != nullptr && TRY(model.string("type")) != "BPE") {
      return unsupported(model.path_of("type") + " has to be BPE");
    }
    TRY(model.require_absent_or_false("dropout"));
    TRY(model.require_absent_or_false("byte_fallback"));
    TRY(model.require_absent_or_empty("continuing_subword_prefix"));
    TRY(model.require_absent_or_empty("end_of_word_suffix"));
    // unk_token and fuse_unk concern pieces outside the vocabulary, which bytes never are.
    return {};
  }

  Result<void> place(TokenId id, std::string_view spelling, const std::string& path) {
    const auto i = static_cast<size_t>(id);
    if (i >= spellings_.size()) spellings_.resize(i + 1);
    if (spellings_[i]) {
      return invalid(path + ": id " + std::to_string(id) + " is already that of " +
                     in_quotes(*spellings_[i]));
    }
    spellings_[i] = spelling;
    return {};
  }

  Result<void> read_vocab(const JsonObject& model) {
    const json::value* vocab = TRY(model.require("vocab"));
    if (!vocab->is_object()) return invalid("model.vocab has to be an object");
    for (const auto& [spelling, id_value] : vocab->get_object()) {
      const std::string path = "model.vocab[" + in_quotes(spelling) + "]";
      const TokenId id = TRY(to_token_id(id_value, path));
      if (spelling.empty()) return invalid(path + ": the empty token");
      TRY(place(id, spelling, path));
      vocab_.emplace(spelling, id);
    }
    return {};
  }

  Result<void> read_added_tokens(const JsonObject& root) {
    if (root.find("added_tokens") == nullptr) return {};
    std::vector<AddedToken> tokens;
    for (const json::value& value : *TRY(require_array(root, "added_tokens"))) {
      const std::string path = "added_tokens[" + std::to_string(tokens.size()) + "]";
      const JsonObject object = TRY(JsonObject::at(value, path));
      TRY(object.allow_only(
          {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
      AddedToken token;
      token.id = TRY(to_token_id(*TRY(object.require("id")), object.path_of("id")));
      const std::string_view content = TRY(object.string("content"));
      token.content = content;
      token.single_word = TRY(object.boolean("single_word", false));
      token.lstrip = TRY(object.boolean("lstrip", false));
      token.rstrip = TRY(object.boolean("rstrip", false));
      token.normalized = TRY(object.boolean("normalized", true));
      token.special = TRY(object.boolean("special", false));
      if (token.content.empty() || token.content.size() > AddedTokens::kMaxContentBytes) {
        return unsupported(object.path_of("content") + " has to be 1 to 256 bytes long");
      }
      if (!out_.by_content_.emplace(token.content, token.id).second) {
        return invalid(object.path_of("content") + " " + in_quotes(token.content) + " comes twice");
      }
      const auto in_vocab = vocab_.find(token.content);
      if (in_vocab == vocab_.end()) {
        TRY(place(token.id, content, path));
      } else if (in_vocab->second != token.id) {
        return invalid(object.path_of("id") + " is " + std::to_string(token.id) +
                       ", but model.vocab has " + std::to_string(in_vocab->second) + " for " +
                       in_quotes(token.content));
      }
      tokens.push_back(std::move(token));
    }
    out_.special_.resize(spellings_.size());
    for (const AddedToken& token : tokens) {
      out_.special_[static_cast<size_t>(token.id)] = token.special;
    }
    out_.added_ = AddedTokens(std::move(tokens));
    return {};
  }

  void lay_out_bytes() {
    std::vector<bool> is_byte_level(spellings_.size());
    out_.offsets_.push_back(0);
    for (size_t id = 0; id < spellings_.size(); ++id) {
      if (spellings_[id]) {
        // A spelling with other characters stands for itself: that is how added tokens survive.
        const auto bytes = characters_.to_bytes(*spellings_[id]);
        const std::string_view kept = bytes ? std::string_view(*bytes) : *spellings_[id];
        out_.bytes_.insert(out_.bytes_.end(), kept.begin(), kept.end());
        is_byte_level[id] = bytes.has_value() && vocab_.contains(*spellings_[id]);
      }
      out_.offsets_.push_back(static_cast<uint32_t>(out_.bytes_.size()));
      out_.longest_token_bytes_ = std::max<uint64_t>(
          out_.longest_token_bytes_, out_.token_bytes(static_cast<TokenId>(id)).size());
    }
    const bool any_swallows_space = std::ranges::any_of(
        out_.added_tokens(), [](const AddedToken& token) { return token.lstrip || token.rstrip; });
    if (any_swallows_space) out_.longest_token_bytes_ = 0;
    for (size_t id = 0; id < spellings_.size(); ++id) {
      const auto token = static_cast<TokenId>(id);
      if (is_byte_level[id]) out_.by_bytes_.emplace(out_.token_bytes(token), token);
    }
  }

  Result<TokenId> merge_side(std::string_view spelling, const std::string& path) const {
    const auto found = vocab_.find(spelling);
    if (found == vocab_.end())
      return invalid(path + ": " + in_quotes(spelling) + " is not in model.vocab");
    return found->second;
  }

  Result<void> read_merges(const JsonObject& model) {
    const json::array* values = TRY(require_array(model, "merges"));
    std::vector<BytePairEncoder::Merge> merges;
    merges.reserve(values->size());
    for (const json::value& value : *values) {
      const std::string path = "model.merges[" + std::to_string(merges.size()) + "]";
      std::string_view left;
      std::string_view right;
      if (value.is_string()) {
        const std::string_view text = value.get_string();
        const size_t space = text.find(' ');
        if (space != std::string_view::npos &&
            text.find(' ', space + 1) == std::string_view::npos) {
          left = text.substr(0, space);
          right = text.substr(space + 1);
        }
      } else if (value.is_array() && value.get_array().size() == 2 &&
                 value.get_array()[0].is_string() && value.get_array()[1].is_string()) {
        left = value.get_array()[0].get_string();
        right = value.get_array()[1].get_string();
      }
      if (left.empty() || right.empty()) {
        return invalid(path + " has to be \"left right\" or [\"left\", \"right\"]");
      }
      const TokenId left_id = TRY(merge_side(left, path));
      const TokenId right_id = TRY(merge_side(right, path));
      std::string merged(left);
      merged.append(right);
      merges.push_back({left_id, right_id, TRY(merge_side(merged, path))});
    }
    std::array<TokenId, 256> byte_tokens;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const std::string spelling = characters_.spelling_of(static_cast<uint8_t>(byte));
      const auto found = vocab_.find(spelling);
      byte_tokens[byte] = found == vocab_.end() ? -1 : found->second;
      const bool occurs = byte < 0xC0 || (byte > 0xC1 && byte < 0xF5);
      if (occurs && byte_tokens[byte] < 0) {
        return unsupported("model.vocab lacks the token of byte " + std::to_string(byte) + " (" +
                           in_quotes(spelling) + ")");
      }
    }
    BytePairEncoder::Vocabulary whole_pieces;
    if (TRY(model.boolean("ignore_merges", false))) {
      for (const auto& [bytes, id] : out_.by_bytes_) {
        // Else a piece of user content could be read as a special token.
        if (!out_.is_special(id)) whole_pieces.emplace(bytes, id);
      }
    }
    out_.bpe_ = BytePairEncoder(byte_tokens, merges, std::move(whole_pieces));
    out_.bpe_.index_reachable(out_.by_bytes_);
    return {};
  }

  /// bos_token and its like: a string, or an object with "content".
  Result<std::optional<TokenId>> special_token(const JsonObject& config,
                                               std::string_view key) const {
    const json::value* value = config.find(key);
    if (value == nullptr) return std::optional<TokenId>();
    std::string_view content;
    if (value->is_string()) {
      content = value->get_string();
    } else {
      content = TRY(TRY(JsonObject::at(*value, config.path_of(key))).string("content"));
    }
    const auto id = out_.id_of(content);
    if (!id)
      return invalid(config.path_of(key) + " " + in_quotes(content) + " is not in the vocabulary");
    return id;
  }

  Result<void> read_special_tokens(const JsonObject& config) {
    out_.bos_ = TRY(special_token(config, "bos_token"));
    out_.eos_ = TRY(special_token(config, "eos_token"));
    if (TRY(config.boolean("add_bos_token", false)) && out_.bos_) out_.prefix_ = {*out_.bos_};
    if (TRY(config.boolean("add_eos_token", false)) && out_.eos_) out_.suffix_ = {*out_.eos_};
    return {};
  }

  Result<void> read_post_processor(const json::value& node, const std::string& path, int depth) {
    const JsonObject processor = TRY(JsonObject::at(node, path));
    const std::string_view type = TRY(processor.string("type"));
    if (type == "ByteLevel") return {};  // moves offsets only
    if (type == "Sequence" && depth < kMaxNesting) {
      for (const json::value& child : *TRY(require_array(processor, "processors"))) {
        TRY(read_post_processor(child, processor.path_of("processors"), depth + 1));
      }
      return {};
    }
    if (type == "TemplateProcessing") return read_template(processor);
    return unsupported(processor.path_of("type") + " " + in_quotes(type) +
                       " is unknown; Troupe has ByteLevel, TemplateProcessing and Sequence");
  }

  /// What surrounds a single text: [SpecialToken..., Sequence, SpecialToken...].
  Result<void> read_template(const JsonObject& processor) {
    out_.prefix_.clear();
    out_.suffix_.clear();
    bool behind_text = false;
    for (const json::value& value : *TRY(require_array(processor, "single"))) {
      const JsonObject part = TRY(JsonObject::at(value, processor.path_of("single")));
      if (part.find("Sequence") != nullptr && !behind_text) {
        behind_text = true;
        continue;
      }
      const JsonObject token =
          TRY(JsonObject::at(*TRY(part.require("SpecialToken")), part.path_of("SpecialToken")));
      const std::string_view content = TRY(token.string("id"));
      const auto id = out_.id_of(content);
      if (!id)
        return invalid(token.path_of("id") + " " + in_quotes(content) +
                       " is not in the vocabulary");
      (behind_text ? out_.suffix_ : out_.prefix_).push_back(*id);
    }
    if (!behind_text) return invalid(processor.path_of("single") + " has no Sequence");
    return {};
  }

  Result<void> read_chat_template(const JsonObject& config) {
    const json::value* value = config.find("chat_template");
    if (value == nullptr) return {};
    if (value->is_string()) {
      out_.chat_template_ = value->get_string();
      return {};
    }
    // A list of named templates; "default" is the one for plain chat.
    for (const json::value& item : *TRY(require_array(config, "chat_template"))) {
      const JsonObject named = TRY(JsonObject::at(item, config.path_of("chat_template")));
      if (TRY(named.string("name")) == "default")
        out_.chat_template_ = TRY(named.string("template"));
    }
    return {};
  }

  Tokenizer out_;
  ByteCharacters characters_;
  std::vector<std::optional<std::string_view>> spellings_;  // by id; views into the document
  std::unordered_map<std::string_view, TokenId> vocab_;     // model.vocab by spelling
};

Result<Tokenizer> Tokenizer::parse(std::string_view tokenizer_json,
                                   std::string_view tokenizer_config_json) {
  return TokenizerReader().read(tokenizer_json, tokenizer_config_json);
}

Result<Tokenizer> Tokenizer::load(const std::string& directory) {
  const std::filesystem::path root(directory);
  const auto with_place = [&](Error error) {
    return std::move(error).with_context("loading the tokenizer of " + directory);
  };
  auto tokenizer_json = read_file(root / "tokenizer.json");
  if (!tokenizer_json.ok()) return with_place(std::move(tokenizer_json).error());
  std::string config_json = "{}";
  std::error_code ignored;
  if (std::filesystem::exists(root / "tokenizer_config.json", ignored)) {
    auto read = read_file(root / "tokenizer_config.json");
    if (!read.ok()) return with_place(std::move(read).error());
    config_json = std::move(read).value();
  }
  auto tokenizer = parse(*tokenizer_json, config_json);
  if (!tokenizer.ok()) return with_place(std::move(tokenizer).error());
  if (std::filesystem::exists(root / "chat_template.jinja", ignored)) {
    auto read = read_file(root / "chat_template.jinja");
    if (!read.ok()) return with_place(std::move(read).error());
    tokenizer->chat_template_ = std::move(read).value();
  }
  return tokenizer;
}

}  // namespace troupe::model
