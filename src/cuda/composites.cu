#include <cmath>
#include <limits>
#include <optional>

#include "cuda/capture.hpp"
#include "cuda/exp.cuh"
#include "cuda/lanes.cuh"
#include "cuda/matmul.hpp"
#include "cuda/pointwise.cuh"
#include "cuda/positions.cuh"
#include "tensor/access.hpp"

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
// calculation for softmax", 2018). Where the gradient is asked for, a block keeps of its row what
// fits in shared memory, and makes the gradient of that. A reduction over rows is made of one part
// for each block, which a second kernel adds up in order; small ones are left to one block, and one
// launch. So is what the gradient of a mean is divided by, the number of labels.

constexpr int kLossThreads = 512;
template <class S>
constexpr int kLossResident = sizeof(S) == 8 ? 1 : 2;  // blocks of a multiprocessor at least
constexpr std::int64_t kLossBlocks = 8192;             // and so many parts at most
constexpr std::int64_t kOneBlock = 1 << 15;            // elements that one block takes alone
constexpr int kFlying = 4;                             // packs that a thread loads at a time

template <class C>
struct Part {
  C total;
  std::int64_t counted;
};

template <class S>
struct Loss {
  const S* logits;
  const std::int64_t* labels;
  Computed<S>* stats;  // [rows][2]: the largest logit, and one over the sum of exp(logit - that)
  S* loss;
  S* gradient;
  Part<Computed<S>>* parts;  // null where one block does it all
  std::int64_t* counts;      // of labels that are not ignored, in kCounters parts; or null
  std::int64_t rows, classes, ignored;
  Computed<S> smoothing, spread, picked;  // the last two of the target
  LossReduction reduction;
};

/// e^x for x <= 0.
__device__ __forceinline__ float exp_of(float x) { return exp_near(x); }
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
  static constexpr int kN = kPackOf<S>;
  std::int64_t head, packs, tail, end;
  __device__ __forceinline__ Split(const S* row, std::int64_t n, bool aligned) : end(n) {
    const auto past = static_cast<int>(reinterpret_cast<std::uintptr_t>(row) / sizeof(S) % kN);
    head = (kN - past) % kN;
    if (!aligned || head > n) head = n;
    packs = (n - head) / kN;
    tail = head + packs * kN;
  }
  /// single(i) for the elements around the packs, and several(std::integral_constant<int, n>(), p)
  /// for packs p, p + kGroup, .. (p + (n - 1) * kGroup), of which each thread has its share.
  template <int kGroup, class Single, class Several>
  __device__ __forceinline__ void share(int lane, Single&& single, Several&& several) const {
    for (std::int64_t i = lane; i < head; i += kGroup) single(i);
    for (std::int64_t i = tail + lane; i < end; i += kGroup) single(i);
    std::int64_t p = lane;
    for (; p + (kFlying - 1) * kGroup < packs; p += kFlying * kGroup)
      several(std::integral_constant<int, kFlying>(), p);
    for (; p < packs; p += kGroup) several(std::integral_constant<int, 1>(), p);
  }
  /// Whose share element i is in.
  template <int kGroup>
  __device__ __forceinline__ int owner(std::int64_t i) const {
    return static_cast<int>((i < head ? i : i < tail ? (i - head) / kN : i - tail) % kGroup);
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

/// The gradient of the logits of a row, `by` times softmax less the target, by the threads that
/// share it. The first `held` packs lie in shared memory, if the rows are aligned alike.
template <class S, int kGroup>
__device__ __forceinline__ void write_slopes(const Loss<S>& a, std::int64_t row, bool counts,
                                             std::int64_t label, Computed<S> top,
                                             Computed<S> over_sum, Computed<S> by,
                                             const uint4* hold, std::int64_t held, int lane) {
  using C = Computed<S>;
  constexpr int kN = kPackOf<S>;
  const S* const x = a.logits + row * a.classes;
  S* const out = a.gradient + row * a.classes;
  const bool alike =
      (reinterpret_cast<std::uintptr_t>(x) - reinterpret_cast<std::uintptr_t>(out)) % 16 == 0;
  const Split<S> split(out, a.classes, alike || !counts);
  S* const to = out + split.head;
  if (!counts) {
    const S zero = convert<S>(C{});
    Pack<S, kN> zeros;
#pragma unroll
    for (int k = 0; k < kN; ++k) zeros.at[k] = zero;
    split.template share<kGroup>(
        lane, [&](std::int64_t i) { out[i] = zero; },
        [&](auto several, std::int64_t p) {
#pragma unroll
          for (int q = 0; q < several; ++q) store_whole(to + (p + q * kGroup) * kN, zeros);
        });
    return;
  }
  const C factor = by * over_sum, less = by * a.spread;
  const auto slope = [&](S v) { return exp_of(widen(v) - top) * factor - less; };
  const S* const from = x + split.head;
  split.template share<kGroup>(
      lane, [&](std::int64_t i) { out[i] = convert<S>(slope(x[i])); },
      [&](auto several, std::int64_t p) {
        Pack<S, kN> packs[several];
#pragma unroll
        for (int q = 0; q < several; ++q) {
          const std::int64_t at = p + q * kGroup;
          packs[q] =
              at < held ? std::bit_cast<Pack<S, kN>>(hold[at]) : load_whole<S, kN>(from + at * kN);
        }
#pragma unroll
        for (int q = 0; q < several; ++q) {
          Pack<S, kN> made;
#pragma unroll
          for (int k = 0; k < kN; ++k) made.at[k] = convert<S>(slope(packs[q].at[k]));
          store_whole(to + (p + q * kGroup) * kN, made);
        }
      });
  if (lane == split.template owner<kGroup>(label))
    out[label] = convert<S>(slope(x[label]) - by * a.picked);
}

/// The loss out of the sum over all rows.
template <class S>
__device__ __forceinline__ void finish(const Loss<S>& a, Computed<S> total, std::int64_t counted) {
  if (a.reduction == LossReduction::Mean)
    total = static_cast<Computed<S>>(static_cast<double>(total) / static_cast<double>(counted));
  *a.loss = convert<S>(total);
}

constexpr int kCounters = 128;

/// How many labels are not ignored, in parts.
__global__ void __launch_bounds__(kLossThreads)
    count_labels(const std::int64_t* labels, std::int64_t rows, std::int64_t ignored,
                 std::int64_t* counts) {
  long long counted = 0;
  for (std::int64_t i = blockIdx.x * kLossThreads + threadIdx.x; i < rows;
       i += kCounters * kLossThreads)
    counted += labels[i] != ignored;
  counted = sum_group<kLossThreads>(counted);
  if (threadIdx.x == 0) counts[blockIdx.x] = counted;
}

/// With a gradient, so many packs of a row as `held` stay in shared memory.
template <class S, int kGroup, bool kGradient>
__global__ void __launch_bounds__(kLossThreads, kLossResident<S>)
    cross_entropy_rows(const Loss<S> a, const Positions classes, int held) {
  using C = Computed<S>;
  constexpr int kN = kPackOf<S>, kRows = kLossThreads / kGroup;
  extern __shared__ uint4 hold[];
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const bool smooths = a.smoothing != 0;
  // The labels that are not ignored, summed when the rows that the block begins with are read.
  const bool averages = kGradient && a.reduction == LossReduction::Mean && !std::is_same_v<S, Half>;
  long long all = 0;
  if (averages && a.counts) {
    if (threadIdx.x < kCounters) all = a.counts[threadIdx.x];
  } else if (averages) {
    for (std::int64_t i = threadIdx.x; i < a.rows; i += kLossThreads)
      all += a.labels[i] != a.ignored;
  }
  C by{1};
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
      const S* const body = x + split.head;
      split.template share<kGroup>(
          lane,
          [&](std::int64_t i) {
            const C v[1] = {widen(x[i])};
            seen.take(v, shift, smooths);
          },
          [&](auto several, std::int64_t p) {
            Pack<S, kN> packs[several];
#pragma unroll
            for (int q = 0; q < several; ++q)
              packs[q] = load_whole<S, kN>(body + (p + q * kGroup) * kN);
#pragma unroll
            for (int q = 0; q < several; ++q) {
              if (kGradient && p + q * kGroup < held)
                hold[p + q * kGroup] = std::bit_cast<uint4>(packs[q]);
              C values[kN];
#pragma unroll
              for (int k = 0; k < kN; ++k) values[k] = widen(packs[q].at[k]);
              seen.take(values, shift, smooths);
            }
          });
    }
    const C top = max_group<kGroup>(seen.top);
    C sums[2] = {seen.top == top ? seen.sum : seen.sum * exp_of(seen.top - top), seen.shifted};
    sum_group<kGroup>(sums);
    if (averages && first == std::int64_t{blockIdx.x} * kRows)
      by = static_cast<C>(1 / static_cast<double>(sum_group<kLossThreads>(all)));
    // A thread reads of what is held what it has put there.
    if (kGradient && exists && a.classes > 0)
      write_slopes<S, kGroup>(a, row, counts, label, top, 1 / sums[0], by, hold, held, lane);
    if (lane != 0 || !exists) continue;
    C loss{};
    if (here) {
      const C log_sum = log(sums[0]);
      if (a.stats) {
        a.stats[2 * row] = top;
        a.stats[2 * row + 1] = 1 / sums[0];
      }
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
  if constexpr (kRows > 1) {
    total = sum_group<kLossThreads>(total);
    counted = sum_group<kLossThreads>(counted);
  }
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

/// The gradient of losses that stay, out of theirs and the stats.
template <class S, int kGroup>
__global__ void __launch_bounds__(kLossThreads, kLossResident<S>)
    cross_entropy_slopes(const Loss<S> a, const S* gradient) {
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const std::int64_t row =
      std::int64_t{blockIdx.x} * (kLossThreads / kGroup) + threadIdx.x / kGroup;
  if (row >= a.rows) return;
  const std::int64_t given = a.labels[row];
  const std::int64_t label = given < 0 || given >= a.classes ? 0 : given;
  write_slopes<S, kGroup>(a, row, given != a.ignored, label, a.stats[2 * row], a.stats[2 * row + 1],
                          widen(gradient[row]), nullptr, 0, lane);
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
Loss<S> loss_of(const Tensor& stats, const Tensor& gradient, const Tensor& logits,
                const Tensor& labels, const CrossEntropyOptions& options) {
  Loss<S> a{};
  a.logits = static_cast<const S*>(logits.data());
  a.labels = static_cast<const std::int64_t*>(labels.data());
  if (stats.defined()) a.stats = static_cast<Computed<S>*>(stats.data());
  if (gradient.defined()) a.gradient = static_cast<S*>(gradient.data());
  a.rows = static_cast<std::int64_t>(labels.numel());
  a.classes = logits.shape().dim(logits.ndim() - 1);
  a.ignored = options.ignore_index;
  a.smoothing = static_cast<Computed<S>>(options.label_smoothing);
  a.spread = static_cast<Computed<S>>(options.label_smoothing / static_cast<double>(a.classes));
  a.picked = static_cast<Computed<S>>(1 - options.label_smoothing);
  a.reduction = options.reduction;
  return a;
}

template <class S, int kN>
__global__ void __launch_bounds__(kThreads) scale_by(S* x, const S* by, std::int64_t packs) {
  const Computed<S> factor = widen(*by);
  if (factor == 1) return;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < packs;
       i += std::int64_t{gridDim.x} * kThreads) {
    auto values = load_pack<kN, S>(x, i * kN);
#pragma unroll
    for (int k = 0; k < kN; ++k) values.at[k] = convert<S>(widen(values.at[k]) * factor);
    store_pack<kN, S>(x, i * kN, values);
  }
}

}  // namespace

void cross_entropy(const Tensor& loss, const Tensor& gradient, const Tensor& stats,
                   const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options) {
  if (loss.numel() == 0) return;
  const Context context(logits.device());
  constexpr const char* kOp = "cross_entropy";
  visit_floating(logits.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    using C = Computed<S>;
    Loss<S> a = loss_of<S>(stats, gradient, logits, labels, options);
    a.loss = static_cast<S*>(loss.data());
    const bool reduced = a.reduction != LossReduction::None;
    with_group(a.classes, [&](auto group) {
      constexpr int kGroup = decltype(group)::value;
      std::int64_t blocks = ceil_div(a.rows, kLossThreads / kGroup);
      if (reduced) blocks = a.rows * a.classes <= kOneBlock ? 1 : std::min(blocks, kLossBlocks);
      blocks = std::min(blocks, kLaunchElements);
      const bool alone = !reduced || blocks == 1;
      std::optional<Scratch> parts, counts;
      if (!alone) {
        parts.emplace(context, static_cast<std::size_t>(blocks) * sizeof(Part<C>));
        a.parts = parts->template as<Part<C>>();
      }
      if (!alone && a.gradient && a.reduction == LossReduction::Mean) {
        counts.emplace(context, kCounters * sizeof(std::int64_t));
        a.counts = counts->template as<std::int64_t>();
        launch(context, kOp, &count_labels, kCounters, kLossThreads, 0, a.labels, a.rows, a.ignored,
               a.counts);
      }
      int held = 0;
      std::size_t shared = 0;
      auto kernel = &cross_entropy_rows<S, kGroup, false>;
      if (a.gradient) {
        kernel = &cross_entropy_rows<S, kGroup, true>;
        if constexpr (kGroup == kLossThreads) {
          // So that there is room for a second block.
          const std::int64_t room = properties(context.index).shared_bytes / 2 - 2048;
          held = static_cast<int>(std::min(a.classes / kPackOf<S>, room / kPackBytes));
          shared = static_cast<std::size_t>(held) * kPackBytes;
          check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(room)),
                kOp);
        }
      }
      launch(context, kOp, kernel, static_cast<unsigned>(blocks), kLossThreads, shared, a,
             Positions(context, kOp, a.classes), held);
      if (!alone)
        launch(context, kOp, &join_losses<S>, 1, kLossThreads, 0, a, static_cast<int>(blocks));
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
    const Loss<S> a = loss_of<S>(stats, out, logits, labels, options);
    with_group(a.classes, [&](auto group) {
      constexpr int kGroup = decltype(group)::value;
      launch(context, "cross_entropy", &cross_entropy_slopes<S, kGroup>,
             static_cast<unsigned>(ceil_div(a.rows, kLossThreads / kGroup)), kLossThreads, 0, a,
             static_cast<const S*>(g.data()));
    });
  });
}

void scale(const Tensor& x, const Tensor& by) {
  if (x.numel() == 0 || is_one(by)) return;
  const Context context(x.device());
  const auto* const block = static_cast<const Block*>(tensor::TensorAccess::storage(x)->context);
  if (current_capture() && !made_on(block, context.stream))
    throw DeviceError(
        "cross_entropy: each replay would scale the gradient once more that the forward pass has "
        "made; capture the forward pass too, or call backward(retain_graph)");
  const auto n = static_cast<std::int64_t>(x.numel());
  visit_floating(x.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    auto* const to = static_cast<S*>(x.data());
    with_pack<S>(n % kPackOf<S> == 0 && is_aligned(to, 16), [&](auto pack) {
      constexpr int kN = decltype(pack)::value;
      const std::int64_t most = 32 * properties(context.index).multiprocessors;
      launch(context, "mul", &scale_by<S, kN>,
             static_cast<unsigned>(std::min(ceil_div(n / kN, kThreads), most)), kThreads, 0, to,
             static_cast<const S*>(by.data()), n / kN);
    });
  });
}

}  // namespace lmp::cuda
