#pragma once

#include <cstdint>

namespace lmp::autograd {

/// A line of a program: where an operation was called. It is what std::source_location is made of,
/// by the same compiler functions: clang 14 has no std::source_location with the standard library
/// of g++ 12, and file and line travel in two registers. It cannot be made from braces, which mean
/// axes and shapes in calls of operations.
class CallSite {
 public:
  /// As a default argument: the line of the call that it is the default of.
  static constexpr CallSite here(const char* file = __builtin_FILE(),
                                 std::uint32_t line = __builtin_LINE()) noexcept {
    return CallSite(Made{}, file, line);
  }
  /// No line.
  static constexpr CallSite unknown() noexcept { return CallSite(Made{}, "", 0); }

  /// As the compiler was given it.
  constexpr const char* file() const noexcept { return file_; }
  /// From 1 on; 0 where it is not known.
  constexpr std::uint32_t line() const noexcept { return line_; }

 private:
  struct Made {};
  constexpr CallSite(Made, const char* file, std::uint32_t line) noexcept
      : file_(file), line_(line) {}
  const char* file_;
  std::uint32_t line_;
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
