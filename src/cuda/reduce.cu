#include "cuda/reduce.cuh"

#include "cuda/pointwise.cuh"

namespace lmp::cuda {

using table::Reduction;
using table::Spread;

namespace {

// ---- What is reduced ----

template <class T>
inline constexpr bool kIsWhole = std::is_integral_v<T>;

/// Sums in T, of integers in Int64, which wraps.
template <class T, class Joiner, With kWhich = With::Nothing, bool kDivided = false>
struct Accumulated {
  using Acc = T;
  using Value = T;
  using Next = Joiner;
  static constexpr With kWith = kWhich;
  static constexpr int kChains = kIsWhole<T> ? 1 : 4;
  static constexpr bool kRuns = false;
  static constexpr bool kSameType = false;
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<Computed<S>, T>;
  }
  __device__ static T weight(bool) { return T{}; }
  __device__ static T finished(T a, bool) { return a; }
  __device__ static void store(void* data, DataType type, std::int64_t i, T v, double divisor) {
    store_computed(data, type, i, kDivided ? v / static_cast<T>(divisor) : v);
  }
};

template <class T>
struct SumOf : Accumulated<T, SumOf<T>, With::Nothing, !kIsWhole<T>> {
  template <class S>
  static constexpr bool fast() {
    return kIsWhole<T> ? kIsWhole<S> : std::is_same_v<Computed<S>, T>;
  }
  __device__ static T identity() { return T{0}; }
  __device__ static T join(T a, T b) {
    if constexpr (kIsWhole<T>)
      return add(a, b);
    else
      return a + b;
  }
  __device__ static void extend(T& a, T x, T, std::int64_t) { a = join(a, x); }
};

template <class T>
struct ProdOf : Accumulated<T, ProdOf<T>> {
  __device__ static T identity() { return T{1}; }
  __device__ static T join(T a, T b) {
    if constexpr (kIsWhole<T>)
      return mul(a, b);
    else
      return a * b;
  }
  __device__ static void extend(T& a, T x, T, std::int64_t) { a = join(a, x); }
};

/// Sums of terms.
template <class T, With kWhich>
struct Summed : Accumulated<T, SumOf<T>, kWhich> {
  __device__ static T identity() { return T{0}; }
  __device__ static T join(T a, T b) { return a + b; }
};

template <class T>
struct SquaresOf : Summed<T, With::Output> {
  __device__ static void extend(T& a, T x, T center, std::int64_t) {
    a += (x - center) * (x - center);
  }
};
template <class T>
struct ExpsOf : Summed<T, With::Output> {
  __device__ static void extend(T& a, T x, T shift, std::int64_t) { a += exp(x - shift); }
};
template <class T>
struct EqualsOf : Summed<T, With::Output> {
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<S, T>;
  }
  __device__ static void extend(T& a, T x, T value, std::int64_t) { a += x == value ? T{1} : T{0}; }
};
template <class T>
struct ProductsOf : Summed<T, With::Element> {
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<S, T>;
  }
  __device__ static void extend(T& a, T x, T other, std::int64_t) { a += x * other; }
};

/// The mean of some elements, and the sum of the squares of their differences from it.
template <class T>
struct alignas(4 * sizeof(T)) Moments {
  T count, mean, squares;
};
template <class T>
__device__ __forceinline__ Moments<T> shuffled(const Moments<T>& v, int by) {
  return {cuda::shuffled(v.count, by), cuda::shuffled(v.mean, by), cuda::shuffled(v.squares, by)};
}

/// By halves.
template <int W, class T>
__device__ __forceinline__ T sum_of(const T (&v)[W]) {
  T sums[W];
#pragma unroll
  for (int k = 0; k < W; ++k) sums[k] = v[k];
#pragma unroll
  for (int step = W / 2; step > 0; step /= 2)
#pragma unroll
    for (int k = 0; k < step; ++k) sums[k] += sums[k + step];
  return sums[0];
}

/// a / b for a count b, the quick way where that is right to two units in the last place.
__device__ __forceinline__ float ratio(float a, float b) { return __fdividef(a, b); }
__device__ __forceinline__ double ratio(double a, double b) { return a / b; }

/// Joined after Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
/// sample variances", 1979. A thread's are relative to its first element, so that little cancels.
template <class T>
struct DeviationsOf {
  using Acc = Moments<T>;
  using Value = T;
  using Next = DeviationsOf;
  template <int W>
  struct Run {
    T first = 0, sum[W] = {}, squares[W] = {};
    __device__ void begin(T x) { first = x; }
    __device__ void take(const T (&x)[W], T, int) {
#pragma unroll
      for (int k = 0; k < W; ++k) {
        const T apart = x[k] - first;
        sum[k] += apart;
        squares[k] += apart * apart;
      }
    }
    __device__ Acc made(int turns, std::int64_t, std::int64_t) const {
      if (turns == 0) return identity();
      const T n = static_cast<T>(turns) * W, all = sum_of(sum), mean = ratio(all, n);
      const T around = sum_of(squares) - all * mean;
      return {n, first + mean, around < 0 ? T{0} : around};
    }
  };
  static constexpr With kWith = With::Nothing;
  static constexpr int kChains = 1;
  static constexpr bool kRuns = true;
  static constexpr bool kSameType = false;
  template <class S>
  static constexpr bool fast() {
    return std::is_same_v<Computed<S>, T>;
  }
  __device__ static Acc identity() { return {T{0}, T{0}, T{0}}; }
  __device__ static T weight(bool) { return T{}; }
  __device__ static Acc join(const Acc& a, const Acc& b) {
    const bool both = (a.count > 0) & (b.count > 0);
    const T count = a.count + b.count, apart = both ? b.mean - a.mean : T{0};
    const T part = ratio(b.count, count > 1 ? count : T{1});
    return {count, a.count > 0 ? a.mean + apart * part : b.mean,
            a.squares + b.squares + apart * apart * (a.count * part)};
  }
  __device__ static void extend(Acc& a, T x, T, std::int64_t) { a = join(a, {T{1}, x, T{0}}); }
  __device__ static Acc finished(const Acc& a, bool) { return a; }
  __device__ static void store(void* data, DataType type, std::int64_t i, const Acc& a,
                               double divisor) {
    // A single infinite element has no deviation, but no mean to have it from either.
    store_computed(data, type, i, (a.squares + (a.mean - a.mean)) / static_cast<T>(divisor));
  }
};

template <template <class> class Op>
void fold_floating(const char* name, const Tensor& out, const Tensor& x, const Tensor& with,
                   double divisor = 1) {
  if (compute_type(out.type()) == DataType::Float64)
    fold<Op<double>>(name, out, x, with, false, divisor);
  else
    fold<Op<float>>(name, out, x, with, false, divisor);
}
template <template <class> class Op>
void fold_sum(const char* name, const Tensor& out, const Tensor& x) {
  if (tensor::is_floating(out.type()))
    fold_floating<Op>(name, out, x, {});
  else
    fold<Op<std::int64_t>>(name, out, x, {});
}

}  // namespace

void reduce(Reduction reduction, const Tensor& out, const Tensor& x, const Tensor& with,
            double divisor) {
  if (out.numel() == 0) return;
  if (x.numel() == 0)
    return fill(out, reduction == Reduction::Prod   ? 1
                     : reduction == Reduction::Mean ? std::numeric_limits<double>::quiet_NaN()
                                                    : 0);
  switch (reduction) {
    case Reduction::Sum:
      return fold_sum<SumOf>("sum", out, x);
    case Reduction::Prod:
      return fold_sum<ProdOf>("prod", out, x);
    case Reduction::Max:
    case Reduction::Min:
      return reduce_extremes(reduction == Reduction::Max, out, x);
    case Reduction::Squares:
      return fold_floating<SquaresOf>("squares", out, x, with);
    case Reduction::Exps:
      return fold_floating<ExpsOf>("exps", out, x, with);
    case Reduction::Mean:
      return fold_floating<SumOf>("mean", out, x, {}, divisor);
    case Reduction::Deviations:
      return fold_floating<DeviationsOf>("deviations", out, x, {}, divisor);
    case Reduction::Equals:
      return fold_floating<EqualsOf>("equals", out, x, with);
    default:
      return fold_floating<ProductsOf>("products", out, x, with);
  }
}

// ---- What is made of the elements and of values for each result ----

namespace {

template <class T, Spread kOp>
__device__ __forceinline__ T spread_one(T x, T with, T a, T b) {
  if constexpr (kOp == Spread::Scaled) return (x - a) * b;
  if constexpr (kOp == Spread::Ties) return (x == a ? T{1} : T{0}) * b;
  if constexpr (kOp == Spread::ScaledExp) return exp(x - a) * b;
  if constexpr (kOp == Spread::LessBoth) return x - a - b;
  if constexpr (kOp == Spread::SoftmaxGradient) return x * (with - a);
  if constexpr (kOp == Spread::LogSoftmaxGradient) return with - exp(x) * a;
  if constexpr (kOp == Spread::Repeat) return a;
}

/// kN elements a thread. The operands of the loop are the dense ones and the values, of which one
/// goes with a pack where they repeat.
template <class T, Spread kOp, int kN>
__global__ void __launch_bounds__(kBlockThreads)
    spread_packs(T* out, const T* x, const T* with, const T* a, const T* b, const Loop<2> loop,
                 bool repeat) {
  constexpr bool kElements = kOp != Spread::Repeat;
  constexpr bool kWith = kOp == Spread::SoftmaxGradient || kOp == Spread::LogSoftmaxGradient;
  constexpr bool kSecond = kOp == Spread::Scaled || kOp == Spread::Ties ||
                           kOp == Spread::ScaledExp || kOp == Spread::LessBoth;
  const std::uint32_t i = blockIdx.x * kBlockThreads + threadIdx.x;
  if (i >= loop.numel) return;
  std::int64_t offset[2] = {};
  loop.locate(i, offset);
  const T* const from[] = {x, with, a, b};
  constexpr bool kReads[] = {kElements, kWith, true, kSecond};
  Values<T, kN> packs[4];
  T v[4][kN] = {};
  const auto each = [&](auto&& f) {
#pragma unroll
    for (int o = 0; o < 4; ++o) {
      Source source;
      source.data = from[o];
      if (kReads[o]) f(o, source, o >= 2 && repeat);
    }
  };
  each([&](int o, const Source& source, bool repeats) {
    packs[o].load(source, offset[o / 2], repeats);
  });
  each([&](int o, const Source& source, bool repeats) { packs[o].get(v[o], source, repeats); });
  Pack<T, kN> made;
#pragma unroll
  for (int k = 0; k < kN; ++k) made.at[k] = spread_one<T, kOp>(v[0][k], v[1][k], v[2][k], v[3][k]);
  store_pack<kN, T>(out, offset[0], made);
}

template <class T, Spread kOp>
void run_spread(const Tensor& out, const Tensor& x, const Tensor& with, const Tensor& a,
                const Tensor& b) {
  constexpr int kN = kPackOf<T>;
  const Context context(out.device());
  const IntList strides[2] = {tensor::detail::dense_strides(x.shape()),
                              tensor::detail::broadcast_strides(
                                  a.shape(), tensor::detail::dense_strides(a.shape()), x.shape())};
  const auto data = [](const Tensor& t) {
    return t.defined() ? static_cast<const T*>(t.data()) : nullptr;
  };
  for_parts(Iteration(x.shape(), strides, false), [&](const Iteration& part,
                                                      const std::int64_t* offsets) {
    T* const to = static_cast<T*>(out.data()) + offsets[0];
    const T *elements = moved(data(x), offsets[0]), *others = moved(data(with), offsets[0]),
            *low = data(a) + offsets[1], *high = data(b) + offsets[1];
    const void* const all[] = {to, low, high, elements, others};
    bool aligned = true;
    for (const void* each : all) aligned &= is_aligned(each, kPackBytes);
    Iteration loop = part;
    unsigned repeats = 0;
    const bool packs =
        aligned && in_rows(
                       loop, 2, 1, kN, repeats, [](int) { return sizeof(T); },
                       [&](int i) { return i == 0 ? static_cast<const void*>(to) : low; });
    const bool repeat = packs ? (repeats & 2) != 0 : false;
    launch(context, "spread", packs ? &spread_packs<T, kOp, kN> : &spread_packs<T, kOp, 1>,
           static_cast<unsigned>(ceil_div(loop.numel, kBlockThreads)), kBlockThreads, 0, to,
           elements, others, low, high, Loop<2>(loop), repeat);
  });
}

template <Spread kOp>
void run_spread(const Tensor& out, const Tensor& x, const Tensor& with, const Tensor& a,
                const Tensor& b) {
  if (out.type() == DataType::Float64)
    run_spread<double, kOp>(out, x, with, a, b);
  else
    run_spread<float, kOp>(out, x, with, a, b);
}

}  // namespace

void spread(Spread op, const Tensor& out, const Tensor& x, const Tensor& with, const Tensor& a,
            const Tensor& b) {
  using Run = void (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
  static constexpr Run kRuns[table::kSpreads] = {
      &run_spread<Spread::Scaled>,          &run_spread<Spread::Ties>,
      &run_spread<Spread::ScaledExp>,       &run_spread<Spread::LessBoth>,
      &run_spread<Spread::SoftmaxGradient>, &run_spread<Spread::LogSoftmaxGradient>,
      &run_spread<Spread::Repeat>};
  if (out.numel() > 0) kRuns[static_cast<int>(op)](out, x, with, a, b);
}

}  // namespace lmp::cuda
