#pragma once

// Options of the commands that run a model in this process.

#include <memory>
#include <string>
#include <vector>

#include "actors/local_model.hpp"
#include "apps/command.hpp"
#include "base/ids.hpp"

namespace troupe::apps {

/// Adds --model, --threads, --attention, --kv-dtype.
void add_local_options(Options& options);

/// What those options say of how the model runs. @errors kInvalidArgument naming the option
Result<actors::LocalModelOptions> read_local_options(const Values& values);

/// Opens and loads what those options name, on the device of --device. @errors also kUnsupported
/// and kNotFound for a device
/// @param guided requests will have a grammar, for which the tokenizer is needed
/// @param num_tokens of a sequence at most, for which room is made; 0: the model's maximum
Result<std::unique_ptr<actors::LocalModel>> load_local_model(const Values& values,
                                                             bool guided = false,
                                                             size_t num_tokens = 0);

/// "1,2,3" as token ids. @errors kInvalidArgument naming the part that is none.
Result<std::vector<TokenId>> parse_tokens(const std::string& text);

/// The text as a JSON string, quotes included.
std::string json_string(const std::string& text);

/// "[1,2,3]"
std::string json_array(const std::vector<TokenId>& tokens);

}  // namespace troupe::apps
