// Vectors of the instruction set's width, and loops and transposes over them that stay in
// registers; included by kernel files that spell their vectors out.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LMP_FLAT __attribute__((always_inline))

namespace lmp::cpu::LMP_ISA {
namespace {

using Index = std::int64_t;

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T, int bytes = kVectorBytes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(bytes)));
};
template <class T>
using Vector = typename VectorOf<T>::Type;

constexpr Index minimum(Index x, Index y) { return x < y ? x : y; }
constexpr Index ceil_div(Index x, Index y) { return (x + y - 1) / y; }

// Compile-time loops: arrays indexed by constants stay in registers.
template <int I>
struct Constant {
  static constexpr int value = I;
};
template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  using Type = Indices<I...>;
};
template <class F, int... I>
LMP_FLAT inline void repeat(F f, Indices<I...>) {
  (f(Constant<I>{}), ...);
}
template <int N, class F>
LMP_FLAT inline void repeat(F f) {
  repeat(f, typename MakeIndices<N>::Type{});
}

template <class T, int... I>
LMP_FLAT inline void interleave(Vector<T> x, Vector<T> y, Vector<T>& low, Vector<T>& high,
                                Indices<I...>) {
  constexpr int lanes = kLanes<T>;
  low = __builtin_shufflevector(x, y, (I / 2 + I % 2 * lanes)...);
  high = __builtin_shufflevector(x, y, (I / 2 + I % 2 * lanes + lanes / 2)...);
}

// Transposes a square of vectors: each round of interleaving rotates the bits of (row, column) by
// one.
template <class T, int rounds = __builtin_ctz(kLanes<T>)>
LMP_FLAT inline void transpose(Vector<T>* v) {
  constexpr int lanes = kLanes<T>;
  if constexpr (rounds > 0) {
    Vector<T> w[lanes];
    repeat<lanes / 2>([&](auto i) LMP_FLAT {
      interleave<T>(v[i.value], v[i.value + lanes / 2], w[2 * i.value], w[2 * i.value + 1],
                    typename MakeIndices<lanes>::Type{});
    });
    transpose<T, rounds - 1>(w);
    repeat<lanes>([&](auto i) LMP_FLAT { v[i.value] = w[i.value]; });
  }
}

}  // namespace
}  // namespace lmp::cpu::LMP_ISA
