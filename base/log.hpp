#pragma once

// One structured line per event: a name, then key=value pairs, on standard error. Tokens, prompts
// and texts of requests are never logged.

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

namespace troupe::log {

enum class Level { kDebug, kInfo, kWarning, kError };

/// One key=value of a line; values with blanks or quotes are quoted.
struct Field {
  template <class T>
  Field(std::string_view key_in, const T& value_in) : key(key_in), value(text(value_in)) {}

  std::string_view key;
  std::string value;

 private:
  static std::string text(const std::string& v) { return v; }
  static std::string text(std::string_view v) { return std::string(v); }
  static std::string text(const char* v) { return v; }
  static std::string text(bool v) { return v ? "true" : "false"; }
  template <class N>
  static std::string text(const N& v) {
    if constexpr (requires { v.value; }) {
      return std::to_string(v.value);  // a strong id
    } else {
      return std::to_string(v);
    }
  }
};

/// Sets the lowest level that is written and the name of this process in each line.
void configure(Level lowest, std::string_view process_name);

/// Writes `event key=value ...`. Thread-safe; never blocks on anything but standard error.
void write(Level level, std::string_view event, std::initializer_list<Field> fields = {});

inline void debug(std::string_view event, std::initializer_list<Field> fields = {}) {
  write(Level::kDebug, event, fields);
}
inline void info(std::string_view event, std::initializer_list<Field> fields = {}) {
  write(Level::kInfo, event, fields);
}
inline void warning(std::string_view event, std::initializer_list<Field> fields = {}) {
  write(Level::kWarning, event, fields);
}
inline void error(std::string_view event, std::initializer_list<Field> fields = {}) {
  write(Level::kError, event, fields);
}

}  // namespace troupe::log
