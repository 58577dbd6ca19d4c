// Vectors as wide as the registers of the instruction set, by the compiler's vector extension.
#pragma once

#include <cstddef>

namespace lmp::cpu::LMP_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif

template <class T, int kBytes = kVectorBytes>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kBytes)));
  static constexpr int lanes = kBytes / static_cast<int>(sizeof(T));
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
inline constexpr std::size_t kLanes = static_cast<std::size_t>(VectorOf<T>::lanes);

template <class T>
[[gnu::always_inline]] inline Vector<T> load_vector(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
[[gnu::always_inline]] inline void store_vector(T* to, Vector<T> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// Compile-time loops: what is indexed by constants stays in registers.
template <int... I>
struct Indices {};
template <int N, int... I>
struct MakeIndices : MakeIndices<N - 1, N - 1, I...> {};
template <int... I>
struct MakeIndices<0, I...> {
  using Type = Indices<I...>;
};
template <int N>
using UpTo = typename MakeIndices<N>::Type;

}  // namespace lmp::cpu::LMP_ISA
