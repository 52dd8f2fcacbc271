#include "model/weight_map.hpp"

#include <boost/json/object.hpp>

#include "model/json.hpp"

namespace troupe::model {
namespace {

namespace json = boost::json;

constexpr size_t kMaxFiles = 4096;

std::string_view view_of(const json::string& text) { return {text.data(), text.size()}; }

/// Only plain names may be opened: an index must not reach outside its directory.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name.front() != '.' &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace

Result<WeightMap> parse_weight_map(std::string_view text) {
  const json::value document = TRY(parse_json(text, 8));
  const json::value* weight_map =
      document.is_object() ? document.get_object().if_contains("weight_map") : nullptr;
  if (weight_map == nullptr || !weight_map->is_object()) {
    return Error{Code::kCorrupt, "weight_map is missing or not an object"};
  }
  WeightMap files;
  for (const json::key_value_pair& entry : weight_map->get_object()) {
    const std::string_view tensor(entry.key().data(), entry.key().size());
    if (!entry.value().is_string() || !is_plain_file_name(view_of(entry.value().get_string()))) {
      return Error{Code::kCorrupt, "weight_map sends tensor " + quoted(tensor) + " to " +
                                       describe(entry.value()) +
                                       ", which is not a plain file name"};
    }
    files[std::string(view_of(entry.value().get_string()))].emplace_back(tensor);
    if (files.size() > kMaxFiles) {
      return Error{Code::kCorrupt,
                   "weight_map names more than " + std::to_string(kMaxFiles) + " files"};
    }
  }
  return files;
}

}  // namespace troupe::model
