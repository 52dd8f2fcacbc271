troupe_test(text_test
  SOURCES answer_parser_test.cpp chat_format_test.cpp generation_config_test.cpp
          pre_tokenizer_test.cpp sampling_adjust_test.cpp sampling_test.cpp sampling_twin_test.cpp text_stream_test.cpp
          tokenizer_hostile_test.cpp tokenizer_test.cpp tokenizer_files.cpp
  LINKS troupe_text Boost::json)
troupe_test(grammar_test
  SOURCES grammar_test.cpp grammar_hostile_test.cpp grammar_mask_test.cpp grammar_regex_test.cpp
          grammar_schema_test.cpp grammar_tools_test.cpp grammar_walks.cpp guide_test.cpp
          schema_checker.cpp tokenizer_files.cpp
  LINKS troupe_text Boost::json PkgConfig::pcre2)
