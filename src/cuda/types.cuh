#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <bit>
#include <cstdint>
#include <type_traits>

#include "lamppp/tensor/data_type.hpp"

/// Element types in kernels: what lies in memory, what is computed in, and the way between them.
namespace lmp::cuda {

using Half = __half;
using Brain = __nv_bfloat16;

template <class T>
struct Tag {
  using Type = T;
};

/// f(Tag<T>()) for the type of the elements in memory. In a kernel f is of the device, else of the
/// host, which the compiler need not check.
#pragma nv_exec_check_disable
template <class F>
__host__ __device__ __forceinline__ decltype(auto) visit(tensor::DataType type, F&& f) {
  using enum tensor::DataType;
  switch (type) {
    case Bool:
      return f(Tag<bool>());
    case UInt8:
      return f(Tag<std::uint8_t>());
    case Int8:
      return f(Tag<std::int8_t>());
    case Int16:
      return f(Tag<std::int16_t>());
    case Int32:
      return f(Tag<std::int32_t>());
    case Int64:
      return f(Tag<std::int64_t>());
    case Float16:
      return f(Tag<Half>());
    case BFloat16:
      return f(Tag<Brain>());
    case Float32:
      return f(Tag<float>());
    default:
      return f(Tag<double>());
  }
}

/// The same where the type is floating.
template <class F>
decltype(auto) visit_floating(tensor::DataType type, F&& f) {
  using enum tensor::DataType;
  switch (type) {
    case Float16:
      return f(Tag<Half>());
    case BFloat16:
      return f(Tag<Brain>());
    case Float32:
      return f(Tag<float>());
    default:
      return f(Tag<double>());
  }
}

/// The same by size alone, for what only moves elements.
template <class F>
decltype(auto) visit_bits(tensor::DataType type, F&& f) {
  switch (tensor::size_of(type)) {
    case 1:
      return f(Tag<std::uint8_t>());
    case 2:
      return f(Tag<std::uint16_t>());
    case 4:
      return f(Tag<std::uint32_t>());
    default:
      return f(Tag<std::uint64_t>());
  }
}

template <class T>
inline constexpr bool kIsHalf = std::is_same_v<T, Half> || std::is_same_v<T, Brain>;
template <class T>
inline constexpr bool kIsFloating = kIsHalf<T> || std::is_floating_point_v<T>;

/// What elements of S are computed in: halves in float, all others as they are.
template <class S>
using Computed = std::conditional_t<kIsHalf<S>, float, S>;

/// Floats to integers truncate and saturate, NaN is 0; integers wrap; Bool is whether it differs
/// from 0; halves are rounded to nearest.
template <class To, class From>
__device__ __forceinline__ To convert(From v) {
  if constexpr (std::is_same_v<To, From>) {
    return v;
  } else if constexpr (std::is_same_v<From, Half>) {
    return convert<To>(__half2float(v));
  } else if constexpr (std::is_same_v<From, Brain>) {
    return convert<To>(__bfloat162float(v));
  } else if constexpr (std::is_same_v<To, Half>) {
    if constexpr (std::is_same_v<From, double>)
      return __float2half_rn(static_cast<float>(v));
    else
      return __float2half_rn(convert<float>(v));
  } else if constexpr (std::is_same_v<To, Brain>) {
    if constexpr (std::is_same_v<From, double>)
      return __float2bfloat16_rn(static_cast<float>(v));
    else
      return __float2bfloat16_rn(convert<float>(v));
  } else if constexpr (std::is_same_v<To, bool>) {
    return v != From{};
  } else if constexpr (std::is_floating_point_v<From> && std::is_integral_v<To>) {
    constexpr bool kSigned = std::is_signed_v<To>;
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

template <class S>
__device__ __forceinline__ Computed<S> widen(S v) {
  return convert<Computed<S>>(v);
}

/// Whether what is computed in C may have operands of S, as types are promoted.
template <class S, class C>
inline constexpr bool kPromotes =
    kIsFloating<S> ? kIsFloating<C> && sizeof(S) <= sizeof(C)
                   : kIsFloating<C> || std::is_same_v<S, C> || std::is_same_v<S, bool> ||
                         sizeof(S) < sizeof(C);

/// visit for operands of what is computed in C, which have no other types than kPromotes says.
template <class C, class F>
__device__ __forceinline__ void visit_promoted(tensor::DataType type, F&& f) {
  visit(type, [&](auto tag) {
    if constexpr (kPromotes<typename decltype(tag)::Type, C>) f(tag);
  });
}

/// Element `i` of an array of `type`, converted.
template <class C>
__device__ __forceinline__ C load_as(const void* from, tensor::DataType type, std::int64_t i) {
  C v;
  visit(type, [&](auto tag) {
    v = convert<C>(static_cast<const typename decltype(tag)::Type*>(from)[i]);
  });
  return v;
}

template <class C>
__device__ __forceinline__ void store_as(void* to, tensor::DataType type, std::int64_t i, C v) {
  visit(type, [&](auto tag) {
    using S = typename decltype(tag)::Type;
    static_cast<S*>(to)[i] = convert<S>(v);
  });
}

/// N neighbours in memory, moved by one instruction where they make up to 16 aligned bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

inline std::uintptr_t address_of(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

/// f(Tag<T>()) for the widest unit of up to 16 bytes that all sizes and addresses or-ed into `bits`
/// are multiples of.
template <class F>
void visit_units(std::uintptr_t bits, F&& f) {
  if (bits % 16 == 0) return f(Tag<uint4>());
  if (bits % 8 == 0) return f(Tag<std::uint64_t>());
  if (bits % 4 == 0) return f(Tag<std::uint32_t>());
  if (bits % 2 == 0) return f(Tag<std::uint16_t>());
  f(Tag<std::uint8_t>());
}

/// The elements of a pack, taken out of whole words.
template <class S, int kN>
__device__ __forceinline__ Pack<Computed<S>, kN> widen(const Pack<S, kN>& pack) {
  Pack<Computed<S>, kN> wide;
  if constexpr (std::is_same_v<S, Brain> && kN % 2 == 0) {
    struct Words {
      std::uint32_t at[kN / 2];
    };
    const Words words = std::bit_cast<Words>(pack);
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      wide.at[2 * i] = __uint_as_float(words.at[i] << 16);
      wide.at[2 * i + 1] = __uint_as_float(words.at[i] & 0xffff0000U);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kN; ++i) wide.at[i] = widen(pack.at[i]);
  }
  return wide;
}

}  // namespace lmp::cuda
