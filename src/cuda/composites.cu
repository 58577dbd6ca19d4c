#include <cmath>
#include <limits>
#include <optional>

#include "cuda/capture.hpp"
#include "cuda/exp.cuh"
#include "cuda/lanes.cuh"
#include "cuda/matmul.hpp"
#include "cuda/overlap.cuh"
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
// calculation for softmax", 2018). Where the gradient is asked for, a block that has a row keeps of
// it what fits in shared memory, and makes the gradient of that; the next row is on its way into
// what it leaves. A reduction over rows is made of one part for each block, which a second kernel
// adds up in order; small ones are left to one block, and one launch. What the gradient of a mean
// is divided by, the number of labels, is counted by each block, or before if there are many.

constexpr int kLossThreads = 512;
template <class S>
constexpr int kLossResident = sizeof(S) == 8 ? 1 : 2;  // blocks of a multiprocessor at least
constexpr std::int64_t kLossBlocks = 8192;             // and so many parts at most
constexpr std::int64_t kFewLabels = 1 << 14;           // that each of few blocks counts
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

/// f(std::integral_constant<int, n>(), p) for n of the packs p, p + kGroup, .. below `end` at a
/// time, n being kFlying while there are as many.
template <int kGroup, class Index, class F>
__device__ __forceinline__ void fly(Index p, Index end, F&& f) {
  for (; p + (kFlying - 1) * kGroup < end; p += kFlying * kGroup)
    f(std::integral_constant<int, kFlying>(), p);
  for (; p < end; p += kGroup) f(std::integral_constant<int, 1>(), p);
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
  /// single(i) for the elements around the packs, and fly() for the thread's packs from `first` on.
  template <int kGroup, class Single, class Several>
  __device__ __forceinline__ void share(int lane, std::int64_t first, Single&& single,
                                        Several&& several) const {
    for (std::int64_t i = lane; i < head; i += kGroup) single(i);
    for (std::int64_t i = tail + lane; i < end; i += kGroup) single(i);
    fly<kGroup>(first, packs, several);
  }
  /// Whose share element i is in.
  template <int kGroup>
  __device__ __forceinline__ int owner(std::int64_t i) const {
    return static_cast<int>((i < head ? i : i < tail ? (i - head) / kN : i - tail) % kGroup);
  }
};

/// What a thread keeps of a row in shared memory: its packs, which are kGroup apart, of the first
/// `end`. All rows have so many.
template <int kGroup>
class Kept {
 public:
  __device__ __forceinline__ Kept(uint4* packs, int end, int lane)
      : packs_(packs), end_(end), lane_(lane) {}
  /// The thread's first pack that is not kept.
  __device__ __forceinline__ int past() const { return lane_ + count() * kGroup; }
  /// fly() for the thread's packs that are kept.
  template <class F>
  __device__ __forceinline__ void each(F&& f) const {
    fly<kGroup>(lane_, end_, f);
  }
  /// Begins to copy what each() names at a time, which makes a group, of a row whose packs are at
  /// `from`, unless that is null.
  template <int kCount>
  __device__ __forceinline__ void begin(int p, const uint4* from) const {
    if (from)
#pragma unroll
      for (int q = 0; q < kCount; ++q) begin_copy(packs_ + p + q * kGroup, from + p + q * kGroup);
    close_group();
  }
  /// Waits for such a group, of the row that was begun last.
  template <int kCount>
  __device__ __forceinline__ void wait(int p) const {
    const int later = count() / kFlying + count() % kFlying - 1 - p / (kFlying * kGroup);
    if (kCount == 1 || later == 0)
      wait_for_groups<0>();
    else if (later == 1)
      wait_for_groups<1>();
    else if (later == 2)
      wait_for_groups<2>();
    else
      wait_for_groups<3>();
  }
  template <class S, int kN, int kCount>
  __device__ __forceinline__ void load(Pack<S, kN> (&to)[kCount], int p) const {
#pragma unroll
    for (int q = 0; q < kCount; ++q) to[q] = std::bit_cast<Pack<S, kN>>(packs_[p + q * kGroup]);
  }

 private:
  __device__ __forceinline__ int count() const {
    return lane_ < end_ ? (end_ - 1 - lane_) / kGroup + 1 : 0;
  }
  uint4* packs_;
  int end_, lane_;
};

/// The largest element.
template <class S, int kN, int kCount>
__device__ __forceinline__ Computed<S> most_of(const Pack<S, kN> (&packs)[kCount]) {
  if constexpr (kIsHalf<S>) {
    using Two = std::conditional_t<std::is_same_v<S, Half>, __half2, __nv_bfloat162>;
    const auto two = [](const Pack<S, kN>& pack, int k) {
      return Two(pack.at[2 * k], pack.at[2 * k + 1]);
    };
    Two most = two(packs[0], 0);
#pragma unroll
    for (int q = 0; q < kCount; ++q)
#pragma unroll
      for (int k = 0; k < kN / 2; ++k) most = __hmax2(most, two(packs[q], k));
    return fmax(widen(most.x), widen(most.y));
  } else {
    Computed<S> most = packs[0].at[0];
#pragma unroll
    for (int q = 0; q < kCount; ++q)
#pragma unroll
      for (int k = 0; k < kN; ++k) most = fmax(most, packs[q].at[k]);
    return most;
  }
}

/// What a thread has seen of a row.
template <class C>
struct Seen {
  C top = -std::numeric_limits<C>::infinity();
  C sum{};      // of exp(x - top)
  C shifted{};  // the sum of x - shift, if that is asked for
  /// What `sum` is relative to, once something as large as `most` was seen.
  __device__ __forceinline__ C raise(C most) {
    if (most > top) {
      sum *= exp_of(top - most);
      top = most;
    }
    return finite_or_zero(top);
  }
  __device__ __forceinline__ void take(C x, C shift, bool shifts) {
    sum += exp_of(x - raise(x));
    if (shifts) shifted += x - shift;
  }
  template <class S, int kN, int kCount>
  __device__ __forceinline__ void take(const Pack<S, kN> (&packs)[kCount], C shift, bool shifts) {
    const C base = raise(most_of(packs));
    C part[2] = {}, all{};
#pragma unroll
    for (int q = 0; q < kCount; ++q) {
      const auto x = widen(packs[q]);
#pragma unroll
      for (int k = 0; k < kN; ++k) part[k % 2] += exp_of(x.at[k] - base);
      if (shifts)
#pragma unroll
        for (int k = 0; k < kN; ++k) all += x.at[k] - shift;
    }
    sum += part[0] + part[1];
    shifted += all;
  }
};

/// The gradient of the logits of a row, `by` times softmax less the target, by the threads that
/// share it. With kKeeps its first packs are kept, if the rows are aligned alike; those of the next
/// row at `next`, if that is not null, come in their place.
template <class S, int kGroup, bool kKeeps>
__device__ __forceinline__ void write_slopes(const Loss<S>& a, std::int64_t row, bool counts,
                                             std::int64_t label, Computed<S> top,
                                             Computed<S> over_sum, Computed<S> by,
                                             const Kept<kGroup>& kept, const uint4* next,
                                             int lane) {
  using C = Computed<S>;
  constexpr int kN = kPackOf<S>;
  const S* const x = a.logits + row * a.classes;
  S* const out = a.gradient + row * a.classes;
  const bool alike =
      (reinterpret_cast<std::uintptr_t>(x) - reinterpret_cast<std::uintptr_t>(out)) % 16 == 0;
  const Split<S> split(out, a.classes, alike || !counts);
  S* const to = out + split.head;
  if (kKeeps && (!counts || !alike))
    kept.each([&](auto several, int p) { kept.template begin<several>(p, next); });
  if (!counts) {
    const S zero = convert<S>(C{});
    split.template share<kGroup>(
        lane, lane, [&](std::int64_t i) { out[i] = zero; },
        [&](auto several, std::int64_t p) {
#pragma unroll
          for (int q = 0; q < several; ++q) store_bits(to + (p + q * kGroup) * kN, filled(zero));
        });
    return;
  }
  const C factor = by * over_sum, less = by * a.spread, chosen = widen(x[label]);
  const auto slope = [&](C v) { return exp_of(v - top) * factor - less; };
  const auto put = [&](const Pack<S, kN>& pack, S* at) {
    const auto wide = widen(pack);
    Pack<S, kN> made;
#pragma unroll
    for (int k = 0; k < kN; ++k) made.at[k] = convert<S>(slope(wide.at[k]));
    store_whole(at, made);
  };
  if (kKeeps && alike)
    kept.each([&](auto several, int p) {
      Pack<S, kN> packs[several];
      kept.load(packs, p);
      kept.template begin<several>(p, next);
      S* const at = to + p * kN;
#pragma unroll
      for (int q = 0; q < several; ++q) put(packs[q], at + q * kGroup * kN);
    });
  const S* const from = x + split.head;
  split.template share<kGroup>(
      lane, kKeeps ? kept.past() : lane,
      [&](std::int64_t i) { out[i] = convert<S>(slope(widen(x[i]))); },
      [&](auto several, std::int64_t p) {
        Pack<S, kN> packs[several];
#pragma unroll
        for (int q = 0; q < several; ++q)
          packs[q] = load_whole<S, kN>(from + (p + q * kGroup) * kN);
#pragma unroll
        for (int q = 0; q < several; ++q) put(packs[q], to + (p + q * kGroup) * kN);
      });
  if (lane == split.template owner<kGroup>(label))
    out[label] = convert<S>(slope(chosen) - by * a.picked);
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
  constexpr bool kKeeps = kGradient && kGroup == kLossThreads;
  extern __shared__ uint4 hold[];
  wait_for_earlier();
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const bool smooths = a.smoothing != 0;
  const auto label_of = [&](std::int64_t row) { return row < a.rows ? a.labels[row] : a.ignored; };
  const std::int64_t step = std::int64_t{gridDim.x} * kRows;
  const Kept<kGroup> kept(hold, held, lane);
  // Where the packs of a row begin, if it is to be read.
  const auto packs_of = [&](std::int64_t row) -> const uint4* {
    if (label_of(row) == a.ignored) return nullptr;
    const S* const x = a.logits + row * a.classes;
    return reinterpret_cast<const uint4*>(x + Split<S>(x, a.classes, true).head);
  };
  if constexpr (kKeeps) {
    const uint4* const packs = packs_of(blockIdx.x);
    kept.each([&](auto several, int p) { kept.template begin<several>(p, packs); });
  }
  // The labels that are not ignored, summed when the rows that the block begins with are read.
  const bool averages = kGradient && a.reduction == LossReduction::Mean && !std::is_same_v<S, Half>;
  long long all = 0;
  if (averages && a.counts) {
    if (threadIdx.x < kCounters) all = a.counts[threadIdx.x];
  } else if (averages) {
#pragma unroll 4
    for (std::int64_t i = threadIdx.x; i < a.rows; i += kLossThreads)
      all += a.labels[i] != a.ignored;
  }
  C by{1};
  C total{};
  int counted = 0;
  int turn = 0;
  for (std::int64_t first = std::int64_t{blockIdx.x} * kRows; first < a.rows; first += step) {
    const std::int64_t row = first + threadIdx.x / kGroup;
    const bool exists = row < a.rows;
    std::int64_t label = label_of(row);
    const bool counts = exists && label != a.ignored;
    if (counts && (label < 0 || label >= a.classes)) {
      if (lane == 0) classes.refuse(label);
      label = 0;
    }
    const bool here = counts && a.classes > 0;
    const uint4* const next = kKeeps ? packs_of(row + step) : nullptr;
    const S* const x = a.logits + row * a.classes;
    Seen<C> seen;
    C shift{}, chosen{};
    if (here) {
      chosen = widen(x[label]);
      if (smooths) {
        shift = widen(x[0]);
        if (!(fabs(shift) <= std::numeric_limits<C>::max())) shift = 0;
      }
      const Split<S> split(x, a.classes, true);
      const S* const body = x + split.head;
      if constexpr (kKeeps)
        kept.each([&](auto several, int p) {
          kept.template wait<several>(p);
          Pack<S, kN> packs[several];
          kept.load(packs, p);
          seen.take(packs, shift, smooths);
        });
      split.template share<kGroup>(
          lane, kKeeps ? kept.past() : lane,
          [&](std::int64_t i) { seen.take(widen(x[i]), shift, smooths); },
          [&](auto several, std::int64_t p) {
            Pack<S, kN> packs[several];
#pragma unroll
            for (int q = 0; q < several; ++q)
              packs[q] = load_whole<S, kN>(body + (p + q * kGroup) * kN);
            seen.take(packs, shift, smooths);
          });
    }
    // Warps leave what they have seen at two places in turns, so that one barrier a row is enough.
    constexpr int kWithin = kGroup < 32 ? kGroup : 32, kWarps = kGroup / kWithin;
    C top = max_group<kWithin>(seen.top);
    C sums[2] = {seen.top == top ? seen.sum : seen.sum * exp_of(seen.top - top), seen.shifted};
    sum_group<kWithin>(sums);
    if constexpr (kWarps > 1) {
      __shared__ C seen_by[2][3][kWarps];
      C(&there)[3][kWarps] = seen_by[turn];
      turn = 1 - turn;
      if (threadIdx.x % 32 == 0) {
        const int warp = static_cast<int>(threadIdx.x) / 32;
        there[0][warp] = top;
        there[1][warp] = sums[0];
        there[2][warp] = sums[1];
      }
      __syncthreads();
      const int warp = static_cast<int>(threadIdx.x) % kWarps;
      const C most = there[0][warp];
      top = max_group<kWarps>(most);
      sums[0] = most == top ? there[1][warp] : there[1][warp] * exp_of(most - top);
      sums[1] = there[2][warp];
      sum_group<kWarps>(sums);
    }
    if (averages && first == std::int64_t{blockIdx.x} * kRows)
      by = static_cast<C>(1 / static_cast<double>(sum_group<kLossThreads>(all)));
    if (kGradient && exists && a.classes > 0)
      write_slopes<S, kGroup, kKeeps>(a, row, counts, label, top, 1 / sums[0], by, kept, next,
                                      lane);
    if (lane != 0 || !exists) continue;
    C loss{};
    if (here) {
      const C log_sum = log(sums[0]);
      if (a.stats) {
        a.stats[2 * row] = top;
        a.stats[2 * row + 1] = 1 / sums[0];
      }
      loss = log_sum - (chosen - top);
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
  wait_for_earlier();
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
  write_slopes<S, kGroup, false>(a, row, given != a.ignored, label, a.stats[2 * row],
                                 a.stats[2 * row + 1], widen(gradient[row]),
                                 Kept<kGroup>(nullptr, 0, lane), nullptr, lane);
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
      // Blocks that have the next row on its way stay.
      const bool stays = a.gradient && kGroup == kLossThreads;
      const std::int64_t most =
          stays ? properties(context.index).multiprocessors * kLossResident<S> : kLossBlocks;
      if (reduced) blocks = a.rows * a.classes <= kOneBlock ? 1 : std::min(blocks, most);
      blocks = std::min(blocks, kLaunchElements);
      const bool alone = !reduced || blocks == 1;
      std::optional<Scratch> parts, counts;
      if (!alone) {
        parts.emplace(context, static_cast<std::size_t>(blocks) * sizeof(Part<C>));
        a.parts = parts->template as<Part<C>>();
      }
      if (!alone && a.gradient && a.reduction == LossReduction::Mean &&
          !(stays && a.rows <= kFewLabels)) {
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
          // What every row has, wherever it begins.
          const bool aligned = a.classes % kPackOf<S> == 0 && is_aligned(a.logits, kPackBytes);
          const std::int64_t packs = (a.classes - (aligned ? 0 : kPackOf<S> - 1)) / kPackOf<S>;
          held = static_cast<int>(std::min(packs, room / kPackBytes));
          shared = static_cast<std::size_t>(held) * kPackBytes;
          allow_shared(kOp, kernel, room);
        }
      }
      launch_early(context, kOp, kernel, static_cast<unsigned>(blocks), kLossThreads, shared, a,
                   Positions(context, kOp, a.classes), held);
      if (!alone)
        launch_early(context, kOp, &join_losses<S>, 1, kLossThreads, 0, a,
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
