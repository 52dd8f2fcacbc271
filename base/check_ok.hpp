#pragma once

#include "base/check.hpp"
#include "base/result.hpp"

/// `auto x = CHECK_OK(f());` takes the value of a Result or ends the process with its message: for
/// errors after which the process is of no use, such as a device that failed.
#define CHECK_OK(...)                                                          \
  __extension__({                                                              \
    auto troupe_checked = (__VA_ARGS__);                                       \
    if (!troupe_checked.ok()) [[unlikely]]                                     \
      ::troupe::internal::check_failed(__FILE__, __LINE__, #__VA_ARGS__,       \
                                       ": " + troupe_checked.error().message); \
    std::move(troupe_checked).value();                                         \
  })
