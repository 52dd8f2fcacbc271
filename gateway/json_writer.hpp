#pragma once

// Writes JSON on one line, for bodies and for server-sent events. Boost.JSON's serialiser prints
// 0.5 as 5E-1 and builds a tree per token; this one appends to a string.

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace troupe::gateway {

/// Appends `text` (valid UTF-8) as a JSON string. Besides what JSON demands it escapes U+0085,
/// U+2028 and U+2029, at which some clients' line splitters would cut a server-sent event.
void append_json_string(std::string& out, std::string_view text);

/// Appends values in call order; commas are its own business, matching begin and end the caller's.
class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  JsonWriter& key(std::string_view name);

  JsonWriter& value(std::string_view text);
  JsonWriter& value(const char* text) { return value(std::string_view(text)); }
  JsonWriter& value(bool b);
  JsonWriter& value(double number);  ///< what is not finite becomes null
  JsonWriter& value(float number);   ///< shortest text that reads back as this float
  JsonWriter& value(std::nullptr_t);
  JsonWriter& value(std::integral auto number) {
    separate();
    out_ += std::to_string(number);
    return *this;
  }
  template <class T>
  JsonWriter& value(const std::optional<T>& maybe) {
    return maybe ? value(*maybe) : value(nullptr);
  }
  /// A value that is JSON already.
  JsonWriter& raw(std::string_view json);

  template <class T>
  JsonWriter& field(std::string_view name, const T& v) {
    key(name);
    return value(v);
  }

  [[nodiscard]] std::string take() { return std::move(out_); }

 private:
  JsonWriter& open(char bracket);
  JsonWriter& close(char bracket);
  void separate();

  std::string out_;
};

}  // namespace troupe::gateway
