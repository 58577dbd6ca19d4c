#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "lamppp/tensor/data_type.hpp"
#include "lamppp/tensor/number.hpp"

namespace lmp::tensor::detail {

/// What a type is computed in: halves as floats, all others as they are.
constexpr DataType compute_type(DataType type) noexcept {
  return type == DataType::Float16 || type == DataType::BFloat16 ? DataType::Float32 : type;
}

/// A number as an element in memory, of a type that is computed in.
struct Constant {
  alignas(8) std::byte bytes[8];
  Constant() = default;
  Constant(Number number, DataType type) {
    const auto put = [&](auto value) { std::memcpy(bytes, &value, sizeof(value)); };
    const bool is_float = number.kind() == Number::Kind::Float;
    // A float becomes an integer as a cast does: truncated, saturated, 0 where it is NaN.
    const auto put_whole = [&](auto like) {
      using T = decltype(like);
      if (!is_float) return put(static_cast<T>(number.integer()));
      const double value = number.to_double();
      constexpr auto kLowest = std::numeric_limits<T>::min(),
                     kHighest = std::numeric_limits<T>::max();
      if (std::isnan(value)) return put(T{0});
      if (value >= static_cast<double>(kHighest)) return put(kHighest);
      if (value <= static_cast<double>(kLowest)) return put(kLowest);
      put(static_cast<T>(value));
    };
    switch (type) {
      case DataType::Bool:
        put(is_float ? number.to_double() != 0 : number.integer() != 0);
        break;
      case DataType::UInt8:
        put_whole(std::uint8_t{});
        break;
      case DataType::Int8:
        put_whole(std::int8_t{});
        break;
      case DataType::Int16:
        put_whole(std::int16_t{});
        break;
      case DataType::Int32:
        put_whole(std::int32_t{});
        break;
      case DataType::Int64:
        put_whole(std::int64_t{});
        break;
      case DataType::Float64:
        put(number.to_double());
        break;
      default:
        put(static_cast<float>(number.to_double()));
        break;
    }
  }
};

}  // namespace lmp::tensor::detail
