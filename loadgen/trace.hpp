#pragma once

// Requests from files: traces of real arrivals and lists of own prompts. The files come from
// outside, so every parser returns an error that names the line.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "base/time.hpp"

namespace troupe::loadgen {

/// A Mooncake hash id stands for so many tokens; the last one of a prompt maybe for fewer.
inline constexpr uint32_t kMooncakeBlockTokens = 512;
/// Longer prompts and answers are taken for a broken line.
inline constexpr uint32_t kMaxTraceTokens = 16U << 20;
/// About three years: what lies further apart is a broken line.
inline constexpr double kMaxSeconds = 1e8;

/// One request of a file.
struct TraceRow {
  Duration at;  ///< since the first row
  uint32_t input_tokens = 0;
  uint32_t output_tokens = 0;
  std::vector<uint64_t> hash_ids;  ///< Mooncake: prompts with equal leading ids share those blocks
  std::string prompt;              ///< own prompts only
};

/// Mooncake's JSONL: {"timestamp": ms, "input_length", "output_length", "hash_ids": [...]}. A row
/// without hash_ids shares nothing. Other keys are ignored.
/// @errors kCorrupt, naming the line
Result<std::vector<TraceRow>> parse_mooncake(std::string_view text);

/// Azure's CSV: columns TIMESTAMP, ContextTokens, GeneratedTokens, found by the names in the first
/// line; "2023-11-16 18:17:03.9799600", with 0 to 9 digits of a fraction, maybe with a zone.
/// @errors kCorrupt, naming the line
Result<std::vector<TraceRow>> parse_azure(std::string_view text);

/// JSONL {"prompt": "...", "max_tokens": n}; without max_tokens the answer may have
/// `default_output_tokens`. @errors kCorrupt, naming the line
Result<std::vector<TraceRow>> parse_prompts(std::string_view text, uint32_t default_output_tokens);

/// Shortens prompts and answers to at most so many tokens, for a model that takes no longer ones.
/// Shared beginnings stay shared. Own prompts are texts and stay whole.
std::vector<TraceRow> shortened(std::vector<TraceRow> rows, uint32_t max_input,
                                uint32_t max_output);

/// Rows that arrive in [from, to), the first at 0, times divided by `speedup`.
std::vector<TraceRow> window_of(std::vector<TraceRow> rows, Duration from,
                                std::optional<Duration> to, double speedup);

}  // namespace troupe::loadgen
