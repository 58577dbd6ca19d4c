// bfloat16: the upper half of a float.
#pragma once

#include <cstdint>

namespace lmp::cpu::LMP_ISA {
namespace {

struct Brain {
  std::uint16_t bits;
};

[[gnu::always_inline]] inline float widen(Brain b) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(b.bits) << 16);
}

// The upper half is that of the nearest bfloat16, ties to even; the lower one means nothing. NaN
// becomes quiet.
[[gnu::always_inline]] inline std::uint32_t rounded_brain(float f) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, f);
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const std::uint32_t nan = bits | 0x00400000u;
  return f != f ? nan : rounded;
}
[[gnu::always_inline]] inline Brain narrow_brain(float f) {
  return {static_cast<std::uint16_t>(rounded_brain(f) >> 16)};
}

}  // namespace
}  // namespace lmp::cpu::LMP_ISA
