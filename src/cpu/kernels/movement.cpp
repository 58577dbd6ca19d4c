#include "cpu/kernels/table.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

struct Half {
  std::uint16_t bits;
};
struct Brain {
  std::uint16_t bits;
};

// binary16 by integer and float arithmetic alone, so that it vectorises on every level. Normal
// numbers are rebiased; subnormals are exact as bits * 2^-24.
[[gnu::always_inline]] inline float widen(Half h) {
  const std::uint32_t bits = h.bits, magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  const std::uint32_t normal =
      (magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u);
  const float small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  const std::uint32_t value =
      magnitude < 0x0400u ? __builtin_bit_cast(std::uint32_t, small) : normal;
  return __builtin_bit_cast(float, value | sign);
}
[[gnu::always_inline]] inline float widen(Brain b) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(b.bits) << 16);
}

// Rounds to nearest even. Subnormal results are rounded by the addition of 0.5, whose last place is
// 2^-24.
[[gnu::always_inline]] inline Half narrow_half(float f) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, f), magnitude = bits & 0x7fffffffu;
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const float small = __builtin_bit_cast(float, magnitude) + 0.5f;
  const std::uint32_t subnormal = __builtin_bit_cast(std::uint32_t, small) - 0x3f000000u;
  const std::uint32_t normal = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const std::uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return {static_cast<std::uint16_t>((magnitude >= 0x477ff000u ? large : finite) | sign)};
}
[[gnu::always_inline]] inline Brain narrow_brain(float f) {
  const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, f);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return {static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

template <class T>
inline constexpr bool kIsHalf = __is_same(T, Half) || __is_same(T, Brain);

// Floats to integers truncate and saturate, NaN is 0; integers wrap; Bool is whether it differs
// from 0.
template <class To, class From>
[[gnu::always_inline]] inline To convert(From v) {
  if constexpr (kIsHalf<From>) {
    return convert<To>(widen(v));
  } else if constexpr (__is_same(To, bool)) {
    return v != From{};
  } else if constexpr (kIsFloat<From> && !kIsFloat<To>) {
    constexpr bool kSigned = static_cast<To>(-1) < To{1};
    constexpr int kBits = static_cast<int>(sizeof(To)) * 8 - (kSigned ? 1 : 0);
    constexpr To kMax = static_cast<To>(~0ULL >> (64 - kBits));
    constexpr To kMin = static_cast<To>(kSigned ? -kMax - 1 : 0);
    constexpr From kAbove = static_cast<From>(1ULL << (kBits - 1)) * 2;
    constexpr From kBelow = kSigned ? -kAbove : From{0};
    const bool inside = v > kBelow && v < kAbove;
    const To whole = static_cast<To>(inside ? v : From{0});
    return v >= kAbove ? kMax : v <= kBelow ? kMin : whole;
  } else {
    return static_cast<To>(v);
  }
}

template <class To, class From>
void load(void* out, const void* in, std::int64_t stride, std::size_t n) {
  auto* o = static_cast<To*>(out);
  const auto* from = static_cast<const From*>(in);
  if (stride == 1) {
    LMP_VECTORIZE
    for (std::size_t i = 0; i < n; ++i) o[i] = convert<To>(from[i]);
  } else if (stride == 0) {
    const To v = convert<To>(*from);
    for (std::size_t i = 0; i < n; ++i) o[i] = v;
  } else {
    for (std::size_t i = 0; i < n; ++i)
      o[i] = convert<To>(from[static_cast<std::int64_t>(i) * stride]);
  }
}

template <class To, class From>
[[gnu::always_inline]] inline To stored(From v) {
  if constexpr (__is_same(To, Half))
    return narrow_half(v);
  else if constexpr (__is_same(To, Brain))
    return narrow_brain(v);
  else
    return v;
}

template <class To, class From>
void store(void* out, std::int64_t stride, const void* in, std::size_t n) {
  auto* o = static_cast<To*>(out);
  const auto* from = static_cast<const From*>(in);
  if (stride == 1) {
    LMP_VECTORIZE
    for (std::size_t i = 0; i < n; ++i) o[i] = stored<To>(from[i]);
  } else {
    for (std::size_t i = 0; i < n; ++i)
      o[static_cast<std::int64_t>(i) * stride] = stored<To>(from[i]);
  }
}

template <class From>
void fill_loads(LoadFn* loads) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    loads[k] = &load<ComputeType<k>, From>;
  });
}

}  // namespace

void fill_movement(Kernels& kernels) {
  using tensor::DataType;
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    // Storage types are the compute types in the same order, with the halves between Int64 and
    // Float32.
    constexpr int storage = k < 6 ? k : k + 2;
    fill_loads<T>(kernels.load[storage]);
    kernels.store[storage] = &store<T, T>;
  });
  fill_loads<Half>(kernels.load[static_cast<int>(DataType::Float16)]);
  fill_loads<Brain>(kernels.load[static_cast<int>(DataType::BFloat16)]);
  kernels.store[static_cast<int>(DataType::Float16)] = &store<Half, float>;
  kernels.store[static_cast<int>(DataType::BFloat16)] = &store<Brain, float>;
}

}  // namespace lmp::cpu::LMP_ISA
