#include "cpu/kernels/brain.hpp"
#include "cpu/kernels/table.hpp"

namespace lmp::cpu::LMP_ISA {
namespace {

template <class Op, class T>
constexpr auto result_of() {
  if constexpr (Op::info.promote == Promote::Compare)
    return bool{};
  else
    return T{};
}

template <class Op>
constexpr bool kLight = Op::info.light || Op::info.promote == Promote::Compare;

// body(i) for all i in [begin, end), vectorised.
template <bool kIsLight, class Body>
LMP_MATH_FN void each(std::size_t begin, std::size_t end, Body body) {
  if constexpr (kIsLight) {
    LMP_VECTORIZE_LIGHT
    for (std::size_t i = begin; i < end; ++i) body(i);
  } else {
    LMP_VECTORIZE
    for (std::size_t i = begin; i < end; ++i) body(i);
  }
}

// Bool operands are read as bytes: a loop that selects by a byte vectorises, one by a bool may not.
template <class T>
struct Read {
  const T* from;
  [[gnu::always_inline]] T operator[](std::size_t i) const { return from[i]; }
};
template <>
struct Read<bool> {
  const unsigned char* from;
  [[gnu::always_inline]] bool operator[](std::size_t i) const { return from[i] != 0; }
};
template <class T>
LMP_MATH_FN Read<T> read(const void* from) {
  return {static_cast<decltype(Read<T>::from)>(from)};
}

// Runs loop(begin, end, as) over [0, n), where `as` makes an operand of the op out of an element:
// Near where the op has a shorter way for the whole block.
template <class Op, class T, bool kTakesNear, class Loop>
LMP_MATH_FN void by_nearness(const void* in, std::size_t n, Loop loop) {
  if constexpr (kTakesNear && __is_same(T, float)) {
    const auto* x = static_cast<const float*>(in);
    for (std::size_t begin = 0; begin < n; begin += kBlock) {
      const std::size_t end = begin + kBlock < n ? begin + kBlock : n;
      // The bits of magnitudes are ordered as the magnitudes are, NaN above all.
      MathU32 largest = 0;
      for (std::size_t i = begin; i < end; ++i) largest = maximum(largest, math_bits(fabs(x[i])));
      if (largest <= math_bits(Op::info.near))
        loop(
            begin, end, [](float v) __attribute__((always_inline)) { return Near{v}; });
      else
        loop(
            begin, end, [](float v) __attribute__((always_inline)) { return v; });
    }
  } else {
    loop(
        std::size_t{0}, n, [](T v) __attribute__((always_inline)) { return v; });
  }
}

// Operands are loaded before anything is selected: a load that only one side needs would be a
// branch.

template <class Op, class T>
LMP_MATH_FN void forward1(void* out, const void* const* in, std::size_t n) {
  using R = decltype(result_of<Op, T>());
  auto* o = static_cast<R*>(out);
  const auto x = read<T>(in[0]);
  by_nearness<Op, T, (Op::info.near > 0)>(
      in[0], n, [=](std::size_t begin, std::size_t end, auto as) {
        each<kLight<Op>>(
            begin, end, [=](std::size_t i) __attribute__((always_inline)) {
              o[i] = static_cast<R>(Op::fwd(as(x[i])));
            });
      });
}

template <class Op, class T>
LMP_MATH_FN void forward2(void* out, const void* const* in, std::size_t n) {
  using R = decltype(result_of<Op, T>());
  auto* o = static_cast<R*>(out);
  const auto a = read<T>(in[0]), b = read<T>(in[1]);
  each<kLight<Op>>(
      0, n, [=](std::size_t i) __attribute__((always_inline)) {
        const T first = a[i], second = b[i];
        o[i] = static_cast<R>(Op::fwd(first, second));
      });
}

// Two neighbours at a time, each half of a word: neither is moved between lanes to widen it.
template <class Op, int kArity>
void forward_brain(void* out, const void* const* in, std::size_t n) {
  const auto made = [](float first, float second) __attribute__((always_inline)) {
    if constexpr (kArity == 1)
      return Op::fwd(first);
    else
      return Op::fwd(first, second);
  };
  const auto upper = [=](std::uint32_t a, std::uint32_t b) __attribute__((always_inline)) {
    return rounded_brain(made(__builtin_bit_cast(float, a), __builtin_bit_cast(float, b)));
  };
  constexpr std::uint32_t kUpper = 0xffff0000u;
  auto* o = static_cast<Brain*>(out);
  const auto *a = static_cast<const Brain*>(in[0]), *b = static_cast<const Brain*>(in[kArity - 1]);
  each<false>(
      0, n / 2, [=](std::size_t i) __attribute__((always_inline)) {
        std::uint32_t first, second;
        __builtin_memcpy(&first, a + 2 * i, sizeof first);
        __builtin_memcpy(&second, b + 2 * i, sizeof second);
        first = (upper(first & kUpper, second & kUpper) & kUpper) |
                (upper(first << 16, second << 16) >> 16);
        __builtin_memcpy(o + 2 * i, &first, sizeof first);
      });
  if (n % 2 != 0) o[n - 1] = narrow_brain(made(widen(a[n - 1]), widen(b[n - 1])));
}

template <class T>
LMP_MATH_FN T* moved(T* p, std::int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(p) +
                              static_cast<std::uintptr_t>(bytes));
}

template <class Op, class T, int kScalar>
LMP_MATH_FN void forward_rows(void* out, const void* const* in, std::size_t n, std::size_t rows,
                              const std::int64_t* steps) {
  using R = decltype(result_of<Op, T>());
  auto* o = static_cast<R*>(out);
  const auto *a = static_cast<const T*>(in[0]), *b = static_cast<const T*>(in[1]);
  for (;;) {
    const T scalar = kScalar == 0 ? *a : *b;
    each<kLight<Op>>(
        0, n, [=](std::size_t i) __attribute__((always_inline)) {
          const T first = kScalar == 0 ? scalar : a[i], second = kScalar == 1 ? scalar : b[i];
          o[i] = static_cast<R>(Op::fwd(first, second));
        });
    if (--rows == 0) return;
    o = moved(o, steps[0]);
    a = moved(a, steps[1]);
    b = moved(b, steps[2]);
  }
}

template <class First, class Op, class T>
LMP_MATH_FN void forward3(void* out, const void* const* in, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto a = read<First>(in[0]);
  const auto b = read<T>(in[1]), c = read<T>(in[2]);
  each<kLight<Op>>(
      0, n, [=](std::size_t i) __attribute__((always_inline)) {
        const First first = a[i];
        const T second = b[i], third = c[i];
        o[i] = static_cast<T>(Op::fwd(first, second, third));
      });
}

template <class T, class G>
LMP_MATH_FN void put(void* out, std::size_t i, G value) {
  static_cast<T*>(out)[i] = static_cast<T>(value);
}

template <unsigned kMask, class T, class G>
LMP_MATH_FN void put_all(void* const* out, std::size_t i, const G& grads) {
  if constexpr ((kMask & 1) != 0 && !__is_same(decltype(grads.a), None)) put<T>(out[0], i, grads.a);
  if constexpr ((kMask & 2) != 0 && !__is_same(decltype(grads.b), None)) put<T>(out[1], i, grads.b);
  if constexpr ((kMask & 4) != 0 && !__is_same(decltype(grads.c), None)) put<T>(out[2], i, grads.c);
}

// What a gradient does not touch and what kMask leaves out goes away once `grad` is inlined.

template <class Op, class T, unsigned kMask>
LMP_MATH_FN void backward1(void* const* out, const void* gradient, const void* const* in,
                           const void* result, std::size_t n) {
  const auto *g = static_cast<const T*>(gradient), *x = static_cast<const T*>(in[0]),
             *y = static_cast<const T*>(result);
  void* const o = out[0];
  by_nearness<Op, T, Op::info.near_gradient>(
      in[0], n, [=](std::size_t begin, std::size_t end, auto as) {
        each<kLight<Op>>(
            begin, end, [=](std::size_t i) __attribute__((always_inline)) {
              put_all<kMask, T>(&o, i, Op::grad(g[i], as(x[i]), y[i]));
            });
      });
}

template <class Op, class T, unsigned kMask>
LMP_MATH_FN void backward2(void* const* out, const void* gradient, const void* const* in,
                           const void* result, std::size_t n) {
  const auto *g = static_cast<const T*>(gradient), *a = static_cast<const T*>(in[0]),
             *b = static_cast<const T*>(in[1]), *y = static_cast<const T*>(result);
  void* const o[2] = {out[0], out[1]};
  each<kLight<Op>>(
      0, n, [=](std::size_t i) __attribute__((always_inline)) {
        const T flow = g[i], first = a[i], second = b[i], value = y[i];
        put_all<kMask, T>(o, i, Op::grad(flow, first, second, value));
      });
}

template <class First, class Op, class T, unsigned kMask>
LMP_MATH_FN void backward3(void* const* out, const void* gradient, const void* const* in,
                           const void* result, std::size_t n) {
  const auto *g = static_cast<const T*>(gradient), *b = static_cast<const T*>(in[1]),
             *c = static_cast<const T*>(in[2]), *y = static_cast<const T*>(result);
  const auto a = read<First>(in[0]);
  void* const o[3] = {out[0], out[1], out[2]};
  each<kLight<Op>>(
      0, n, [=](std::size_t i) __attribute__((always_inline)) {
        const First first = a[i];
        const T flow = g[i], second = b[i], third = c[i], value = y[i];
        put_all<kMask, T>(o, i, Op::grad(flow, first, second, third, value));
      });
}

// GCC takes vectors of 512 bits for AVX-512, which move memory more slowly than those of 256 on
// some of its CPUs: a tenth out of the third-level cache, several times where inputs and outputs
// lie a few lines from the same place in their pages.
#if defined(__AVX512F__) && !defined(__clang__)
#define LMP_NARROW [[gnu::target("prefer-vector-width=256")]]
#else
#define LMP_NARROW
#endif

template <auto kKernel>
struct Entry;
template <class... Args, void (*kKernel)(Args...)>
struct Entry<kKernel> {
  LMP_NARROW static void light(Args... args) { kKernel(args...); }
  static void heavy(Args... args) { kKernel(args...); }
};
template <class Op, auto kKernel>
constexpr auto entry() {
  if constexpr (kLight<Op>)
    return &Entry<kKernel>::light;
  else
    return &Entry<kKernel>::heavy;
}

template <class Op, int kIndex>
constexpr bool kTakes =
    Op::info.promote == Promote::Float ? kIndex >= 6 : kIndex > 0 || Op::info.takes_bool;

template <class Op>
void fill_unary(Kernels& kernels, int op) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    if constexpr (kTakes<Op, k>) kernels.forward[op][k] = entry<Op, &forward1<Op, T>>();
    if constexpr (k >= 6) {
      if constexpr (requires(T v) { Op::grad(v, v, v); })
        kernels.backward[op][k - 6][1] = entry<Op, &backward1<Op, T, 1>>();
    }
  });
  if constexpr (Op::info.light) kernels.forward_brain[op] = &forward_brain<Op, 1>;
}

template <class Op>
void fill_binary(Kernels& kernels, int op) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    if constexpr (kTakes<Op, k>) kernels.forward[op][k] = entry<Op, &forward2<Op, T>>();
    if constexpr (k >= 6) {
      kernels.forward_rows[op][0][k - 6] = entry<Op, &forward_rows<Op, T, 0>>();
      kernels.forward_rows[op][1][k - 6] = entry<Op, &forward_rows<Op, T, 1>>();
      kernels.forward_rows[op][2][k - 6] = entry<Op, &forward_rows<Op, T, 2>>();
      if constexpr (requires(T v) { Op::grad(v, v, v, v); }) {
        BackwardFn* const backward = kernels.backward[op][k - 6];
        backward[1] = entry<Op, &backward2<Op, T, 1>>();
        backward[2] = entry<Op, &backward2<Op, T, 2>>();
        backward[3] = entry<Op, &backward2<Op, T, 3>>();
      }
    }
  });
  if constexpr (Op::info.light) kernels.forward_brain[op] = &forward_brain<Op, 2>;
}

template <bool kCondition, class T>
struct FirstOf {
  using Type = T;
};
template <class T>
struct FirstOf<true, T> {
  using Type = bool;
};

template <class Op>
void fill_ternary(Kernels& kernels, int op) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    using First = typename FirstOf<(Op::info.condition & 1) != 0, T>::Type;
    if constexpr (kTakes<Op, k>) kernels.forward[op][k] = entry<Op, &forward3<First, Op, T>>();
    if constexpr (k >= 6) {
      BackwardFn* const backward = kernels.backward[op][k - 6];
      backward[1] = entry<Op, &backward3<First, Op, T, 1>>();
      backward[2] = entry<Op, &backward3<First, Op, T, 2>>();
      backward[3] = entry<Op, &backward3<First, Op, T, 3>>();
      backward[4] = entry<Op, &backward3<First, Op, T, 4>>();
      backward[5] = entry<Op, &backward3<First, Op, T, 5>>();
      backward[6] = entry<Op, &backward3<First, Op, T, 6>>();
      backward[7] = entry<Op, &backward3<First, Op, T, 7>>();
    }
  });
}

}  // namespace

void fill_pointwise(Kernels& kernels) {
#define LMP_UNARY(function, Op) fill_unary<Op>(kernels, static_cast<int>(OpId::Op));
#define LMP_BINARY(function, Op) fill_binary<Op>(kernels, static_cast<int>(OpId::Op));
#define LMP_TERNARY(function, Op) fill_ternary<Op>(kernels, static_cast<int>(OpId::Op));
#include "lamppp/tensor/pointwise.def"
}

}  // namespace lmp::cpu::LMP_ISA
