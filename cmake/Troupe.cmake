# How every target of Troupe is made: one library per folder, one executable per test or fuzzer.

add_library(troupe_options INTERFACE)
target_compile_features(troupe_options INTERFACE cxx_std_20)
target_include_directories(troupe_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
# -ffp-contract=off: a fused multiply-add happens where the source says so and nowhere else, so
# that every build gives the same bits.
target_compile_options(troupe_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Werror -Wno-missing-field-initializers
    -ffp-contract=off -fno-math-errno>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # TRY() is a statement expression, an extension that both compilers have.
  target_compile_options(troupe_options INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-gnu-statement-expression>)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 sees overlapping copies in `"literal" + std::string` at -O3 (gcc bug 105651).
  target_compile_options(troupe_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(TROUPE_SANITIZER)
  set(sanitizers -fsanitize=${TROUPE_SANITIZER} -fno-omit-frame-pointer)
  if(TROUPE_SANITIZER STREQUAL "address")
    # CAF's headers bind references to null shared pointers (docs/decisions/0003).
    list(APPEND sanitizers -fsanitize=undefined -fno-sanitize=null,vptr -fno-sanitize-recover=undefined)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Instrumented code makes g++ 12 see uninitialised reads in std::variant where there are none.
    list(APPEND sanitizers -Wno-maybe-uninitialized)
  endif()
  target_compile_options(troupe_options INTERFACE ${sanitizers})
  target_link_options(troupe_options INTERFACE ${sanitizers})
endif()

if(TROUPE_FUZZ)
  target_compile_options(troupe_options INTERFACE -fsanitize=fuzzer-no-link)
  add_custom_target(fuzzers)
endif()

# troupe_library(model SOURCES a.cpp LINKS base PRIVATE_LINKS pcre2)
function(troupe_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(troupe_${name} STATIC ${ARG_SOURCES})
  target_link_libraries(troupe_${name} PUBLIC troupe_options)
  foreach(link ${ARG_LINKS})
    target_link_libraries(troupe_${name} PUBLIC ${link})
  endforeach()
  foreach(link ${ARG_PRIVATE_LINKS})
    target_link_libraries(troupe_${name} PRIVATE ${link})
  endforeach()
endfunction()

# troupe_test(model_config_test SOURCES config_test.cpp LINKS troupe_model [LABELS gpu] [TIMEOUT 60]
#             [SERIAL])  nothing else runs beside it
function(troupe_test name)
  cmake_parse_arguments(ARG "SERIAL" "TIMEOUT" "SOURCES;LINKS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE troupe_options ${ARG_LINKS} GTest::gmock GTest::gtest_main)
  # What is tested stays at -O3; the tests themselves compile in 0.6 times the time.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${name} PRIVATE TROUPE_SOURCE_DIR="${PROJECT_SOURCE_DIR}"
    TROUPE_BINARY_DIR="${PROJECT_BINARY_DIR}")
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  set(properties TIMEOUT ${ARG_TIMEOUT})
  if(ARG_SERIAL)
    list(APPEND properties RUN_SERIAL TRUE)
  endif()
  if(ARG_LABELS)
    list(APPEND properties LABELS ${ARG_LABELS})
  endif()
  if("slow" IN_LIST ARG_LABELS)
    list(APPEND properties ENVIRONMENT TROUPE_FRESH_SEEDS=1)
  endif()
  set(prefix "")
  if("gpu" IN_LIST ARG_LABELS)
    set(prefix TEST_PREFIX gpu.)
  endif()
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST ${prefix} PROPERTIES ${properties})
endfunction()

# troupe_fresh_seeds(scheduler_test): the tests of a binary that draw what happens from a seed, once
# more with other seeds each time (tests/support/seeds.hpp). Their names say so.
function(troupe_fresh_seeds name)
  add_test(NAME fresh_seeds.${name}
    COMMAND ${name} "--gtest_filter=*Random*:*Twin*:*Whatever*:PrefixIndex.*")
  set_tests_properties(fresh_seeds.${name} PROPERTIES LABELS slow TIMEOUT 900
    ENVIRONMENT TROUPE_FRESH_SEEDS=1)
endfunction()

# troupe_fuzzer(safetensors SOURCES safetensors_fuzz.cpp LINKS troupe_model)
# With clang: a libFuzzer binary. With every compiler: a test that replays the corpus and a bounded
# number of deterministic mutations of it, so that the parsers meet hostile bytes in each CI run.
function(troupe_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_executable(${name}_fuzz_replay ${ARG_SOURCES} ${PROJECT_SOURCE_DIR}/tests/fuzz/replay_main.cpp)
  target_link_libraries(${name}_fuzz_replay PRIVATE troupe_options ${ARG_LINKS})
  add_test(NAME fuzz.${name} COMMAND ${name}_fuzz_replay
    ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name} 20000)
  set_tests_properties(fuzz.${name} PROPERTIES TIMEOUT 120 LABELS fuzz)
  if(TROUPE_FUZZ)
    add_executable(${name}_fuzz ${ARG_SOURCES})
    target_link_libraries(${name}_fuzz PRIVATE troupe_options ${ARG_LINKS})
    target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
    add_dependencies(fuzzers ${name}_fuzz)
  endif()
endfunction()
