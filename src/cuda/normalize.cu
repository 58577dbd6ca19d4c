#include "cuda/backend.hpp"
#include "cuda/lanes.cuh"
#include "cuda/overlap.cuh"

namespace lmp::cuda {

using tensor::detail::GradientTarget;

namespace {

// Note [Normalisation on the GPU]
// The threads of few blocks go over many rows, and have the next rows on their way into shared
// memory while they work on one. A warp or a block shares a row, and keeps the first kPacks packs
// of each thread in registers; what is left of wider rows is read again. Weights that are narrow
// enough lie in shared memory. Rows of a sum are added up on the way, as they are rounded. In the
// backward pass threads add up the gradients of weight and bias for their columns in registers;
// what blocks have found is joined by a small kernel, in an order that the shape and the GPU's
// properties give. Rows that do not fit registers get those gradients from a pass of its own. It
// goes from the last row to the first, as what other kernels have read or written last may still be
// in the cache.

constexpr int kWarp = 32, kBlock = 256, kWide = 512;  // threads that share a row

// Packs of a thread that shares a row with a warp or a block.
template <class S>
constexpr int kHeld = kIsHalf<S> ? 4 : 8;

template <class S>
struct Rows {
  const S* x;
  const S* residual;  // what is added to x, into `sum`
  const S* gradient;
  const S* weight;
  const S* bias;
  S* sum;
  S* out;
  Computed<S>* stats;
  std::int64_t rows, columns;
  Computed<S> eps;
  bool centered;
};

template <class S, int kN>
__device__ __forceinline__ Pack<S, kN> pack_at(const S* row, std::int64_t pack) {
  return reinterpret_cast<const Pack<S, kN>*>(row)[pack];
}

template <class S, int kN>
__device__ __forceinline__ void put_pack(S* row, std::int64_t pack, const Pack<S, kN>& value) {
  reinterpret_cast<Pack<S, kN>*>(row)[pack] = value;
}

/// How threads share a row: kPacks packs each that are kGroup apart, all of which are there if
/// kFull.
template <int kGroup_, int kPacks_, bool kFull_>
struct Share {
  static constexpr int kGroup = kGroup_, kPacks = kPacks_;
  static constexpr bool kFull = kFull_;
};

/// Whether packs are large enough to be copied beside the computation; else threads wait for what
/// they read, and more blocks are at work.
template <class S, int kN>
constexpr bool kCopies = sizeof(Pack<S, kN>) >= 4;

/// A thread's share of the rows that come next, of kOperands arrays each, and with kStats their
/// stats.
template <class S, int kN, class Share, int kOperands, bool kStats>
class NextRows {
  using P = Pack<S, kN>;
  using Stats = Pack<Computed<S>, 2>;
  static constexpr int kSlots = kOperands * Share::kPacks;  // of a row
  static constexpr bool kSmall = Share::kGroup == kWarp || kSlots <= 6;

 public:
  static constexpr int kRows = kIsHalf<S> && kCopies<S, kN> && kSmall ? 2 : 1;
  /// Of shared memory.
  static constexpr int kBytesPerThread =
      kRows * static_cast<int>(kSlots * sizeof(P) + (kStats ? sizeof(Stats) : 0));

  __device__ __forceinline__ NextRows(std::byte* shared, std::int64_t packs)
      : lane_(threadIdx.x % Share::kGroup) {
    const int group = static_cast<int>(threadIdx.x) / Share::kGroup;
    packs_ = reinterpret_cast<P*>(shared) + group * kRows * kSlots * Share::kGroup + lane_;
    stats_ =
        reinterpret_cast<Stats*>(shared + blockDim.x * kRows * kSlots * sizeof(P)) + threadIdx.x;
    constexpr int kMost = Share::kPacks * Share::kGroup;
    left_ = static_cast<int>((packs < kMost ? packs : kMost) - lane_);
  }
  /// Whether the row has the thread's pack p.
  __device__ __forceinline__ bool has(int p) const {
    return Share::kFull || p * Share::kGroup < left_;
  }
  /// Begins to copy a row; in turn with take().
  __device__ __forceinline__ void begin(bool exists, const S* const (&rows)[kOperands],
                                        const Computed<S>* stats = nullptr) {
    if (exists) {
      if constexpr (kStats) begin_copy(stats_at(), reinterpret_cast<const Stats*>(stats));
#pragma unroll
      for (int o = 0; o < kOperands; ++o) {
        const P* const from = reinterpret_cast<const P*>(rows[o]) + lane_;
        from_[o] = from;
        if constexpr (kCopies<S, kN>)
#pragma unroll
          for (int p = 0; p < Share::kPacks; ++p)
            if (has(p)) begin_copy(slot(o, p), from + p * Share::kGroup);
      }
    }
    close_group();
    turn_ = turn_ + 1 == kRows ? 0 : turn_ + 1;
  }
  /// The row begun kRows ago, once it is there.
  __device__ __forceinline__ void take(P (&to)[kOperands][Share::kPacks]) const {
    wait_for_groups<kRows - 1>();
#pragma unroll
    for (int p = 0; p < Share::kPacks; ++p)
      if (has(p))
#pragma unroll
        for (int o = 0; o < kOperands; ++o)
          to[o][p] = kCopies<S, kN> ? *slot(o, p) : from_[o][p * Share::kGroup];
  }
  /// The stats of the row that was taken, before the next begin().
  __device__ __forceinline__ Stats stats() const { return *stats_at(); }

 private:
  __device__ __forceinline__ P* slot(int operand, int p) const {
    return packs_ + turn_ * kSlots * Share::kGroup + (operand * Share::kPacks + p) * Share::kGroup;
  }
  __device__ __forceinline__ Stats* stats_at() const {
    return stats_ + turn_ * static_cast<int>(blockDim.x);
  }
  P* packs_;
  Stats* stats_;
  const P* from_[kOperands];
  std::int64_t lane_;
  int left_, turn_ = 0;
};

// Blocks of the forward kernel that a multiprocessor has room for.
template <class S, class Share>
constexpr int kForwardBlocks = kIsHalf<S> ? (Share::kGroup == kWarp ? 4 : 2) : 2;

template <class S, int kN, class Share, bool kSum>
using NextInputs = NextRows<S, kN, Share, kSum ? 2 : 1, false>;

/// Rows of x, or with kSum of x + residual.
template <class S, int kN, class Share, bool kSum>
__global__ void __launch_bounds__(kBlock, kForwardBlocks<S, Share>)
    normalize_rows(const Rows<S> a) {
  using C = Computed<S>;
  using P = Pack<S, kN>;
  constexpr int kGroup = Share::kGroup, kPacks = Share::kPacks;
  extern __shared__ uint4 shared[];
  wait_for_earlier();
  const std::int64_t lane = threadIdx.x % kGroup;
  const int groups = kGroup == kWarp ? static_cast<int>(blockDim.x) / kGroup : 1;
  const std::int64_t packs = a.columns / kN, step = std::int64_t{gridDim.x} * groups;
  const C count = static_cast<C>(a.columns);
  NextInputs<S, kN, Share, kSum> next(reinterpret_cast<std::byte*>(shared), packs);
  const auto begin = [&](std::int64_t row) {
    const std::int64_t at = row * a.columns;
    if constexpr (kSum)
      next.begin(row < a.rows, {a.x + at, a.residual + at});
    else
      next.begin(row < a.rows, {a.x + at});
  };
  // Neighbouring rows go to different blocks, so that none has many more.
  std::int64_t row = blockIdx.x + std::int64_t{gridDim.x} * (threadIdx.x / kGroup);
  for (int i = 0; i < next.kRows; ++i) begin(row + i * step);
  constexpr bool kKeeps = kGroup == kWarp;
  P* const weights = reinterpret_cast<P*>(reinterpret_cast<std::byte*>(shared) +
                                          blockDim.x * next.kBytesPerThread);
  P* const biases = weights + packs;
  if constexpr (kKeeps) {
    for (std::int64_t p = threadIdx.x; p < packs; p += blockDim.x) {
      weights[p] = pack_at<S, kN>(a.weight, p);
      if (a.bias) biases[p] = pack_at<S, kN>(a.bias, p);
    }
    __syncthreads();
  }
  for (; row < a.rows; row += step) {
    const std::int64_t start = row * a.columns;
    const auto add = [&](const P& pack, const P& more, std::int64_t at) {
      const auto x = widen(pack), y = widen(more);
      P sum;
#pragma unroll
      for (int i = 0; i < kN; ++i) sum.at[i] = convert<S>(x.at[i] + y.at[i]);
      store_whole(a.sum + start + at * kN, sum);
      return sum;
    };
    P held[kSum ? 2 : 1][kPacks];
    next.take(held);
    begin(row + next.kRows * step);
    if constexpr (kSum)
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (next.has(p)) held[0][p] = add(held[0][p], held[1][p], lane + p * kGroup);
    bool summed = !kSum;  // what is not held, too
    const S* const from = (kSum ? a.sum : a.x) + start;
    const auto each = [&](auto&& f) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (next.has(p)) f(held[0][p], lane + p * kGroup);
      if constexpr (kGroup > kWarp) {
        for (std::int64_t at = lane + kPacks * kGroup; at < packs; at += kGroup)
          f(summed
                ? pack_at<S, kN>(from, at)
                : add(pack_at<S, kN>(a.x + start, at), pack_at<S, kN>(a.residual + start, at), at),
            at);
        summed = true;
      }
    };
    C mean{};
    if (a.centered) {
      C sum{};
      each([&](const P& pack, std::int64_t) {
        const auto x = widen(pack);
        C part{};
#pragma unroll
        for (int i = 0; i < kN; ++i) part += x.at[i];
        sum += part;
      });
      mean = sum_group<kGroup>(sum) / count;
    }
    C squares{};
    each([&](const P& pack, std::int64_t) {
      const auto x = widen(pack);
      C part{};
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const C d = x.at[i] - mean;
        part += d * d;
      }
      squares += part;
    });
    const C scale = 1 / sqrt(sum_group<kGroup>(squares) / count + a.eps);
    if (lane == 0) {
      a.stats[2 * row] = mean;
      a.stats[2 * row + 1] = scale;
    }
    S* const out = a.out + start;
    each([&](const P& pack, std::int64_t at) {
      const auto x = widen(pack);
      P made;
      const auto weight = widen(kKeeps ? weights[at] : pack_at<S, kN>(a.weight, at));
      Pack<C, kN> bias;
      if (a.bias) bias = widen(kKeeps ? biases[at] : pack_at<S, kN>(a.bias, at));
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        C v = (x.at[i] - mean) * scale * weight.at[i];
        if (a.bias) v += bias.at[i];
        made.at[i] = convert<S>(v);
      }
      put_pack(out, at, made);
    });
  }
}

// Threads of a block of the backward kernel at most, as registers allow, and blocks of a
// multiprocessor.
template <class S, class Share>
constexpr int kBackwardThreads = Share::kGroup != kWarp            ? Share::kGroup
                                 : kIsHalf<S>&& Share::kPacks <= 3 ? 512
                                                                   : 384;
template <class S, int kN, class Share>
constexpr int kBackwardBlocks = (Share::kGroup == kBlock ? 2 : 1) * (kCopies<S, kN> ? 1 : 2);

/// Sums over some of the rows: [part][of weight, of bias][columns].
template <class C>
struct Parts {
  C* data;
  __device__ __forceinline__ C* at(std::int64_t part, int which, std::int64_t columns) const {
    return data + (2 * part + which) * columns;
  }
};

/// x, the gradient, and what is added to.
template <class S, int kN, class Share, bool kAdds>
using NextGradients = NextRows<S, kN, Share, kAdds ? 3 : 2, true>;

/// The gradient of x into a.out, unless that is null, or with kAdds added to it; if kSums, of rows
/// that fit registers, those of weight and bias too.
template <class S, int kN, class Share, bool kSums, bool kAdds>
__global__ void __launch_bounds__(kBackwardThreads<S, Share>, (kBackwardBlocks<S, kN, Share>))
    normalize_rows_backward(const Rows<S> a, const Parts<Computed<S>> parts) {
  using C = Computed<S>;
  using P = Pack<S, kN>;
  constexpr int kGroup = Share::kGroup, kPacks = Share::kPacks;
  extern __shared__ uint4 shared[];
  wait_for_earlier();
  const std::int64_t lane = threadIdx.x % kGroup;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const int groups = kGroup == kWarp ? static_cast<int>(blockDim.x) / kGroup : 1;
  const std::int64_t packs = a.columns / kN, step = std::int64_t{gridDim.x} * groups;
  const C count = static_cast<C>(a.columns);
  NextGradients<S, kN, Share, kAdds> next(reinterpret_cast<std::byte*>(shared), packs);
  const auto begin = [&](std::int64_t row) {
    const std::int64_t at = row * a.columns;
    const C* const stats = a.stats + 2 * row;
    if constexpr (kAdds)
      next.begin(row >= 0, {a.x + at, a.gradient + at, a.out + at}, stats);
    else
      next.begin(row >= 0, {a.x + at, a.gradient + at}, stats);
  };
  // Neighbouring rows go to different blocks here, too.
  std::int64_t row = a.rows - 1 - blockIdx.x - std::int64_t{gridDim.x} * group;
  for (int i = 0; i < next.kRows; ++i) begin(row - i * step);
  P* const weights = reinterpret_cast<P*>(reinterpret_cast<std::byte*>(shared) +
                                          blockDim.x * next.kBytesPerThread);
  if constexpr (kSums) {
    for (std::int64_t p = threadIdx.x; p < packs; p += blockDim.x)
      weights[p] = pack_at<S, kN>(a.weight, p);
    __syncthreads();
  }
  const auto weight_at = [&](std::int64_t at) {
    return widen(kSums ? weights[at] : pack_at<S, kN>(a.weight, at));
  };
  C weight_sums[kSums ? kPacks : 1][kN] = {}, bias_sums[kSums ? kPacks : 1][kN] = {};
  for (; row >= 0; row -= step) {
    const std::int64_t start = row * a.columns;
    P held[kAdds ? 3 : 2][kPacks];
    next.take(held);
    const auto [mean, scale] = next.stats().at;
    begin(row - next.kRows * step);
    const auto each = [&](auto&& f) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (next.has(p)) f(held[0][p], held[1][p], lane + p * kGroup, p);
      if constexpr (!kSums)
        for (std::int64_t at = lane + kPacks * kGroup; at < packs; at += kGroup)
          f(pack_at<S, kN>(a.x + start, at), pack_at<S, kN>(a.gradient + start, at), at, kPacks);
    };
    C sums[2] = {};  // of g * weight times the normalised x, and of g * weight
    each([&](const P& xs, const P& gs, std::int64_t at, int p) {
      const auto x = widen(xs), g = widen(gs), weight = weight_at(at);
      C along{}, shift{};
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const C normal = (x.at[i] - mean) * scale, gw = g.at[i] * weight.at[i];
        along += gw * normal;
        shift += gw;
        if constexpr (kSums) {
          weight_sums[p][i] += g.at[i] * normal;
          bias_sums[p][i] += g.at[i];
        }
      }
      sums[0] += along;
      sums[1] += shift;
    });
    if (a.out == nullptr) continue;
    sum_group<kGroup>(sums);
    const C along = sums[0] / count, shift = a.centered ? sums[1] / count : C{};
    S* const out = a.out + start;
    each([&](const P& xs, const P& gs, std::int64_t at, int p) {
      const auto x = widen(xs), g = widen(gs), weight = weight_at(at);
      P made;
      Pack<C, kN> old;
      if constexpr (kAdds) old = widen(p < kPacks ? held[2][p] : pack_at<S, kN>(out, at));
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const C normal = (x.at[i] - mean) * scale;
        C v = scale * (g.at[i] * weight.at[i] - shift - normal * along);
        if (kAdds) v += old.at[i];
        made.at[i] = convert<S>(v);
      }
      put_pack(out, at, made);
    });
  }
  let_next_come();
  if constexpr (kSums) {
    // Where warps have rows of their own, [warp][of weight, of bias][columns] in shared memory.
    const Parts<C> mine = kGroup == kWarp ? Parts<C>{reinterpret_cast<C*>(shared)} : parts;
    const int part = kGroup == kWarp ? group : static_cast<int>(blockIdx.x);
    __syncthreads();
    constexpr int kSome = kN < 4 ? kN : 4;  // that are moved at a time
    const auto put = [&](C* row, std::int64_t at, const C(&sums)[kN]) {
#pragma unroll
      for (int h = 0; h < kN / kSome; ++h) {
        Pack<C, kSome> some;
#pragma unroll
        for (int i = 0; i < kSome; ++i) some.at[i] = sums[h * kSome + i];
        put_pack(row, at * (kN / kSome) + h, some);
      }
    };
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (next.has(p)) {
        put(mine.at(part, 0, a.columns), lane + p * kGroup, weight_sums[p]);
        put(mine.at(part, 1, a.columns), lane + p * kGroup, bias_sums[p]);
      }
    if constexpr (kGroup == kWarp) {
      __syncthreads();
      const int columns = static_cast<int>(2 * a.columns);
      for (int i = static_cast<int>(threadIdx.x); i < columns; i += static_cast<int>(blockDim.x)) {
        C sum{};
#pragma unroll 8
        for (int g = 0; g < groups; ++g) sum += mine.data[g * columns + i];
        parts.at(blockIdx.x, 0, a.columns)[i] = sum;
      }
    }
  }
}

constexpr int kLines = 32;  // of 32 columns, in blocks that sum columns

/// The sum of v over the lines of a block, in line 0.
template <class C>
__device__ __forceinline__ C sum_lines(C v) {
  __shared__ C lines[kLines][kWarp + 1];
  __syncthreads();
  lines[threadIdx.y][threadIdx.x] = v;
  __syncthreads();
  // A line of it becomes a column, which a warp adds up.
  const C sum = sum_group<kWarp>(lines[threadIdx.x][threadIdx.y]);
  __syncthreads();
  if (threadIdx.x == 0) lines[0][threadIdx.y] = sum;
  __syncthreads();
  return lines[0][threadIdx.x];
}

/// Sums of weight and bias over `each` rows.
template <class S>
__global__ void __launch_bounds__(kLines* kWarp)
    sum_columns(const Rows<S> a, const Parts<Computed<S>> parts, std::int64_t each) {
  using C = Computed<S>;
  const std::int64_t column = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const std::int64_t begin = std::int64_t{blockIdx.y} * each;
  const std::int64_t end = begin + each < a.rows ? begin + each : a.rows;
  C weight{}, bias{};
  if (column < a.columns)
    for (std::int64_t row = begin + threadIdx.y; row < end; row += kLines) {
      const C g = widen(a.gradient[row * a.columns + column]);
      const C d = widen(a.x[row * a.columns + column]) - a.stats[2 * row];
      weight += g * (d * a.stats[2 * row + 1]);
      bias += g;
    }
  weight = sum_lines(weight);
  bias = sum_lines(bias);
  if (threadIdx.y != 0 || column >= a.columns) return;
  parts.at(blockIdx.y, 0, a.columns)[column] = weight;
  parts.at(blockIdx.y, 1, a.columns)[column] = bias;
}

template <class S>
__global__ void __launch_bounds__(kLines* kWarp)
    sum_parts(S* weight, S* bias, const Parts<Computed<S>> parts, std::int64_t count,
              std::int64_t columns) {
  using C = Computed<S>;
  wait_for_earlier();
  S* const to = blockIdx.y == 0 ? weight : bias;
  if (to == nullptr) return;
  const std::int64_t column = std::int64_t{blockIdx.x} * kWarp + threadIdx.x;
  C sum{};
  if (column < columns)
#pragma unroll 4
    for (std::int64_t part = threadIdx.y; part < count; part += kLines)
      sum += parts.at(part, static_cast<int>(blockIdx.y), columns)[column];
  sum = sum_lines(sum);
  if (threadIdx.y == 0 && column < columns) to[column] = convert<S>(sum);
}

template <class S>
S* data_of(const Tensor& t) {
  return t.defined() ? static_cast<S*>(t.data()) : nullptr;
}

/// What forward and backward have in common.
template <class S>
Rows<S> rows_of(bool centered, const Tensor& x, const Tensor& weight, const Tensor& stats,
                const Tensor& out) {
  Rows<S> a{};
  a.x = data_of<S>(x);
  a.weight = data_of<S>(weight);
  a.stats = data_of<Computed<S>>(stats);
  a.out = data_of<S>(out);
  a.columns = static_cast<std::int64_t>(weight.numel());
  a.rows = static_cast<std::int64_t>(x.numel()) / a.columns;
  a.centered = centered;
  return a;
}

/// Shared memory of a block, beside what kernels declare.
int shared_room(const Context& context) { return properties(context.index).shared_bytes - 1024; }

/// Launches a kernel that uses `shared` bytes of it.
template <class... P>
void launch_large(const Context& context, const char* op, void (*kernel)(P...), std::int64_t blocks,
                  int threads, int shared, const std::type_identity_t<P>&... arguments) {
  if (shared > kUsualShared) allow_shared(op, kernel, shared_room(context));
  launch_early(context, op, kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
               static_cast<std::size_t>(shared), arguments...);
}

/// f(Share()) for how a warp shares a row of so many packs. Rows that are 3/4 of the widest, or
/// just that wide, need no checks.
template <class S, int kN, class F>
bool with_warp(std::int64_t packs, F&& f) {
  if constexpr (kN > 1) {
    constexpr int kSome = kHeld<S> / 4 * 3;
    if (packs == kSome * kWarp) return f(Share<kWarp, kSome, true>());
    if (packs == kHeld<S> * kWarp) return f(Share<kWarp, kHeld<S>, true>());
  }
  return packs <= kHeld<S> * kWarp && f(Share<kWarp, kHeld<S>, false>());
}

/// f(std::integral_constant<int, kN>()) for packs of so many elements, which rows of all of these
/// can be read in.
template <class S, class F>
void with_row_packs(const Rows<S>& a, F&& f) {
  bool fit = a.columns % kPackOf<S> == 0;
  const S* const pointers[] = {a.x, a.residual, a.gradient, a.weight, a.bias, a.sum, a.out};
  for (const S* pointer : pointers) fit &= is_aligned(pointer, kPackBytes);
  with_pack<S>(fit, f);
}

constexpr const char* name_of(bool centered) { return centered ? "layer_norm" : "rms_norm"; }

}  // namespace

void normalize(bool centered, const Tensor& out, const Tensor& sum, const Tensor& stats,
               const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
               double eps) {
  if (x.numel() == 0) return;
  const Context context(x.device());
  visit_floating(x.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    Rows<S> a = rows_of<S>(centered, x, weight, stats, out);
    a.residual = data_of<S>(residual);
    a.sum = data_of<S>(sum);
    a.bias = data_of<S>(bias);
    a.eps = static_cast<Computed<S>>(eps);
    const std::int64_t processors = properties(context.index).multiprocessors;
    const int room = shared_room(context);
    with_row_packs(a, [&](auto pack) {
      constexpr int kN = decltype(pack)::value;
      const auto go = [&](auto shared) {
        using Share = decltype(shared);
        const auto with = [&](auto kernel, int each) {
          const int kept = Share::kGroup == kWarp ? static_cast<int>(2 * a.columns * sizeof(S)) : 0;
          const int threads =
              std::min(kBlock, (room - kept) / each / Share::kGroup * Share::kGroup);
          if (threads == 0) return false;
          const std::int64_t most = kCopies<S, kN>
                                        ? processors * (kForwardBlocks<S, Share>)  // that stay
                                        : kLaunchElements;
          launch_large(context, name_of(centered), kernel,
                       std::min(ceil_div(a.rows, threads / Share::kGroup), most), threads,
                       each * threads + kept, a);
          return true;
        };
        if (a.residual)
          return with(&normalize_rows<S, kN, Share, true>,
                      NextInputs<S, kN, Share, true>::kBytesPerThread);
        return with(&normalize_rows<S, kN, Share, false>,
                    NextInputs<S, kN, Share, false>::kBytesPerThread);
      };
      // The last where shared memory is small.
      with_warp<S, kN>(a.columns / kN, go) || go(Share<kBlock, kHeld<S>, false>()) ||
          go(Share<kBlock, kHeld<S> / 2, false>());
    });
  });
}

void normalize_backward(bool centered, const GradientTarget& gx, const Tensor& gw, const Tensor& gb,
                        const Tensor& g, const Tensor& stats, const Tensor& x,
                        const Tensor& weight) {
  const bool sums = gw.defined() || gb.defined();
  if (x.numel() == 0) {
    if (gw.defined()) fill(gw, 0);
    if (gb.defined()) fill(gb, 0);
    return;
  }
  const Context context(x.device());
  const char* const op = name_of(centered);
  visit_floating(x.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    using C = Computed<S>;
    Rows<S> a = rows_of<S>(centered, x, weight, stats, *gx.tensor);
    a.gradient = data_of<S>(g);
    const std::int64_t processors = properties(context.index).multiprocessors;
    with_row_packs(a, [&](auto pack) {
      constexpr int kN = decltype(pack)::value;
      const auto bytes = [&](std::int64_t parts) {
        return static_cast<std::size_t>(2 * parts * a.columns) * sizeof(C);
      };
      const auto join = [&](const Scratch& parts, std::int64_t count) {
        launch_early(context, op, &sum_parts<S>,
                     dim3(static_cast<unsigned>(ceil_div(a.columns, kWarp)), 2),
                     dim3(kWarp, kLines), 0, data_of<S>(gw), data_of<S>(gb),
                     Parts<C>{parts.as<C>()}, count, a.columns);
      };
      const std::int64_t packs = a.columns / kN;
      const int room = shared_room(context);
      // Whether all gradients come at once, as registers hold a row.
      const auto all = [&](auto shared) {
        using Share = decltype(shared);
        const auto with = [&](auto kernel, int each) {
          if (packs > Share::kPacks * Share::kGroup) return false;
          const int kept = static_cast<int>(packs * sizeof(Pack<S, kN>));
          const int threads =
              std::min(kBackwardThreads<S, Share>, (room - kept) / each / kWarp * kWarp);
          if (threads < Share::kGroup) return false;
          const std::int64_t blocks = std::min(processors * (kBackwardBlocks<S, kN, Share>),
                                               ceil_div(a.rows, threads / Share::kGroup));
          // Which the sums of warps are joined in, too.
          const int joined = Share::kGroup == kWarp ? static_cast<int>(bytes(threads / kWarp)) : 0;
          const Scratch parts(context, bytes(blocks));
          launch_large(context, op, kernel, blocks, threads,
                       std::max(each * threads + kept, joined), a, Parts<C>{parts.as<C>()});
          join(parts, blocks);
          return true;
        };
        if (gx.accumulate)
          return with(&normalize_rows_backward<S, kN, Share, true, true>,
                      NextGradients<S, kN, Share, true>::kBytesPerThread);
        return with(&normalize_rows_backward<S, kN, Share, true, false>,
                    NextGradients<S, kN, Share, false>::kBytesPerThread);
      };
      constexpr int kHalf = kHeld<S> / 2;
      if (sums && (with_warp<S, kN>(packs, all) || all(Share<kBlock, kHalf, false>()) ||
                   all(Share<kWide, kHalf, false>())))
        return;
      if (a.out) {
        using Wide = Share<kBlock, kHalf, false>;
        const auto with = [&](auto kernel, int each) {
          launch_large(context, op, kernel, std::min(a.rows, kLaunchElements), kBlock,
                       each * kBlock, a, Parts<C>{});
        };
        if (gx.accumulate)
          with(&normalize_rows_backward<S, kN, Wide, false, true>,
               NextGradients<S, kN, Wide, true>::kBytesPerThread);
        else
          with(&normalize_rows_backward<S, kN, Wide, false, false>,
               NextGradients<S, kN, Wide, false>::kBytesPerThread);
      }
      if (!sums) return;
      constexpr std::int64_t kFewest = 256, kMost = 256;  // rows of a part, and parts
      const std::int64_t each = std::max(kFewest, ceil_div(a.rows, kMost));
      const std::int64_t count = ceil_div(a.rows, each);
      const Scratch parts(context, bytes(count));
      launch(context, op, &sum_columns<S>,
             dim3(static_cast<unsigned>(ceil_div(a.columns, kWarp)), static_cast<unsigned>(count)),
             dim3(kWarp, kLines), 0, a, Parts<C>{parts.as<C>()}, each);
      join(parts, count);
    });
  });
}

}  // namespace lmp::cuda
