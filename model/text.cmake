# Text into and out of the model: tokenizer, chat formats, streaming decode, sampling, grammars.
troupe_library(text
  SOURCES answer_parser.cpp chat_format.cpp chat_render.cpp generation_config.cpp grammar.cpp
          grammar_builder.cpp grammar_check.cpp grammar_class.cpp grammar_ebnf.cpp grammar_emit.cpp
          grammar_json.cpp grammar_machine.cpp grammar_mask.cpp grammar_number.cpp
          grammar_regex.cpp grammar_schema.cpp grammar_schema_keywords.cpp grammar_state.cpp
          grammar_text.cpp grammar_tools.cpp grammar_vocabulary.cpp guide.cpp logit_ranking.cpp pre_tokenizer.cpp
          pre_tokenizer_alphabet.cpp
          pre_tokenizer_pattern.cpp pre_tokenizer_regex.cpp row_sampling.cpp sampling.cpp sampling_adjust.cpp
          softmax.cpp text_stream.cpp token_history.cpp tokenizer.cpp tokenizer_added.cpp tokenizer_bpe.cpp
          tokenizer_byte_characters.cpp tokenizer_json.cpp tokenizer_reader.cpp tokenizer_utf8.cpp top_p.cpp
  LINKS troupe_base
  PRIVATE_LINKS troupe_model Boost::json PkgConfig::pcre2)
# Nobody looks at the flags of floating-point exceptions. To keep them right, g++ would branch around
# each exponential instead of computing several at once.
set_source_files_properties(softmax.cpp PROPERTIES COMPILE_OPTIONS -fno-trapping-math)
