#pragma once

#include <cstdint>
#include <type_traits>

namespace lmp::autograd {

/// A line of a program: where an operation was called. It is what std::source_location is made of,
/// file and line, by the same compiler functions: clang 14 has no std::source_location with the
/// standard library of g++ 12, and these two values travel in registers.
struct CallSite {
  const char* file = "";   ///< as the compiler was given it
  std::uint32_t line = 0;  ///< 0 where nothing is known

  /// As a default argument: the line of the call that it is the default of.
  static constexpr CallSite here(const char* file = __builtin_FILE(),
                                 std::uint32_t line = __builtin_LINE()) noexcept {
    return {file, line};
  }
};

/// An operand that knows where it was written: operators have no parameter to spare.
template <class T>
struct Located {
  /// Any T, at the line where the operator stands.
  constexpr Located(const T& operand, CallSite where = CallSite::here()) noexcept
      : value(operand), site(where) {}
  const T& value;  ///< lives as long as the expression
  CallSite site;   ///< the line of the operator
};

}  // namespace lmp::autograd
