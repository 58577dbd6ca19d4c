// The op table and its mathematics inside the namespace of one instruction set; included by each
// kernel file that needs them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels.hpp"
#include "ops/op_info.hpp"

#define LMP_FN [[gnu::always_inline]] constexpr
#define LMP_MATH_FN [[gnu::always_inline]] inline

// The compiler sees a possible overlap of inputs and output; kernels are only ever handed the same
// address or none in common. Light loops take turns that are long enough for memory to be ahead.
#if defined(__clang__)
#define LMP_VECTORIZE _Pragma("clang loop vectorize(assume_safety)")
#define LMP_VECTORIZE_LIGHT LMP_VECTORIZE
#else
#define LMP_VECTORIZE _Pragma("GCC ivdep")
#define LMP_VECTORIZE_LIGHT _Pragma("GCC ivdep") _Pragma("GCC unroll 4")
#endif

namespace lmp::cpu::LMP_ISA {

#include "ops/math.hpp"
#include "ops/philox.hpp"
#include "ops/pointwise.hpp"

template <int kIndex>
struct Compute;
template <>
struct Compute<0> {
  using Type = bool;
};
template <>
struct Compute<1> {
  using Type = std::uint8_t;
};
template <>
struct Compute<2> {
  using Type = std::int8_t;
};
template <>
struct Compute<3> {
  using Type = std::int16_t;
};
template <>
struct Compute<4> {
  using Type = std::int32_t;
};
template <>
struct Compute<5> {
  using Type = std::int64_t;
};
template <>
struct Compute<6> {
  using Type = float;
};
template <>
struct Compute<7> {
  using Type = double;
};
template <int kIndex>
using ComputeType = typename Compute<kIndex>::Type;

template <int kIndex>
struct Index {
  static constexpr int value = kIndex;
};

template <class F>
void for_each_compute_type(F f) {
  f(Index<0>{});
  f(Index<1>{});
  f(Index<2>{});
  f(Index<3>{});
  f(Index<4>{});
  f(Index<5>{});
  f(Index<6>{});
  f(Index<7>{});
}

}  // namespace lmp::cpu::LMP_ISA
