#include <cmath>
#include <limits>
#include <optional>

#include "cuda/lanes.cuh"
#include "cuda/matmul.hpp"
#include "cuda/pointwise.cuh"
#include "cuda/positions.cuh"

namespace lmp::cuda {

using tensor::CrossEntropyOptions;
using tensor::LossReduction;

// ---- Bias and activation ----

namespace {

template <class T>
__device__ __forceinline__ T activated(T x, OpId activation) {
  switch (activation) {
    case OpId::Relu:
      return Relu::fwd(x);
    case OpId::Gelu:
      return Gelu::fwd(x);
    case OpId::GeluTanh:
      return GeluTanh::fwd(x);
    case OpId::Silu:
      return Silu::fwd(x);
    case OpId::Sigmoid:
      return Sigmoid::fwd(x);
    case OpId::Tanh:
      return Tanh::fwd(x);
    default:
      return x;
  }
}

/// Packs of kN elements, which rows are made of.
template <class S, int kN>
__global__ void __launch_bounds__(kThreads)
    add_bias(S* x, const S* bias, const Divider row_packs, std::uint32_t packs, OpId activation) {
  const std::uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  if (i >= packs) return;
  auto values = load_pack<kN, S>(x, std::int64_t{i} * kN);
  Pack<S, kN> added;
  if (bias) {
    const std::uint32_t column = i - row_packs.divide(i) * row_packs.divisor;
    added = load_pack<kN, S>(bias, std::int64_t{column} * kN);
  }
#pragma unroll
  for (int k = 0; k < kN; ++k) {
    Computed<S> v = widen(values.at[k]);
    if (bias) v += widen(added.at[k]);
    values.at[k] = convert<S>(activated(v, activation));
  }
  store_pack<kN, S>(x, std::int64_t{i} * kN, values);
}

}  // namespace

void bias_activation(const Tensor& x, const Tensor& bias, OpId activation) {
  if (x.numel() == 0) return;
  const Context context(x.device());
  const std::int64_t columns = x.shape().dim(x.ndim() - 1);
  const std::int64_t rows = static_cast<std::int64_t>(x.numel()) / columns;
  // Parts of a row, or of rows, that a launch takes.
  const std::int64_t width = std::min(columns, kLaunchElements);
  const std::int64_t height = std::max<std::int64_t>(1, kLaunchElements / columns);
  visit_floating(x.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    auto* const to = static_cast<S*>(x.data());
    const auto* const added = bias.defined() ? static_cast<const S*>(bias.data()) : nullptr;
    with_pack<S>(columns % kPackOf<S> == 0 && is_aligned(to, 16) && is_aligned(added, 16),
                 [&](auto pack) {
                   constexpr int kN = decltype(pack)::value;
                   for (std::int64_t r = 0; r < rows; r += height)
                     for (std::int64_t c = 0; c < columns; c += width) {
                       const std::int64_t across = std::min(width, columns - c) / kN;
                       const std::int64_t packs = std::min(height, rows - r) * across;
                       launch(context, "linear", &add_bias<S, kN>,
                              static_cast<unsigned>(ceil_div(packs, kThreads)), kThreads, 0,
                              to + r * columns + c, added ? added + c : nullptr,
                              Divider(static_cast<std::uint32_t>(across)),
                              static_cast<std::uint32_t>(packs), activation);
                     }
                 });
  });
}

// ---- Cross-entropy ----

namespace {

// Note [Cross-entropy on the GPU]
// The forward kernel reads the logits once: each thread keeps the largest of what it has seen and
// the sum of exponentials relative to it (M. Milakov and N. Gimelshein, "Online normalizer
// calculation for softmax", 2018). A reduction over rows is made of one part for each block, which
// a second kernel adds up in order; small ones are left to one block, and one launch.

constexpr int kLossThreads = 512;
constexpr std::int64_t kLossBlocks = 8192;   // and so many parts at most
constexpr std::int64_t kOneBlock = 1 << 15;  // elements that one block takes alone

template <class C>
struct Part {
  C total;
  std::int64_t counted;
};

template <class S>
struct Loss {
  const S* logits;
  const std::int64_t* labels;
  Computed<S>* stats;
  S* loss;
  Part<Computed<S>>* parts;  // null where one block does it all
  std::int64_t rows, classes, ignored;
  Computed<S> smoothing;
  LossReduction reduction;
};

/// Below 2^-126 it is 0; relative errors grow with |x|, as the value vanishes.
__device__ __forceinline__ float exp_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504F));
  return y;
}
__device__ __forceinline__ double exp_of(double x) { return ::exp(x); }

/// 0 in the place of -inf, so that -inf less it stays -inf.
template <class C>
__device__ __forceinline__ C finite_or_zero(C x) {
  return x == -std::numeric_limits<C>::infinity() ? C{} : x;
}

/// The elements of a row up to the first that is aligned for packs, the packs, and the elements
/// after them. `aligned` tells whether packs may be used at all.
template <class S>
struct Split {
  std::int64_t head, packs, tail;
  __device__ __forceinline__ Split(const S* row, std::int64_t n, bool aligned) {
    constexpr int kN = kPackOf<S>;
    const auto past = static_cast<int>(reinterpret_cast<std::uintptr_t>(row) / sizeof(S) % kN);
    head = (kN - past) % kN;
    if (!aligned || head > n) head = n;
    packs = (n - head) / kN;
    tail = head + packs * kN;
  }
};

/// What a thread has seen of a row.
template <class C>
struct Seen {
  C top = -std::numeric_limits<C>::infinity();
  C sum{};      // of exp(x - top)
  C shifted{};  // the sum of x - shift, if that is asked for
  template <int kN>
  __device__ __forceinline__ void take(const C (&x)[kN], C shift, bool shifts) {
    C most = x[0];
#pragma unroll
    for (int k = 1; k < kN; ++k) most = fmax(most, x[k]);
    if (most > top) {
      sum *= exp_of(top - most);
      top = most;
    }
    const C base = finite_or_zero(top);
    C part[2] = {};
#pragma unroll
    for (int k = 0; k < kN; ++k) part[k % 2] += exp_of(x[k] - base);
    sum += part[0] + part[1];
    if (shifts) {
      C all{};
#pragma unroll
      for (int k = 0; k < kN; ++k) all += x[k] - shift;
      shifted += all;
    }
  }
};

template <class C, int kPacks, class S>
__device__ __forceinline__ void take_packs(Seen<C>& seen, const S* from, std::int64_t step, C shift,
                                           bool shifts) {
  constexpr int kN = kPackOf<S>;
  Pack<S, kN> packs[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) packs[p] = load_pack<kN, S>(from, p * step);
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    C values[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) values[k] = widen(packs[p].at[k]);
    seen.take(values, shift, shifts);
  }
}

/// The loss out of the sum over all rows.
template <class S>
__device__ __forceinline__ void finish(const Loss<S>& a, Computed<S> total, std::int64_t counted) {
  if (a.reduction == LossReduction::Mean) {
    total = static_cast<Computed<S>>(static_cast<double>(total) / static_cast<double>(counted));
    a.stats[2 * a.rows] = static_cast<Computed<S>>(1 / static_cast<double>(counted));
  }
  *a.loss = convert<S>(total);
}

template <class S, int kGroup>
__global__ void __launch_bounds__(kLossThreads)
    cross_entropy_rows(const Loss<S> a, const Positions classes) {
  using C = Computed<S>;
  constexpr int kN = kPackOf<S>, kRows = kLossThreads / kGroup, kFlying = 4;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const bool smooths = a.smoothing != 0;
  C total{};
  int counted = 0;
  for (std::int64_t first = std::int64_t{blockIdx.x} * kRows; first < a.rows;
       first += std::int64_t{gridDim.x} * kRows) {
    const std::int64_t row = first + threadIdx.x / kGroup;
    const bool exists = row < a.rows;
    std::int64_t label = exists ? a.labels[row] : a.ignored;
    const bool counts = exists && label != a.ignored;
    if (counts && (label < 0 || label >= a.classes)) {
      if (lane == 0) classes.refuse(label);
      label = 0;
    }
    const bool here = counts && a.classes > 0;
    const S* const x = a.logits + row * a.classes;
    Seen<C> seen;
    C shift{};
    if (here) {
      if (smooths) {
        shift = widen(x[0]);
        if (!(fabs(shift) <= std::numeric_limits<C>::max())) shift = 0;
      }
      const Split<S> split(x, a.classes, true);
      const auto single = [&](std::int64_t i) {
        const C v[1] = {widen(x[i])};
        seen.take(v, shift, smooths);
      };
      for (std::int64_t i = lane; i < split.head; i += kGroup) single(i);
      for (std::int64_t i = split.tail + lane; i < a.classes; i += kGroup) single(i);
      const S* const body = x + split.head;
      std::int64_t p = lane;
      for (; p + (kFlying - 1) * kGroup < split.packs; p += kFlying * kGroup)
        take_packs<C, kFlying>(seen, body + p * kN, kGroup * kN, shift, smooths);
      for (; p < split.packs; p += kGroup) take_packs<C, 1>(seen, body + p * kN, 0, shift, smooths);
    }
    const C top = max_group<kGroup>(seen.top);
    C sums[2] = {seen.top == top ? seen.sum : seen.sum * exp_of(seen.top - top), seen.shifted};
    sum_group<kGroup>(sums);
    if (lane != 0 || !exists) continue;
    C loss{};
    if (here) {
      const C log_sum = log(sums[0]);
      a.stats[2 * row] = top;
      a.stats[2 * row + 1] = log_sum;
      loss = log_sum - (widen(x[label]) - top);
      if (smooths) {
        const C mean = sums[1] / static_cast<C>(a.classes) - (top - shift);  // of x - top
        loss = (1 - a.smoothing) * loss + a.smoothing * (log_sum - mean);
      }
    }
    if (a.reduction == LossReduction::None) a.loss[row] = convert<S>(loss);
    total += loss;
    counted += counts;
  }
  if (a.reduction == LossReduction::None) return;
  total = sum_group<kLossThreads>(total);
  counted = sum_group<kLossThreads>(counted);
  if (threadIdx.x != 0) return;
  if (a.parts)
    a.parts[blockIdx.x] = {total, counted};
  else
    finish(a, total, std::int64_t{counted});
}

template <class S>
__global__ void __launch_bounds__(kLossThreads) join_losses(const Loss<S> a, int parts) {
  Computed<S> total{};
  long long counted = 0;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < parts; i += kLossThreads) {
    total += a.parts[i].total;
    counted += a.parts[i].counted;
  }
  total = sum_group<kLossThreads>(total);
  counted = sum_group<kLossThreads>(counted);
  if (threadIdx.x == 0) finish(a, total, std::int64_t{counted});
}

template <class S>
struct LossGradient {
  Loss<S> loss;  // what it was, with the gradients of the logits in `out`
  const S* gradient;
  std::int64_t step;  // from one row's to the next
  S* out;
  Computed<S> spread, picked;
};

template <class S, int kGroup>
__global__ void __launch_bounds__(kLossThreads) cross_entropy_slopes(const LossGradient<S> g) {
  using C = Computed<S>;
  constexpr int kN = kPackOf<S>, kRows = kLossThreads / kGroup, kFlying = 4;
  const Loss<S>& a = g.loss;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const std::int64_t row = std::int64_t{blockIdx.x} * kRows + threadIdx.x / kGroup;
  if (row >= a.rows) return;
  const std::int64_t given = a.labels[row];
  const std::int64_t label = given < 0 || given >= a.classes ? 0 : given;
  const S* const x = a.logits + row * a.classes;
  S* const out = g.out + row * a.classes;
  const bool aligned =
      (reinterpret_cast<std::uintptr_t>(x) - reinterpret_cast<std::uintptr_t>(out)) % 16 == 0;
  const Split<S> split(x, a.classes, aligned);
  S* const to = out + split.head;
  if (given == a.ignored) {
    const S zero = convert<S>(C{});
    for (std::int64_t i = lane; i < split.head; i += kGroup) out[i] = zero;
    for (std::int64_t i = split.tail + lane; i < a.classes; i += kGroup) out[i] = zero;
    Pack<S, kN> zeros;
#pragma unroll
    for (int k = 0; k < kN; ++k) zeros.at[k] = zero;
    for (std::int64_t p = lane; p < split.packs; p += kGroup) store_pack<kN, S>(to, p * kN, zeros);
    return;
  }
  const C top = a.stats[2 * row], log_sum = a.stats[2 * row + 1];
  C by = widen(g.gradient[row * g.step]);
  if (a.reduction == LossReduction::Mean) by *= a.stats[2 * a.rows];
  const auto slope = [&](S v, bool hit) {
    const C p = exp_of(widen(v) - top - log_sum) - g.spread;
    return convert<S>(by * (hit ? p - g.picked : p));
  };
  const auto single = [&](std::int64_t i) { out[i] = slope(x[i], i == label); };
  for (std::int64_t i = lane; i < split.head; i += kGroup) single(i);
  for (std::int64_t i = split.tail + lane; i < a.classes; i += kGroup) single(i);
  const S* const from = x + split.head;
  const std::int64_t hit = label - split.head;
  const auto store = [&](const Pack<S, kN>& values, std::int64_t at) {
    Pack<S, kN> made;
#pragma unroll
    for (int k = 0; k < kN; ++k) made.at[k] = slope(values.at[k], false);
    if (hit >= at && hit < at + kN) {
#pragma unroll
      for (int k = 0; k < kN; ++k)
        if (at + k == hit) made.at[k] = slope(values.at[k], true);
    }
    store_pack<kN, S>(to, at, made);
  };
  std::int64_t p = lane;
  for (; p + (kFlying - 1) * kGroup < split.packs; p += kFlying * kGroup) {
    Pack<S, kN> packs[kFlying];
#pragma unroll
    for (int q = 0; q < kFlying; ++q) packs[q] = load_pack<kN, S>(from, (p + q * kGroup) * kN);
#pragma unroll
    for (int q = 0; q < kFlying; ++q) store(packs[q], (p + q * kGroup) * kN);
  }
  for (; p < split.packs; p += kGroup) store(load_pack<kN, S>(from, p * kN), p * kN);
}

/// f(std::integral_constant<int, threads>()) for so many threads that share a row.
template <class F>
void with_group(std::int64_t classes, F&& f) {
  if (classes <= 64)
    f(std::integral_constant<int, 8>());
  else if (classes <= 4096)
    f(std::integral_constant<int, 32>());
  else
    f(std::integral_constant<int, kLossThreads>());
}

template <class S>
Loss<S> loss_of(const Tensor& stats, const Tensor& logits, const Tensor& labels,
                const CrossEntropyOptions& options) {
  Loss<S> a{};
  a.logits = static_cast<const S*>(logits.data());
  a.labels = static_cast<const std::int64_t*>(labels.data());
  a.stats = static_cast<Computed<S>*>(stats.data());
  a.rows = static_cast<std::int64_t>(labels.numel());
  a.classes = logits.shape().dim(logits.ndim() - 1);
  a.ignored = options.ignore_index;
  a.smoothing = static_cast<Computed<S>>(options.label_smoothing);
  a.reduction = options.reduction;
  return a;
}

}  // namespace

void cross_entropy(const Tensor& loss, const Tensor& stats, const Tensor& logits,
                   const Tensor& labels, const CrossEntropyOptions& options) {
  if (loss.numel() == 0) return;
  const Context context(logits.device());
  visit_floating(logits.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    using C = Computed<S>;
    Loss<S> a = loss_of<S>(stats, logits, labels, options);
    a.loss = static_cast<S*>(loss.data());
    const bool reduced = a.reduction != LossReduction::None;
    with_group(a.classes, [&](auto group) {
      constexpr int kGroup = decltype(group)::value;
      std::int64_t blocks = ceil_div(a.rows, kLossThreads / kGroup);
      if (reduced) blocks = a.rows * a.classes <= kOneBlock ? 1 : std::min(blocks, kLossBlocks);
      blocks = std::min(blocks, kLaunchElements);
      const bool alone = !reduced || blocks == 1;
      std::optional<Scratch> parts;
      if (!alone) {
        parts.emplace(context, static_cast<std::size_t>(blocks) * sizeof(Part<C>));
        a.parts = parts->template as<Part<C>>();
      }
      launch(context, "cross_entropy", &cross_entropy_rows<S, kGroup>,
             static_cast<unsigned>(blocks), kLossThreads, 0, a,
             Positions(context, "cross_entropy", a.classes));
      if (!alone)
        launch(context, "cross_entropy", &join_losses<S>, 1, kLossThreads, 0, a,
               static_cast<int>(blocks));
    });
  });
}

void cross_entropy_backward(const Tensor& out, const Tensor& g, const Tensor& stats,
                            const Tensor& logits, const Tensor& labels,
                            const CrossEntropyOptions& options) {
  if (out.numel() == 0) return;
  const Context context(logits.device());
  visit_floating(logits.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    using C = Computed<S>;
    LossGradient<S> a{};
    a.loss = loss_of<S>(stats, logits, labels, options);
    a.gradient = static_cast<const S*>(g.data());
    a.step = options.reduction == LossReduction::None ? 1 : 0;
    a.out = static_cast<S*>(out.data());
    a.spread = static_cast<C>(options.label_smoothing / static_cast<double>(a.loss.classes));
    a.picked = static_cast<C>(1 - options.label_smoothing);
    with_group(a.loss.classes, [&](auto group) {
      constexpr int kGroup = decltype(group)::value;
      launch(context, "cross_entropy", &cross_entropy_slopes<S, kGroup>,
             static_cast<unsigned>(ceil_div(a.loss.rows, kLossThreads / kGroup)), kLossThreads, 0,
             a);
    });
  });
}

}  // namespace lmp::cuda
