#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include "lamppp/export.hpp"
#include "lamppp/tensor/data_type.hpp"

namespace lmp::tensor {

/// A plain number as an operand: bool, integer or float as its C++ type says. It takes part in type
/// promotion by that category only, so a number never widens a tensor of its own category: `x * 2`
/// keeps Float32, `int_tensor * 0.5` becomes Float32. Integers keep all 64 bits.
class Number {
 public:
  /// The category of a number.
  enum class Kind : std::uint8_t { Bool, Integer, Float };

  /// Any arithmetic value. Throws ValueError for an unsigned one beyond Int64.
  template <class T>
  requires std::is_arithmetic_v<T>
  constexpr Number(T value) {
    if constexpr (std::same_as<T, bool>) {
      kind_ = Kind::Bool;
      integer_ = value;
    } else if constexpr (std::is_integral_v<T>) {
      if constexpr (std::is_unsigned_v<T> && sizeof(T) == 8) {
        if (value > static_cast<T>(INT64_MAX)) too_large();
      }
      kind_ = Kind::Integer;
      integer_ = static_cast<std::int64_t>(value);
    } else {
      kind_ = Kind::Float;
      float_ = static_cast<double>(value);
    }
  }

  /// Its category, from its C++ type.
  constexpr Kind kind() const noexcept { return kind_; }
  /// The value as a double.
  constexpr double to_double() const noexcept {
    return kind_ == Kind::Float ? float_ : static_cast<double>(integer_);
  }
  /// The integer or bool; only where kind() is not Float.
  constexpr std::int64_t integer() const noexcept { return integer_; }

 private:
  [[noreturn]] LMP_API static void too_large();
  union {
    std::int64_t integer_;
    double float_;
  };
  Kind kind_;
};

/// The type of a result of a tensor and a number: the tensor's unless the number's category is
/// higher, then Int64 (integers with Bool) or Float32 (floats with Bool or integers).
constexpr DataType type_upcast(DataType tensor, Number number) noexcept {
  if (is_floating(tensor) || number.kind() == Number::Kind::Bool) return tensor;
  if (number.kind() == Number::Kind::Float) return DataType::Float32;
  return tensor == DataType::Bool ? DataType::Int64 : tensor;
}

}  // namespace lmp::tensor
