#pragma once

#include <cstdint>
#include <iosfwd>
#include <type_traits>

#include "lamppp/export.hpp"

namespace lmp::tensor {

/// The type of a tensor's elements.
enum class DataType : std::uint8_t {
  Bool,      ///< one byte, 0 or 1
  UInt8,     ///< 8 bits, unsigned
  Int8,      ///< 8 bits
  Int16,     ///< 16 bits
  Int32,     ///< 32 bits
  Int64,     ///< 64 bits
  Float16,   ///< IEEE binary16, Half in C++
  BFloat16,  ///< the upper half of a float, BFloat16 in C++
  Float32,   ///< float
  Float64,   ///< double
};

/// How many element types there are.
inline constexpr int kDataTypeCount = 10;

/// A number handed to the library or read out of it: `index()` and `item()` return it.
using Scalar = double;

namespace detail {
LMP_API float half_to_float(std::uint16_t bits) noexcept;
LMP_API std::uint16_t float_to_half(float value) noexcept;
LMP_API float bfloat16_to_float(std::uint16_t bits) noexcept;
LMP_API std::uint16_t float_to_bfloat16(float value) noexcept;
}  // namespace detail

/// IEEE 754 binary16. A storage type: it converts from and to float (round to nearest even),
/// arithmetic happens in float.
struct Half {
  std::uint16_t bits = 0;  ///< the number as it lies in memory
  /// Zero.
  Half() = default;
  /// Rounded to nearest, ties to even.
  explicit Half(float value) noexcept : bits(detail::float_to_half(value)) {}
  /// Exact.
  operator float() const noexcept { return detail::half_to_float(bits); }
};

/// bfloat16: the upper half of a float. A storage type: it converts from and to float (round to
/// nearest even), arithmetic happens in float.
struct BFloat16 {
  std::uint16_t bits = 0;  ///< the number as it lies in memory
  /// Zero.
  BFloat16() = default;
  /// Rounded to nearest, ties to even.
  explicit BFloat16(float value) noexcept : bits(detail::float_to_bfloat16(value)) {}
  /// Exact.
  operator float() const noexcept { return detail::bfloat16_to_float(bits); }
};

namespace detail {
template <class T>
struct DataTypeOf;
template <>
struct DataTypeOf<bool> {
  static constexpr DataType value = DataType::Bool;
};
template <>
struct DataTypeOf<Half> {
  static constexpr DataType value = DataType::Float16;
};
template <>
struct DataTypeOf<BFloat16> {
  static constexpr DataType value = DataType::BFloat16;
};
template <>
struct DataTypeOf<float> {
  static constexpr DataType value = DataType::Float32;
};
template <>
struct DataTypeOf<double> {
  static constexpr DataType value = DataType::Float64;
};
template <>
struct DataTypeOf<unsigned char> {
  static constexpr DataType value = DataType::UInt8;
};
template <class T>
requires(std::is_integral_v<T>&& std::is_signed_v<T>) struct DataTypeOf<T> {
  static constexpr DataType value = sizeof(T) == 1   ? DataType::Int8
                                    : sizeof(T) == 2 ? DataType::Int16
                                    : sizeof(T) == 4 ? DataType::Int32
                                                     : DataType::Int64;
};
}  // namespace detail

/// A C++ type that a tensor can hold: bool, unsigned char, the signed integers, Half, BFloat16,
/// float, double. Other unsigned integers have no tensor type.
template <class T>
concept Element = requires {
  detail::DataTypeOf<T>::value;
};

/// The DataType that holds elements of type T: int is Int32, float Float32, double Float64.
template <Element T>
inline constexpr DataType kDataTypeOf = detail::DataTypeOf<T>::value;

/// Bytes of one element.
constexpr std::size_t size_of(DataType type) noexcept {
  constexpr unsigned char sizes[kDataTypeCount] = {1, 1, 1, 2, 4, 8, 2, 2, 4, 8};
  return sizes[static_cast<int>(type)];
}

/// True for Float16, BFloat16, Float32 and Float64: the types that can carry a gradient.
constexpr bool is_floating(DataType type) noexcept { return type >= DataType::Float16; }

/// True for UInt8, Int8, Int16, Int32 and Int64.
constexpr bool is_integer(DataType type) noexcept {
  return type >= DataType::UInt8 && type <= DataType::Int64;
}

/// "Float32", "Bool", ...
LMP_API const char* name_of(DataType type) noexcept;

/// The type that holds a result of operands of both types: Bool < integers < floats by category,
/// the wider within a category; UInt8 with Int8 gives Int16, Float16 with BFloat16 gives Float32.
LMP_API DataType type_upcast(DataType a, DataType b) noexcept;

/// Prints the name.
LMP_API std::ostream& operator<<(std::ostream& out, DataType type);

}  // namespace lmp::tensor
