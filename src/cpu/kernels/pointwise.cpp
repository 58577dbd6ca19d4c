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

template <class Op, class T>
void forward1(void* out, const void* const* in, std::size_t n) {
  using R = decltype(result_of<Op, T>());
  auto* o = static_cast<R*>(out);
  const auto* x = static_cast<const T*>(in[0]);
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) o[i] = static_cast<R>(Op::fwd(x[i]));
}

template <class Op, class T>
void forward2(void* out, const void* const* in, std::size_t n) {
  using R = decltype(result_of<Op, T>());
  auto* o = static_cast<R*>(out);
  const auto* a = static_cast<const T*>(in[0]);
  const auto* b = static_cast<const T*>(in[1]);
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) o[i] = static_cast<R>(Op::fwd(a[i], b[i]));
}

template <class First, class Op, class T>
void forward3(void* out, const void* const* in, std::size_t n) {
  auto* o = static_cast<T*>(out);
  const auto* a = static_cast<const First*>(in[0]);
  const auto* b = static_cast<const T*>(in[1]);
  const auto* c = static_cast<const T*>(in[2]);
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) o[i] = static_cast<T>(Op::fwd(a[i], b[i], c[i]));
}

template <class T, class G>
[[gnu::always_inline]] inline void put(void* out, std::size_t i, G value) {
  static_cast<T*>(out)[i] = static_cast<T>(value);
}

template <unsigned kMask, class T, class G>
[[gnu::always_inline]] inline void put_all(void* const* out, std::size_t i, const G& grads) {
  if constexpr ((kMask & 1) != 0 && !__is_same(decltype(grads.a), None)) put<T>(out[0], i, grads.a);
  if constexpr ((kMask & 2) != 0 && !__is_same(decltype(grads.b), None)) put<T>(out[1], i, grads.b);
  if constexpr ((kMask & 4) != 0 && !__is_same(decltype(grads.c), None)) put<T>(out[2], i, grads.c);
}

// What a gradient does not touch and what kMask leaves out goes away once `grad` is inlined.

template <class Op, class T, unsigned kMask>
void backward1(void* const* out, const void* gradient, const void* const* in, const void* result,
               std::size_t n) {
  const auto *g = static_cast<const T*>(gradient), *x = static_cast<const T*>(in[0]),
             *y = static_cast<const T*>(result);
  void* const o[1] = {out[0]};
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) put_all<kMask, T>(o, i, Op::grad(g[i], x[i], y[i]));
}

template <class Op, class T, unsigned kMask>
void backward2(void* const* out, const void* gradient, const void* const* in, const void* result,
               std::size_t n) {
  const auto *g = static_cast<const T*>(gradient), *a = static_cast<const T*>(in[0]),
             *b = static_cast<const T*>(in[1]), *y = static_cast<const T*>(result);
  void* const o[2] = {out[0], out[1]};
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i) put_all<kMask, T>(o, i, Op::grad(g[i], a[i], b[i], y[i]));
}

template <class First, class Op, class T, unsigned kMask>
void backward3(void* const* out, const void* gradient, const void* const* in, const void* result,
               std::size_t n) {
  const auto *g = static_cast<const T*>(gradient), *b = static_cast<const T*>(in[1]),
             *c = static_cast<const T*>(in[2]), *y = static_cast<const T*>(result);
  const auto* a = static_cast<const First*>(in[0]);
  void* const o[3] = {out[0], out[1], out[2]};
  LMP_VECTORIZE
  for (std::size_t i = 0; i < n; ++i)
    put_all<kMask, T>(o, i, Op::grad(g[i], a[i], b[i], c[i], y[i]));
}

template <class Op, int kIndex>
constexpr bool kTakes =
    Op::info.promote == Promote::Float ? kIndex >= 6 : kIndex > 0 || Op::info.takes_bool;

template <class Op>
void fill_unary(ForwardFn* forward, BackwardFn (*backward)[8]) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    if constexpr (kTakes<Op, k>) forward[k] = &forward1<Op, T>;
    if constexpr (k >= 6) {
      if constexpr (requires(T v) { Op::grad(v, v, v); }) backward[k - 6][1] = &backward1<Op, T, 1>;
    }
  });
}

template <class Op>
void fill_binary(ForwardFn* forward, BackwardFn (*backward)[8]) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    if constexpr (kTakes<Op, k>) forward[k] = &forward2<Op, T>;
    if constexpr (k >= 6) {
      if constexpr (requires(T v) { Op::grad(v, v, v, v); }) {
        backward[k - 6][1] = &backward2<Op, T, 1>;
        backward[k - 6][2] = &backward2<Op, T, 2>;
        backward[k - 6][3] = &backward2<Op, T, 3>;
      }
    }
  });
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
void fill_ternary(ForwardFn* forward, BackwardFn (*backward)[8]) {
  for_each_compute_type([&](auto index) {
    constexpr int k = decltype(index)::value;
    using T = ComputeType<k>;
    using First = typename FirstOf<(Op::info.condition & 1) != 0, T>::Type;
    if constexpr (kTakes<Op, k>) forward[k] = &forward3<First, Op, T>;
    if constexpr (k >= 6) {
      backward[k - 6][1] = &backward3<First, Op, T, 1>;
      backward[k - 6][2] = &backward3<First, Op, T, 2>;
      backward[k - 6][3] = &backward3<First, Op, T, 3>;
      backward[k - 6][4] = &backward3<First, Op, T, 4>;
      backward[k - 6][5] = &backward3<First, Op, T, 5>;
      backward[k - 6][6] = &backward3<First, Op, T, 6>;
      backward[k - 6][7] = &backward3<First, Op, T, 7>;
    }
  });
}

}  // namespace

void fill_pointwise(Kernels& kernels) {
#define LMP_UNARY(function, Op)                               \
  fill_unary<Op>(kernels.forward[static_cast<int>(OpId::Op)], \
                 kernels.backward[static_cast<int>(OpId::Op)]);
#define LMP_BINARY(function, Op)                               \
  fill_binary<Op>(kernels.forward[static_cast<int>(OpId::Op)], \
                  kernels.backward[static_cast<int>(OpId::Op)]);
#define LMP_TERNARY(function, Op)                               \
  fill_ternary<Op>(kernels.forward[static_cast<int>(OpId::Op)], \
                   kernels.backward[static_cast<int>(OpId::Op)]);
#include "lamppp/tensor/pointwise.def"
}

}  // namespace lmp::cpu::LMP_ISA
