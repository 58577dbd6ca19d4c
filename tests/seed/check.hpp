#pragma once

#include <cstdlib>
#include <iostream>

/// Ends the program with a failure unless the condition holds, in every build type.
#define CHECK(condition)                                                \
  do {                                                                  \
    if (!(condition)) {                                                 \
      std::cerr << __FILE__ << ':' << __LINE__ << ": " #condition "\n"; \
      std::exit(1);                                                     \
    }                                                                   \
  } while (false)
