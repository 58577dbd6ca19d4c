#include "lamppp/tensor/data_type.hpp"

#include <algorithm>
#include <bit>

#include "lamppp/error.hpp"
#include "lamppp/tensor/number.hpp"

namespace lmp::tensor {

DataType type_upcast(DataType a, DataType b) noexcept {
  if (a == b) return a;
  const auto [low, high] = std::minmax(a, b);
  // The order of the enumeration is the order of promotion, but for the two pairs neither of which
  // holds the other.
  if (low == DataType::UInt8 && high == DataType::Int8) return DataType::Int16;
  if (low == DataType::Float16 && high == DataType::BFloat16) return DataType::Float32;
  return high;
}

void Number::too_large() {
  throw ValueError(
      "number: an unsigned integer above 2^63 - 1 does not fit Int64; convert it to double");
}

namespace detail {

float half_to_float(std::uint16_t bits) noexcept {
  const std::uint32_t magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  if (magnitude < 0x0400u)
    return std::bit_cast<float>(
        std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24f) | sign);
  const std::uint32_t bias = magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u;
  const std::uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
  return std::bit_cast<float>(((magnitude << 13) + bias) | sign | quiet);
}

std::uint16_t float_to_half(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7fffffffu, sign = (bits >> 16) & 0x8000u;
  std::uint32_t half;
  if (magnitude > 0x7f800000u)
    half = 0x7e00u;
  else if (magnitude >= 0x477ff000u)  // rounds to 2^16 or more
    half = 0x7c00u;
  else if (magnitude < 0x38800000u)  // subnormal: the last place of a sum with 0.5 is 2^-24
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  else
    half = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  return static_cast<std::uint16_t>(half | sign);
}

float bfloat16_to_float(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

std::uint16_t float_to_bfloat16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace detail
}  // namespace lmp::tensor
