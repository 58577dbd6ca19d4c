#include "cpu/kernels/brain.hpp"
#include "cpu/kernels/table.hpp"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace lmp::cpu::LMP_ISA {
namespace {

struct Half {
  std::uint16_t bits;
};
// binary16 by integer and float arithmetic alone, so that it vectorises on every level. Normal
// numbers are rebiased; subnormals are exact as bits * 2^-24. NaN becomes quiet, as the
// instruction for it has it.
[[gnu::always_inline]] inline float widen(Half h) {
  const std::uint32_t bits = h.bits, magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
  const std::uint32_t normal =
      (magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u);
  const float small = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;
  const std::uint32_t value =
      magnitude < 0x0400u ? __builtin_bit_cast(std::uint32_t, small) : normal;
  const std::uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
  return __builtin_bit_cast(float, value | sign | quiet);
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
    constexpr From kAbove = static_cast<From>(1ULL << (kBits - 1)) * 2;
    constexpr From kBelow = kSigned ? -kAbove : From{0};
    const From number = v < kAbove ? v : From{0};
    const To whole = static_cast<To>(number < kBelow ? kBelow : number);
    return v >= kAbove ? kMax : whole;
  } else {
    return static_cast<To>(v);
  }
}

// A vector at a time, as the plain conversions would; the instruction would keep some of a NaN.
#if defined(__F16C__)
constexpr std::size_t kHalves = 8;
inline void widen_some(float* out, const Half* in) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  _mm256_storeu_ps(out, _mm256_cvtph_ps(bits));
}
inline void narrow_some(Half* out, const float* in) {
  const __m256 v = _mm256_loadu_ps(in);
  const __m256 canonical = _mm256_or_ps(_mm256_and_ps(v, _mm256_set1_ps(-0.0f)),
                                        _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)));
  const __m256 clean = _mm256_blendv_ps(v, canonical, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm256_cvtps_ph(clean, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
constexpr std::size_t kHalves = 1;
inline void widen_some(float* out, const Half* in) { *out = widen(*in); }
inline void narrow_some(Half* out, const float* in) { *out = narrow_half(*in); }
#endif

template <std::size_t kSize>
struct Bits;
template <>
struct Bits<1> {
  using Type = std::uint8_t;
};
template <>
struct Bits<2> {
  using Type = std::uint16_t;
};
template <>
struct Bits<4> {
  using Type = std::uint32_t;
};
template <>
struct Bits<8> {
  using Type = std::uint64_t;
};

// A stride that the compiler knows vectorises: it loads neighbours whole and shuffles them.
template <int kStride, class T>
[[gnu::always_inline]] inline void pick(T* out, const T* in, std::size_t n) {
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) out[i] = in[static_cast<std::int64_t>(i) * kStride];
}

template <class T>
void load_bits(T* out, const T* in, std::int64_t stride, std::size_t n) {
  switch (stride) {
    case 0:
      for (std::size_t i = 0; i < n; ++i) out[i] = *in;
      return;
    case 1:
      __builtin_memcpy(out, in, n * sizeof(T));
      return;
    case -1:
      return pick<-1>(out, in, n);
    case 2:
      return pick<2>(out, in, n);
    case 3:
      return pick<3>(out, in, n);
    case 4:
      return pick<4>(out, in, n);
    default:
      for (std::size_t i = 0; i < n; ++i) out[i] = in[static_cast<std::int64_t>(i) * stride];
  }
}

template <class To, class From>
void load(void* out, const void* in, std::int64_t stride, std::size_t n) {
  if constexpr (__is_same(To, From)) {
    using T = typename Bits<sizeof(To)>::Type;
    return load_bits(static_cast<T*>(out), static_cast<const T*>(in), stride, n);
  }
  auto* o = static_cast<To*>(out);
  const auto* from = static_cast<const From*>(in);
  if (stride == 1) {
    std::size_t i = 0;
    if constexpr (__is_same(From, Half) && __is_same(To, float))
      for (; i + kHalves <= n; i += kHalves) widen_some(o + i, from + i);
    LMP_VECTORIZE
    for (; i < n; ++i) o[i] = convert<To>(from[i]);
  } else if (stride == 0) {
    const To v = convert<To>(*from);
    for (std::size_t i = 0; i < n; ++i) o[i] = v;
  } else {
    for (std::size_t i = 0; i < n; ++i)
      o[i] = convert<To>(from[static_cast<std::int64_t>(i) * stride]);
  }
}

template <class T>
void store_bits(T* out, std::int64_t stride, const T* in, std::size_t n) {
  if (stride == 1) {
    __builtin_memcpy(out, in, n * sizeof(T));
    return;
  }
  for (std::size_t i = 0; i < n; ++i) out[static_cast<std::int64_t>(i) * stride] = in[i];
}

template <class To>
[[gnu::always_inline]] inline To narrowed(float v) {
  if constexpr (__is_same(To, Half))
    return narrow_half(v);
  else
    return narrow_brain(v);
}

template <class To, class From>
void store(void* out, std::int64_t stride, const void* in, std::size_t n) {
  if constexpr (__is_same(To, From)) {
    using T = typename Bits<sizeof(To)>::Type;
    return store_bits(static_cast<T*>(out), stride, static_cast<const T*>(in), n);
  } else {
    auto* o = static_cast<To*>(out);
    const auto* from = static_cast<const From*>(in);
    std::size_t i = 0;
    if (stride == 1) {
      if constexpr (__is_same(To, Half))
        for (; i + kHalves <= n; i += kHalves) narrow_some(o + i, from + i);
      LMP_VECTORIZE
      for (; i < n; ++i) o[i] = narrowed<To>(from[i]);
      return;
    }
    for (; i < n; ++i) o[static_cast<std::int64_t>(i) * stride] = narrowed<To>(from[i]);
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
