// Every op of the table as device code: a forward kernel for each type that the op computes in, and
// one that computes all its gradients. That this compiles is the test.

#include <cstdint>

#include "ops/op_info.hpp"

// Templates for every integer compare with 0, the unsigned ones in vain.
#pragma nv_diag_suppress 186

#define LMP_FN __host__ __device__ constexpr
#define LMP_MATH_FN __host__ __device__ inline

namespace lmp::cuda {

#include "ops/math.hpp"
#include "ops/pointwise.hpp"

template <bool kBool, class T>
struct Or {
  using Type = T;
};
template <class T>
struct Or<true, T> {
  using Type = bool;
};
/// Operand i of Op where the others are T.
template <class Op, int i, class T>
using In = const typename Or<(Op::info.condition >> i & 1) != 0, T>::Type;
/// The result of Op on T.
template <class Op, class T>
using Out = typename Or<Op::info.promote == Promote::Compare, T>::Type;

template <class Op, class T>
constexpr bool kTakes = kMathIsFloat<T> || (Op::info.promote != Promote::Float &&
                                            (Op::info.takes_bool || !__is_same(T, bool)));

__device__ inline int index() { return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x); }

template <class T>
__device__ void put(T* out, int i, T gradient) {
  if (out) out[i] = gradient;
}
template <class T>
__device__ void put(T*, int, None) {}
template <class T>
__device__ void put(T* out, int i, int zero) {
  if (out) out[i] = static_cast<T>(zero);
}

template <class Op, class T>
__global__ void forward(Out<Op, T>* out, In<Op, 0, T>* x, int n) {
  if (const int i = index(); i < n) out[i] = static_cast<Out<Op, T>>(Op::fwd(x[i]));
}
template <class Op, class T>
__global__ void forward(Out<Op, T>* out, In<Op, 0, T>* a, In<Op, 1, T>* b, int n) {
  if (const int i = index(); i < n) out[i] = static_cast<Out<Op, T>>(Op::fwd(a[i], b[i]));
}
template <class Op, class T>
__global__ void forward(Out<Op, T>* out, In<Op, 0, T>* a, In<Op, 1, T>* b, In<Op, 2, T>* c, int n) {
  if (const int i = index(); i < n) out[i] = static_cast<Out<Op, T>>(Op::fwd(a[i], b[i], c[i]));
}

template <class Op, class T>
__global__ void backward(T* da, const T* g, In<Op, 0, T>* x, const T* y, int n) {
  if (const int i = index(); i < n) {
    const auto grads = Op::grad(g[i], x[i], y[i]);
    put(da, i, grads.a);
  }
}
template <class Op, class T>
__global__ void backward(T* da, T* db, const T* g, In<Op, 0, T>* a, In<Op, 1, T>* b, const T* y,
                         int n) {
  if (const int i = index(); i < n) {
    const auto grads = Op::grad(g[i], a[i], b[i], y[i]);
    put(da, i, grads.a);
    put(db, i, grads.b);
  }
}
template <class Op, class T>
__global__ void backward(T* da, T* db, T* dc, const T* g, In<Op, 0, T>* a, In<Op, 1, T>* b,
                         In<Op, 2, T>* c, const T* y, int n) {
  if (const int i = index(); i < n) {
    const auto grads = Op::grad(g[i], a[i], b[i], c[i], y[i]);
    put(da, i, grads.a);
    put(db, i, grads.b);
    put(dc, i, grads.c);
  }
}

/// Launching a kernel instantiates it.
template <class Op, int kArity, class T>
void instantiate() {
  if constexpr (kTakes<Op, T>) {
    if constexpr (kArity == 1)
      forward<Op, T><<<1, 1>>>(nullptr, nullptr, 0);
    else if constexpr (kArity == 2)
      forward<Op, T><<<1, 1>>>(nullptr, nullptr, nullptr, 0);
    else
      forward<Op, T><<<1, 1>>>(nullptr, nullptr, nullptr, nullptr, 0);
  }
  if constexpr (kMathIsFloat<T> && Op::info.promote != Promote::Compare) {
    if constexpr (kArity == 1)
      backward<Op, T><<<1, 1>>>(nullptr, nullptr, nullptr, nullptr, 0);
    else if constexpr (kArity == 2)
      backward<Op, T><<<1, 1>>>(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0);
    else
      backward<Op, T>
          <<<1, 1>>>(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 0);
  }
}

template <class Op, int kArity>
void instantiate_all() {
  instantiate<Op, kArity, bool>();
  instantiate<Op, kArity, std::uint8_t>();
  instantiate<Op, kArity, std::int8_t>();
  instantiate<Op, kArity, std::int16_t>();
  instantiate<Op, kArity, std::int32_t>();
  instantiate<Op, kArity, std::int64_t>();
  instantiate<Op, kArity, float>();
  instantiate<Op, kArity, double>();
}

void instantiate_table() {
#define LMP_UNARY(function, Op) instantiate_all<Op, 1>();
#define LMP_BINARY(function, Op) instantiate_all<Op, 2>();
#define LMP_TERNARY(function, Op) instantiate_all<Op, 3>();
#include "lamppp/tensor/pointwise.def"
}

}  // namespace lmp::cuda
