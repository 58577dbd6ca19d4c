// Loops over vectors, and transposes of squares of them, that stay in registers.
#pragma once

#include <cstdint>

#include "cpu/kernels/vector.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LMP_FLAT __attribute__((always_inline))

namespace lmp::cpu::LMP_ISA {
namespace {

using Index = std::int64_t;

template <class T>
constexpr int kWidth = VectorOf<T>::lanes;

constexpr Index minimum(Index x, Index y) { return x < y ? x : y; }
constexpr Index ceil_div(Index x, Index y) { return (x + y - 1) / y; }

// Compile-time loops: arrays indexed by constants stay in registers.
template <int I>
struct Constant {
  static constexpr int value = I;
};
template <class F, int... I>
LMP_FLAT inline void repeat(F f, Indices<I...>) {
  (f(Constant<I>{}), ...);
}
template <int N, class F>
LMP_FLAT inline void repeat(F f) {
  repeat(f, UpTo<N>{});
}

template <class T, int... I>
LMP_FLAT inline void interleave(Vector<T> x, Vector<T> y, Vector<T>& low, Vector<T>& high,
                                Indices<I...>) {
  constexpr int lanes = kWidth<T>;
  low = __builtin_shufflevector(x, y, (I / 2 + I % 2 * lanes)...);
  high = __builtin_shufflevector(x, y, (I / 2 + I % 2 * lanes + lanes / 2)...);
}

// Transposes a square of vectors: each round of interleaving rotates the bits of (row, column) by
// one.
template <class T, int rounds = __builtin_ctz(kWidth<T>)>
LMP_FLAT inline void transpose(Vector<T>* v) {
  constexpr int lanes = kWidth<T>;
  if constexpr (rounds > 0) {
    Vector<T> w[lanes];
    repeat<lanes / 2>([&](auto i) LMP_FLAT {
      interleave<T>(v[i.value], v[i.value + lanes / 2], w[2 * i.value], w[2 * i.value + 1],
                    UpTo<lanes>{});
    });
    transpose<T, rounds - 1>(w);
    repeat<lanes>([&](auto i) LMP_FLAT { v[i.value] = w[i.value]; });
  }
}

}  // namespace
}  // namespace lmp::cpu::LMP_ISA
