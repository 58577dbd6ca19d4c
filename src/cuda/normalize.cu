#include "cuda/backend.hpp"
#include "cuda/lanes.cuh"

namespace lmp::cuda {

using tensor::detail::GradientTarget;

namespace {

// Note [Normalisation on the GPU]
// Threads that share a row keep it in registers, a warp or where that is too narrow a block; of
// wider rows the first part, and the rest is read again. In the backward pass each thread has
// the same columns of all rows that its block takes, a few at a time for the sake of loads in
// flight, and adds up the gradients of weight and bias for them in registers; what blocks have
// found is joined by a small kernel, in an order that the shape and the number of multiprocessors
// give. Rows that do not fit get those gradients from a pass of its own.

constexpr int kWarp = 32;

template <class S>
struct Rows {
  const S* x;
  const S* residual;  // null, or what is added to x, into `sum`
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

/// A pack, of memory that the kernel may write elsewhere.
template <class S, int kN>
__device__ __forceinline__ Pack<S, kN> pack_at(const S* row, std::int64_t pack) {
  return *reinterpret_cast<const Pack<S, kN>*>(row + pack * kN);
}
template <int kGroup>
constexpr int kForwardThreads = kGroup == kWarp ? 128 : kGroup;

/// Rows of up to kPacks packs a thread, or any for blocks; of x, or with kSum of x + residual.
template <class S, int kN, int kGroup, int kPacks, bool kSum>
__global__ void __launch_bounds__(kForwardThreads<kGroup>) normalize_rows(const Rows<S> a) {
  using C = Computed<S>;
  constexpr int kRows = kForwardThreads<kGroup> / kGroup;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const std::int64_t packs = a.columns / kN;
  const C count = static_cast<C>(a.columns);
  for (std::int64_t first = std::int64_t{blockIdx.x} * kRows; first < a.rows;
       first += std::int64_t{gridDim.x} * kRows) {
    const std::int64_t row = first + threadIdx.x / kGroup;
    const bool here = row < a.rows;
    const std::int64_t begin = row * a.columns;
    const auto load = [&](const S* from, std::int64_t at) {
      return load_whole<S, kN>(from + begin + at * kN);
    };
    const auto add = [&](const Pack<S, kN>& pack, const Pack<S, kN>& more, std::int64_t at) {
      Pack<S, kN> sum;
#pragma unroll
      for (int i = 0; i < kN; ++i) sum.at[i] = convert<S>(widen(pack.at[i]) + widen(more.at[i]));
      store_whole(a.sum + begin + at * kN, sum);
      return sum;
    };
    Pack<S, kN> held[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (const std::int64_t at = lane + p * kGroup; here && at < packs) held[p] = load(a.x, at);
    if constexpr (kSum) {
      Pack<S, kN> more[kPacks];
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (const std::int64_t at = lane + p * kGroup; here && at < packs)
          more[p] = load(a.residual, at);
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (const std::int64_t at = lane + p * kGroup; here && at < packs)
          held[p] = add(held[p], more[p], at);
    }
    bool again = false;
    const auto each = [&](auto&& f) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (const std::int64_t at = lane + p * kGroup; here && at < packs) f(held[p], at);
      if constexpr (kGroup > kWarp) {
        const S* const from = kSum ? a.sum : a.x;
        for (std::int64_t at = lane + kPacks * kGroup; here && at < packs; at += kGroup)
          f(!kSum || again ? pack_at<S, kN>(from + begin, at)
                           : add(load(a.x, at), load(a.residual, at), at),
            at);
        again = true;
      }
    };
    C mean{};
    if (a.centered) {
      C sum{};
      each([&](const Pack<S, kN>& pack, std::int64_t) {
        C part{};
#pragma unroll
        for (int i = 0; i < kN; ++i) part += widen(pack.at[i]);
        sum += part;
      });
      mean = sum_group<kGroup>(sum) / count;
    }
    C squares{};
    each([&](const Pack<S, kN>& pack, std::int64_t) {
      C part{};
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const C d = widen(pack.at[i]) - mean;
        part += d * d;
      }
      squares += part;
    });
    const C scale = 1 / sqrt(sum_group<kGroup>(squares) / count + a.eps);
    if (here && lane == 0) {
      a.stats[2 * row] = mean;
      a.stats[2 * row + 1] = scale;
    }
    each([&](const Pack<S, kN>& pack, std::int64_t at) {
      const auto weight = load_whole<S, kN>(a.weight + at * kN);
      Pack<S, kN> bias, made;
      if (a.bias) bias = load_whole<S, kN>(a.bias + at * kN);
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        C v = (widen(pack.at[i]) - mean) * scale * widen(weight.at[i]);
        if (a.bias) v += widen(bias.at[i]);
        made.at[i] = convert<S>(v);
      }
      store_whole(a.out + begin + at * kN, made);
    });
  }
}

/// Sums over some of the rows: [part][of weight, of bias][columns].
template <class C>
struct Parts {
  C* data;
  __device__ __forceinline__ C* at(std::int64_t part, int which, std::int64_t columns) const {
    return data + (2 * part + which) * columns;
  }
};

/// What of a row the gradients of its elements are made of.
template <class C>
struct Slope {
  C mean, scale, along, shift;
  /// Out of the stats and the sums over the row of g times weight times the normalised x, and of g
  /// times weight.
  __device__ __forceinline__ Slope(C row_mean, C row_scale, const C* sums, C count, bool centered)
      : mean(row_mean),
        scale(row_scale),
        along(sums[0] / count * row_scale * row_scale),
        shift(centered ? sums[1] / count * row_scale : C{}) {}
  /// scale (g weight - mean(g weight) - normal mean(g weight normal)), multiplied out; added to
  /// what is at `to`, if that is asked for.
  template <bool kAdds, class S, int kN>
  __device__ __forceinline__ void put(S* to, const Pack<S, kN>& x, const Pack<S, kN>& g,
                                      const Pack<S, kN>& weight) const {
    Pack<S, kN> made;
    if (kAdds) made = *reinterpret_cast<const Pack<S, kN>*>(to);
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      const C gw = widen(g.at[i]) * widen(weight.at[i]), d = widen(x.at[i]) - mean;
      C v = gw * scale - (d * along + shift);
      if (kAdds) v += widen(made.at[i]);
      made.at[i] = convert<S>(v);
    }
    store_whole(to, made);
  }
};

// Of a block that takes kTogether rows at a time, kPacks packs a thread.
template <int kPacks>
constexpr int kMostThreads = kPacks == 1 ? 384 : 512;
template <int kPacks>
constexpr int kResident = kPacks == 1 ? 2 : 1;
template <int kPacks>
constexpr int kTogether = kPacks == 1 ? 2 : 1;

/// Waits for the threads of a row, of which there are blockDim.x.
__device__ __forceinline__ void row_barrier() {
  if (blockDim.x == kWarp)
    __syncwarp();
  else if (blockDim.y == 1)
    __syncthreads();
  else
    asm volatile("bar.sync %0, %1;" ::"r"(threadIdx.y + 1), "r"(blockDim.x) : "memory");
}

/// Adds up kCount values, a power of two, over the threads of a row. `shared` is not used again
/// before another call with other memory.
template <int kCount, class C>
__device__ __forceinline__ void sum_row(C (&v)[kCount], C (*shared)[kCount]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  C(*const mine)[kCount] = shared + threadIdx.y * warps;
  // Halves of the lanes go on with half of the values each.
  C left[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) left[i] = v[i];
#pragma unroll
  for (int by = kWarp / 2, n = kCount; by > 0; by /= 2) {
    if (n > 1) {
      n /= 2;
      const bool upper = (lane & by) != 0;
#pragma unroll
      for (int i = 0; i < kCount / 2; ++i)
        if (i < n) {
          const C given = upper ? left[i] : left[i + n];
          left[i] = (upper ? left[i + n] : left[i]) + __shfl_xor_sync(~0U, given, by);
        }
    } else {
      left[0] += __shfl_xor_sync(~0U, left[0], by);
    }
  }
  constexpr int kEach = kWarp / kCount;
  if (lane % kEach == 0) mine[threadIdx.x / kWarp][lane / kEach] = left[0];
  row_barrier();
#pragma unroll
  for (int i = 0; i < kCount; ++i) v[i] = C{};
  for (int w = 0; w < warps; ++w)
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] += mine[w][i];
}

/// The gradient of x into a.out, unless that is null, or added to it, and sums for those of weight
/// and bias into `parts`, unless those are. A row has blockDim.x threads, a block blockDim.y times
/// kTogether rows at a time.
template <class S, int kN, int kPacks, bool kAdds>
__global__ void __launch_bounds__(kMostThreads<kPacks>, kResident<kPacks>)
    normalize_rows_backward(const Rows<S> a, const Parts<Computed<S>> parts) {
  using C = Computed<S>;
  using P = Pack<S, kN>;
  constexpr int kRows = kTogether<kPacks>;
  __shared__ alignas(16) C shared[2][kMostThreads<kPacks> / kWarp][2 * kRows];
  extern __shared__ uint4 memory[];
  const std::int64_t packs = a.columns / kN;
  const C count = static_cast<C>(a.columns);
  const auto at = [&](int p) { return threadIdx.x + std::int64_t{p} * blockDim.x; };
  P weight[kPacks] = {};
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (at(p) < packs) weight[p] = load_whole<S, kN>(a.weight + at(p) * kN);
  C weight_sums[kPacks][kN] = {}, bias_sums[kPacks][kN] = {};
  // From the last row to the first: the gradient was written just now, and its end may still be in
  // the cache.
  const std::int64_t step = std::int64_t{blockDim.y} * kRows, turns = (a.rows + step - 1) / step;
  int turn = 0;
  for (std::int64_t t = turns - 1 - blockIdx.x; t >= 0; t -= gridDim.x, turn ^= 1) {
    const std::int64_t row = t * step + threadIdx.y * kRows;
    P x[kRows][kPacks] = {}, g[kRows][kPacks] = {};
    C mean[kRows] = {}, scale[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= a.rows) break;
      mean[r] = a.stats[2 * (row + r)];
      scale[r] = a.stats[2 * (row + r) + 1];
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (at(p) < packs) {
          const std::int64_t place = (row + r) * a.columns + at(p) * kN;
          x[r][p] = load_whole<S, kN>(a.x + place);
          g[r][p] = load_whole<S, kN>(a.gradient + place);
        }
    }
    C sums[2 * kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
#pragma unroll
        for (int i = 0; i < kN; ++i) {
          const C normal = (widen(x[r][p].at[i]) - mean[r]) * scale[r];
          const C gi = widen(g[r][p].at[i]), gw = gi * widen(weight[p].at[i]);
          sums[2 * r] += gw * normal;
          sums[2 * r + 1] += gw;
          weight_sums[p][i] += gi * normal;
          bias_sums[p][i] += gi;
        }
    if (a.out == nullptr) continue;
    sum_row(sums, shared[turn]);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row + r >= a.rows) break;
      const Slope<C> slope(mean[r], scale[r], &sums[2 * r], count, a.centered);
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (at(p) < packs)
          slope.template put<kAdds>(a.out + (row + r) * a.columns + at(p) * kN, x[r][p], g[r][p],
                                    weight[p]);
    }
  }
  if (parts.data == nullptr) return;
  // What the threads of the same columns have, one after the other.
  C* const joined = reinterpret_cast<C*>(memory);
  for (unsigned y = 0; y < blockDim.y; ++y) {
    if (threadIdx.y == y)
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (at(p) < packs)
#pragma unroll
          for (int i = 0; i < kN; ++i) {
            const std::int64_t column = at(p) * kN + i;
            C w = weight_sums[p][i], b = bias_sums[p][i];
            if (y > 0) {
              w += joined[column];
              b += joined[a.columns + column];
            }
            C* const to = y + 1 < blockDim.y ? joined : parts.at(blockIdx.x, 0, a.columns);
            to[column] = w;
            to[a.columns + column] = b;
          }
    if (blockDim.y > 1) __syncthreads();
  }
}

constexpr int kWideThreads = 256;

/// The gradient of x, of rows that are too wide for the registers of a block.
template <class S, int kN, bool kAdds>
__global__ void __launch_bounds__(kWideThreads) normalize_wide_backward(const Rows<S> a) {
  using C = Computed<S>;
  const std::int64_t packs = a.columns / kN;
  const C count = static_cast<C>(a.columns);
  for (std::int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const std::int64_t begin = row * a.columns;
    const C mean = a.stats[2 * row], scale = a.stats[2 * row + 1];
    const auto each = [&](auto&& f) {
      for (std::int64_t at = threadIdx.x; at < packs; at += kWideThreads)
        f(load_whole<S, kN>(a.x + begin + at * kN), load_whole<S, kN>(a.gradient + begin + at * kN),
          load_whole<S, kN>(a.weight + at * kN), at);
    };
    C sums[2] = {};
    each([&](const Pack<S, kN>& x, const Pack<S, kN>& g, const Pack<S, kN>& weight, std::int64_t) {
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const C gw = widen(g.at[i]) * widen(weight.at[i]);
        sums[0] += gw * ((widen(x.at[i]) - mean) * scale);
        sums[1] += gw;
      }
    });
    sum_group<kWideThreads>(sums);
    const Slope<C> slope(mean, scale, sums, count, a.centered);
    each(
        [&](const Pack<S, kN>& x, const Pack<S, kN>& g, const Pack<S, kN>& weight,
            std::int64_t at) { slope.template put<kAdds>(a.out + begin + at * kN, x, g, weight); });
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
    join_parts(S* weight, S* bias, const Parts<Computed<S>> parts, std::int64_t count,
               std::int64_t columns) {
  using C = Computed<S>;
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

unsigned blocks_for(std::int64_t rows, int each) {
  return static_cast<unsigned>(std::min(ceil_div(rows, each), kLaunchElements));
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

/// f(std::integral_constant<int, n>()) for so many packs of kN elements of a row, at least, that
/// each thread of a warp keeps; false where that is too many.
template <class S, int kN, class F>
bool with_packs(std::int64_t packs, F&& f) {
  constexpr int kMost = kIsHalf<S> ? 4 : 8, kStep = kN == 1 ? kMost : kMost / 4;
  const std::int64_t each = ceil_div(packs, kWarp);
  if (each <= kStep)
    f(std::integral_constant<int, kStep>());
  else if (each <= 2 * kStep && 2 * kStep <= kMost)
    f(std::integral_constant<int, std::min(2 * kStep, kMost)>());
  else if (each <= 3 * kStep && 3 * kStep <= kMost)
    f(std::integral_constant<int, std::min(3 * kStep, kMost)>());
  else if (each <= kMost)
    f(std::integral_constant<int, kMost>());
  else
    return false;
  return true;
}

}  // namespace

void normalize(bool centered, const Tensor& out, const Tensor& sum, const Tensor& stats,
               const Tensor& x, const Tensor& residual, const Tensor& weight, const Tensor& bias,
               double eps) {
  if (x.numel() == 0) return;
  const Context context(x.device());
  const char* const op = name_of(centered);
  visit_floating(x.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    Rows<S> a = rows_of<S>(centered, x, weight, stats, out);
    a.residual = data_of<S>(residual);
    a.sum = data_of<S>(sum);
    a.bias = data_of<S>(bias);
    a.eps = static_cast<Computed<S>>(eps);
    with_row_packs(a, [&](auto pack) {
      constexpr int kN = decltype(pack)::value, kThreads = kForwardThreads<kWarp>;
      if (!with_packs<S, kN>(a.columns / kN, [&](auto each) {
            constexpr int kPacks = decltype(each)::value;
            launch(context, op,
                   a.residual ? &normalize_rows<S, kN, kWarp, kPacks, true>
                              : &normalize_rows<S, kN, kWarp, kPacks, false>,
                   blocks_for(a.rows, kThreads / kWarp), kThreads, 0, a);
          })) {
        constexpr int kPacks = kIsHalf<S> ? 4 : 8;
        launch(context, op,
               a.residual ? &normalize_rows<S, kN, kWideThreads, kPacks, true>
                          : &normalize_rows<S, kN, kWideThreads, kPacks, false>,
               blocks_for(a.rows, 1), kWideThreads, 0, a);
      }
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
      const std::int64_t packs = a.columns / kN;
      const auto bytes = [&](std::int64_t parts) {
        return static_cast<std::size_t>(2 * parts * a.columns) * sizeof(C);
      };
      const auto join = [&](const Scratch& parts, std::int64_t count) {
        launch(context, op, &join_parts<S>,
               dim3(static_cast<unsigned>(ceil_div(a.columns, kWarp)), 2), dim3(kWarp, kLines), 0,
               data_of<S>(gw), data_of<S>(gb), Parts<C>{parts.as<C>()}, count, a.columns);
      };
      // All gradients at once, if registers hold a row.
      const auto all = [&](auto each) {
        constexpr int kPacks = decltype(each)::value, kMost = kMostThreads<kPacks>;
        const std::int64_t threads = ceil_div(ceil_div(packs, kPacks), kWarp) * kWarp;
        if (threads > kMost) return false;
        const std::int64_t groups = kMost / threads;
        const std::int64_t blocks =
            std::min(processors * kResident<kPacks>, ceil_div(a.rows, groups * kTogether<kPacks>));
        const dim3 block(static_cast<unsigned>(threads), static_cast<unsigned>(groups));
        const auto go = [&](Parts<C> parts) {
          launch(context, op,
                 gx.accumulate ? &normalize_rows_backward<S, kN, kPacks, true>
                               : &normalize_rows_backward<S, kN, kPacks, false>,
                 static_cast<unsigned>(blocks), block, groups > 1 ? bytes(1) : 0, a, parts);
        };
        if (!sums) {
          go({});
          return true;
        }
        const Scratch parts(context, bytes(blocks));
        go({parts.as<C>()});
        join(parts, blocks);
        return true;
      };
      // Of so many elements are the sums that a thread has.
      constexpr int kElements = sizeof(S) == 8 || kN == 1 ? 8 : 16;
      if (all(std::integral_constant<int, 1>()) ||
          all(std::integral_constant<int, kElements / kN>()))
        return;
      if (a.out)
        launch(context, op,
               gx.accumulate ? &normalize_wide_backward<S, kN, true>
                             : &normalize_wide_backward<S, kN, false>,
               blocks_for(a.rows, 1), kWideThreads, 0, a);
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
