#include "cuda/reduce.cuh"

// Templates for every integer compare with 0, the unsigned ones in vain.
#pragma nv_diag_suppress 186

namespace lmp::cuda {
namespace {

template <class T>
__device__ __forceinline__ bool is_nan(T v) {
  if constexpr (std::is_floating_point_v<T>)
    return v != v;
  else
    return false;
}

/// What all elements are at least.
template <class T>
__device__ __forceinline__ T least() {
  if constexpr (std::is_floating_point_v<T>)
    return -std::numeric_limits<T>::infinity();
  else
    return std::numeric_limits<T>::lowest();
}

/// Elements are flipped by what flip_of() gives: negated or, which cannot overflow, inverted.
template <class T>
__device__ __forceinline__ T flip_of(bool flip) {
  if constexpr (std::is_floating_point_v<T>)
    return flip ? T{-1} : T{1};
  else
    return static_cast<T>(flip ? -1 : 0);
}
template <class T>
__device__ __forceinline__ T flipped(T v, T by) {
  if constexpr (std::is_floating_point_v<T>)
    return v * by;
  else
    return static_cast<T>(v ^ by);
}

/// The largest. Bool is taken for UInt8, whose order it has. NaN is further than all else.
template <class T>
struct ExtremeOf {
  using Acc = T;
  using Value = T;
  using Next = ExtremeOf;
  static constexpr With kWith = With::Nothing;
  static constexpr int kChains = 4;
  static constexpr bool kRuns = false;
  static constexpr bool kSameType = true;
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<Computed<S>, T>;
  }
  __device__ static T identity() { return least<T>(); }
  __device__ static T weight(bool flip) { return flip_of<T>(flip); }
  __device__ static T join(T a, T b) {
#if __CUDA_ARCH__ >= 800
    if constexpr (std::is_same_v<T, float>) {
      asm("max.NaN.f32 %0, %0, %1;" : "+f"(a) : "f"(b));
      return a;
    }
#endif
    const T larger = b > a ? b : a;
    return is_nan(b) ? b : larger;  // a that is NaN stays
  }
  __device__ static void extend(T& a, T x, T by, std::int64_t) { a = join(a, flipped(x, by)); }
  __device__ static T finished(T a, bool flip) { return flipped(a, flip_of<T>(flip)); }
  __device__ static void store(void* data, DataType type, std::int64_t i, T v, double) {
    store_computed(data, type, i, v);
  }
};

inline constexpr std::int64_t kNowhere = std::numeric_limits<std::int64_t>::max();

/// An extreme and where it is first.
template <class T>
struct Best {
  T value;
  std::int64_t at;
};
template <class T>
__device__ __forceinline__ Best<T> shuffled(Best<T> v, int by) {
  return {cuda::shuffled(v.value, by), cuda::shuffled(v.at, by)};
}

template <class T>
struct PlaceOf {
  using Acc = Best<T>;
  using Value = T;
  using Next = PlaceOf;
  static constexpr With kWith = With::Nothing;
  /// The largest of a thread's elements, and the first W that have it.
  template <int W>
  struct Run {
    T value = least<T>(), held[W] = {};
    int turn = -1;
    __device__ void begin(T) {}
    __device__ void take(const T (&x)[W], T by, int at) {
      T v[W];
#pragma unroll
      for (int k = 0; k < W; ++k) v[k] = flipped(x[k], by);
      T most = v[0];
#pragma unroll
      for (int k = 1; k < W; ++k) most = ExtremeOf<T>::join(most, v[k]);
      const bool more = !(most <= value) & !is_nan(value);
      value = more ? most : value;
      turn = more ? at : turn;
      if constexpr (W > 1) {
#pragma unroll
        for (int k = 0; k < W; ++k) held[k] = more ? v[k] : held[k];
      }
    }
    __device__ Acc made(int, std::int64_t at, std::int64_t step) const {
      if (turn < 0) return identity();
      int first = 0;
      if constexpr (W > 1) {
#pragma unroll
        for (int k = W - 1; k >= 0; --k)
          if (held[k] == value || is_nan(held[k])) first = k;
      }
      return {value, at + turn * step + first};
    }
  };
  static constexpr int kChains = 1;
  static constexpr bool kRuns = true;
  static constexpr bool kSameType = true;
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<Computed<S>, T>;
  }
  __device__ static Acc identity() { return {least<T>(), kNowhere}; }
  __device__ static T weight(bool flip) { return flip_of<T>(flip); }
  /// Neither this nor join() branches: the lanes of a warp go different ways.
  __device__ static bool beats(T candidate, T best) {
    return !is_nan(best) & ((candidate > best) | is_nan(candidate));
  }
  __device__ static Acc join(const Acc& a, const Acc& b) {
    const bool other = beats(b.value, a.value) | (!beats(a.value, b.value) & (b.at < a.at));
    return {other ? b.value : a.value, other ? b.at : a.at};
  }
  __device__ static void extend(Acc& a, T x, T by, std::int64_t at) {
    x = flipped(x, by);
    if (beats(x, a.value)) a = {x, at};
  }
  __device__ static Acc finished(const Acc& a, bool) { return a; }  // the next pass joins them
  /// Where no element is more than the least, the first one is what is looked for.
  __device__ static void store(void* data, DataType, std::int64_t i, const Acc& a, double) {
    static_cast<std::int64_t*>(data)[i] = a.at == kNowhere ? 0 : a.at;
  }
};

template <template <class> class Op>
void fold_ordered(const char* name, const Tensor& out, const Tensor& x, bool smallest) {
  visit(compute_type(x.type()), [&](auto tag) {
    using Type = Computed<typename decltype(tag)::Type>;
    using T = std::conditional_t<std::is_same_v<Type, bool>, std::uint8_t, Type>;
    fold<Op<T>>(name, out, x, {}, smallest);
  });
}

}  // namespace

void reduce_extremes(bool largest, const Tensor& out, const Tensor& x) {
  fold_ordered<ExtremeOf>(largest ? "max" : "min", out, x, !largest);
}

void arg_extreme(bool largest, const Tensor& out, const Tensor& x, int) {
  if (out.numel() > 0) fold_ordered<PlaceOf>(largest ? "argmax" : "argmin", out, x, !largest);
}

}  // namespace lmp::cuda
