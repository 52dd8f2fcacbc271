#pragma once

// CHECK guards our own contracts. It is on in every build and ends the process: peers recover from
// that as from any crash, while going on with broken state would spread it. Never use it on bytes
// or requests from outside; those get an Error.

#include <sstream>
#include <string>

namespace troupe::internal {
[[noreturn]] void check_failed(const char* file, int line, const char* what,
                               const std::string& operands);

template <class A, class B>
std::string operands(const A& a, const B& b) {
  std::ostringstream out;
  out << " (" << a << " vs " << b << ")";
  return out.str();
}
}  // namespace troupe::internal

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) [[unlikely]]                                          \
      ::troupe::internal::check_failed(__FILE__, __LINE__, #condition, ""); \
  } while (false)

#define TROUPE_CHECK_OP(a, op, b)                                                         \
  do {                                                                                    \
    const auto& troupe_a = (a);                                                           \
    const auto& troupe_b = (b);                                                           \
    if (!(troupe_a op troupe_b)) [[unlikely]]                                             \
      ::troupe::internal::check_failed(__FILE__, __LINE__, #a " " #op " " #b,             \
                                       ::troupe::internal::operands(troupe_a, troupe_b)); \
  } while (false)

#define CHECK_EQ(a, b) TROUPE_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) TROUPE_CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) TROUPE_CHECK_OP(a, <, b)
#define CHECK_LE(a, b) TROUPE_CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) TROUPE_CHECK_OP(a, >, b)
#define CHECK_GE(a, b) TROUPE_CHECK_OP(a, >=, b)
