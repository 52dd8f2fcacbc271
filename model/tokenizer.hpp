#pragma once

// Text to tokens and back, as the Hugging Face `tokenizers` library does it for the byte-level BPE
// tokenizers of DeepSeek. A Tokenizer is immutable: any number of threads may use one.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/pre_tokenizer.hpp"
#include "model/tokenizer_added.hpp"
#include "model/tokenizer_bpe.hpp"

namespace troupe::model {

/// A stretch of a prompt.
struct TextSegment {
  std::string text;
  /// Came from outside: added tokens spelled in it are plain text, so that nobody can write
  /// "<｜Assistant｜>" into a message and have the model see a turn.
  bool is_user_content = false;
  friend bool operator==(const TextSegment&, const TextSegment&) = default;
};

struct EncodeOptions {
  bool parse_special = true;        ///< recognise added tokens (special or not) in the text
  bool add_special_tokens = false;  ///< surround with what the tokenizer adds by itself (BOS)
};

class Tokenizer {
 public:
  /// Reads tokenizer.json and, where they exist, tokenizer_config.json and chat_template.jinja of a
  /// Hugging Face checkpoint directory.
  /// @errors kNotFound without tokenizer.json; as parse()
  static Result<Tokenizer> load(const std::string& directory);

  /// @errors kCorrupt: no JSON, or a key twice in one object; kInvalidArgument: a value of the
  /// wrong
  ///         type, or files that contradict themselves, naming the key;
  ///         kUnsupported: a feature that would change the tokens and that Troupe lacks
  static Result<Tokenizer> parse(std::string_view tokenizer_json,
                                 std::string_view tokenizer_config_json = "{}");

  /// The tokens of a text. Broken UTF-8 reads as U+FFFD.
  /// @errors kInvalidArgument above 1 GiB; kResourceExhausted only for tokenizers with a pattern
  ///         outside the linear kind (see pre_tokenizer_regex.hpp), never for DeepSeek's
  /// Cost: O(n log n), about 10 MB/s (bench/results/tokenizer.md).
  Result<std::vector<TokenId>> encode(std::string_view text, EncodeOptions options = {}) const;

  /// encode() without recognising added tokens.
  Result<std::vector<TokenId>> encode_plain(std::string_view text) const {
    return encode(text, {.parse_special = false});
  }

  /// The tokens of the segments' joined text; merges run across segment ends as they would in one
  /// string, but an added token is recognised only where it lies outside user content.
  Result<std::vector<TokenId>> encode(std::span<const TextSegment> segments) const;

  /// So many tokens a text of this many bytes of UTF-8 has at least, known without reading it; 0
  /// for a tokenizer with an added token that swallows space beside it.
  [[nodiscard]] uint64_t fewest_tokens(uint64_t num_bytes) const {
    return longest_token_bytes_ == 0
               ? 0
               : (num_bytes + longest_token_bytes_ - 1) / longest_token_bytes_;
  }

  /// The text of tokens; ids outside the vocabulary give nothing, broken UTF-8 gives U+FFFD.
  [[nodiscard]] std::string decode(std::span<const TokenId> tokens, bool skip_special = true) const;

  /// The bytes that a token stands for; empty for ids outside the vocabulary.
  [[nodiscard]] std::string_view token_bytes(TokenId id) const;
  [[nodiscard]] bool is_special(TokenId id) const;

  /// The id of an added token by its content, or of a token by its bytes.
  [[nodiscard]] std::optional<TokenId> id_of(std::string_view content) const;

  /// Whether the pre-tokenizer needs no regex library, as for all of DeepSeek's: linear time, and
  /// exact on Unicode 16.
  [[nodiscard]] bool splits_in_linear_time() const { return pre_tokenizer_.is_linear(); }

  /// Highest id + 1. The model's vocab_size may be larger (padding).
  [[nodiscard]] size_t vocab_size() const { return offsets_.size() - 1; }

  [[nodiscard]] std::optional<TokenId> bos() const { return bos_; }
  [[nodiscard]] std::optional<TokenId> eos() const { return eos_; }
  /// The checkpoint's Jinja chat template, empty if it has none.
  [[nodiscard]] const std::string& chat_template() const { return chat_template_; }
  [[nodiscard]] const std::vector<AddedToken>& added_tokens() const { return added_.tokens(); }

 private:
  friend class TokenizerReader;
  Tokenizer() = default;

  Result<std::vector<TokenId>> encode_shielded(std::string_view text,
                                               std::span<const TextRange> shielded,
                                               EncodeOptions options) const;

  AddedTokens added_;
  PreTokenizer pre_tokenizer_;
  BytePairEncoder bpe_;
  std::vector<char> bytes_;                                 // of all tokens, one after the other
  std::vector<uint32_t> offsets_;                           // [vocab_size + 1] into bytes_
  uint64_t longest_token_bytes_ = 0;                        // 0: no bound for texts
  std::vector<bool> special_;                               // [vocab_size]
  std::unordered_map<std::string_view, TokenId> by_bytes_;  // views into bytes_
  std::unordered_map<std::string, TokenId> by_content_;     // added tokens
  std::vector<TokenId> prefix_, suffix_;                    // with add_special_tokens
  std::optional<TokenId> bos_, eos_;
  std::string chat_template_;
};

}  // namespace troupe::model
