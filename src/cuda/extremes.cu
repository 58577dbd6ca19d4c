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

/// What any element is at least as far as.
template <bool kMax, class T>
__device__ __forceinline__ T least() {
  if constexpr (std::is_floating_point_v<T>)
    return kMax ? -std::numeric_limits<T>::infinity() : std::numeric_limits<T>::infinity();
  else
    return kMax ? std::numeric_limits<T>::lowest() : std::numeric_limits<T>::max();
}

/// Bool is taken for UInt8, whose order it has. NaN is further than all else.
template <bool kMax, class T>
struct ExtremeOf {
  using Acc = T;
  using Value = T;
  using Next = ExtremeOf;
  static constexpr With kWith = With::Nothing;
  static constexpr int kChains = 4;
  static constexpr bool kSameType = true;
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<Computed<S>, T>;
  }
  __device__ static T identity() { return least<kMax, T>(); }
  __device__ static T join(T a, T b) {
    const T further = (kMax ? b > a : b < a) ? b : a;
    return is_nan(b) ? b : further;  // a that is NaN stays
  }
  __device__ static void extend(T& a, T x, T, std::int64_t) { a = join(a, x); }
  __device__ static void store(void* data, DataType type, std::int64_t i, T v) {
    if constexpr (std::is_same_v<T, float>) {
      if (type == DataType::Float16) static_cast<Half*>(data)[i] = convert<Half>(v);
      else if (type == DataType::BFloat16) static_cast<Brain*>(data)[i] = convert<Brain>(v);
      else static_cast<float*>(data)[i] = v;
    } else {
      static_cast<T*>(data)[i] = v;
    }
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

template <bool kMax, class T>
struct PlaceOf {
  using Acc = Best<T>;
  using Value = T;
  using Next = PlaceOf;
  static constexpr With kWith = With::Nothing;
  static constexpr int kChains = 1;  // elements come in their order
  static constexpr bool kSameType = true;
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<Computed<S>, T>;
  }
  __device__ static Acc identity() { return {least<kMax, T>(), kNowhere}; }
  __device__ static bool beats(T candidate, T best) {
    return !is_nan(best) && ((kMax ? candidate > best : candidate < best) || is_nan(candidate));
  }
  __device__ static Acc join(const Acc& a, const Acc& b) {
    return beats(b.value, a.value) || (!beats(a.value, b.value) && b.at < a.at) ? b : a;
  }
  __device__ static void extend(Acc& a, T x, T, std::int64_t at) {
    if (beats(x, a.value)) a = {x, at};
  }
  /// Where nothing is further than the least, the first element is what is looked for.
  __device__ static void store(void* data, DataType, std::int64_t i, const Acc& a) {
    static_cast<std::int64_t*>(data)[i] = a.at == kNowhere ? 0 : a.at;
  }
};

template <template <bool, class> class Op, bool kMax>
void fold_ordered(const char* name, const Tensor& out, const Tensor& x) {
  visit(compute_type(x.type()), [&](auto tag) {
    using Type = Computed<typename decltype(tag)::Type>;
    using T = std::conditional_t<std::is_same_v<Type, bool>, std::uint8_t, Type>;
    fold<Op<kMax, T>>(name, out, x, {});
  });
}

}  // namespace

void reduce_extremes(bool largest, const Tensor& out, const Tensor& x) {
  if (largest)
    fold_ordered<ExtremeOf, true>("max", out, x);
  else
    fold_ordered<ExtremeOf, false>("min", out, x);
}

void arg_extreme(bool largest, const Tensor& out, const Tensor& x, int) {
  if (out.numel() == 0) return;
  if (largest)
    fold_ordered<PlaceOf, true>("argmax", out, x);
  else
    fold_ordered<PlaceOf, false>("argmin", out, x);
}

}  // namespace lmp::cuda
