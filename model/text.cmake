# Text into and out of the model: tokenizer, chat formats, streaming decode, sampling.
troupe_library(text
  SOURCES answer_parser.cpp chat_format.cpp chat_render.cpp generation_config.cpp pre_tokenizer.cpp
          pre_tokenizer_alphabet.cpp pre_tokenizer_pattern.cpp pre_tokenizer_regex.cpp sampling.cpp
          sampling_adjust.cpp text_stream.cpp tokenizer.cpp tokenizer_added.cpp tokenizer_bpe.cpp
          tokenizer_byte_characters.cpp tokenizer_json.cpp tokenizer_reader.cpp tokenizer_utf8.cpp
  LINKS troupe_base
  PRIVATE_LINKS troupe_model Boost::json PkgConfig::pcre2)
