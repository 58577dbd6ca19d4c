#include "cuda/backend.hpp"
#include "cuda/lanes.cuh"

namespace lmp::cuda {

using tensor::detail::GradientTarget;

namespace {

// Note [Normalisation on the GPU]
// A warp or a block has one row, and keeps the first kHeld packs of each thread in registers; wider
// rows are read again. Rows of a sum are added up on the way, as they are rounded. In the backward
// pass the threads of few blocks go over many rows and add up the gradients of weight and bias for
// their columns in registers; what blocks have found is joined by a small kernel, in an order that
// the shape and the number of multiprocessors give. Rows that do not fit registers get those
// gradients from a pass of its own.

constexpr int kWarp = 32, kBlock = 256, kWide = 512;  // threads that share a row

template <class S>
constexpr int kHeld = kIsHalf<S> ? 4 : 8;
// Less of each row where registers hold sums as well.
template <class S, int kGroup>
constexpr int kKept = kGroup == kWarp ? kHeld<S> : kHeld<S> / 2;

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

__device__ __forceinline__ void prefetch(const void* from) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(from));
}

/// Rows of x, or with kSum of x + residual.
template <class S, int kN, int kGroup, bool kSum>
__global__ void __launch_bounds__(kBlock) normalize_rows(const Rows<S> a) {
  using C = Computed<S>;
  constexpr int kRows = kBlock / kGroup;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const std::int64_t packs = a.columns / kN;
  const C count = static_cast<C>(a.columns);
  for (std::int64_t first = std::int64_t{blockIdx.x} * kRows; first < a.rows;
       first += std::int64_t{gridDim.x} * kRows) {
    const std::int64_t row = first + threadIdx.x / kGroup;
    const bool here = row < a.rows;
    const std::int64_t begin = row * a.columns;
    const auto add = [&](const Pack<S, kN>& pack, const Pack<S, kN>& more, std::int64_t at) {
      Pack<S, kN> sum;
#pragma unroll
      for (int i = 0; i < kN; ++i) sum.at[i] = convert<S>(widen(pack.at[i]) + widen(more.at[i]));
      store_whole(a.sum + begin + at * kN, sum);
      return sum;
    };
    Pack<S, kN> held[kHeld<S>];
#pragma unroll
    for (int p = 0; p < kHeld<S>; ++p)
      if (const std::int64_t at = lane + p * kGroup; here && at < packs)
        held[p] = pack_at<S, kN>(a.x + begin, at);
    if constexpr (kSum) {
      Pack<S, kN> more[kHeld<S>];
#pragma unroll
      for (int p = 0; p < kHeld<S>; ++p)
        if (const std::int64_t at = lane + p * kGroup; here && at < packs)
          more[p] = pack_at<S, kN>(a.residual + begin, at);
#pragma unroll
      for (int p = 0; p < kHeld<S>; ++p)
        if (const std::int64_t at = lane + p * kGroup; here && at < packs)
          held[p] = add(held[p], more[p], at);
    }
    bool summed = !kSum;  // what is not held, too
    const S* const from = (kSum ? a.sum : a.x) + begin;
    const auto each = [&](auto&& f) {
#pragma unroll
      for (int p = 0; p < kHeld<S>; ++p)
        if (const std::int64_t at = lane + p * kGroup; here && at < packs) f(held[p], at);
      for (std::int64_t at = lane + kHeld<S> * kGroup; here && at < packs; at += kGroup)
        f(summed ? pack_at<S, kN>(from, at)
                 : add(pack_at<S, kN>(a.x + begin, at), pack_at<S, kN>(a.residual + begin, at), at),
          at);
      summed = true;
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
    S* const out = a.out + row * a.columns;
    each([&](const Pack<S, kN>& pack, std::int64_t at) {
      const auto weight = pack_at<S, kN>(a.weight, at);
      Pack<S, kN> bias, made;
      if (a.bias) bias = pack_at<S, kN>(a.bias, at);
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        C v = (widen(pack.at[i]) - mean) * scale * widen(weight.at[i]);
        if (a.bias) v += widen(bias.at[i]);
        made.at[i] = convert<S>(v);
      }
      reinterpret_cast<Pack<S, kN>*>(out)[at] = made;
    });
  }
}

template <int kGroup>
constexpr int kBackwardThreads = kGroup == kWarp ? 128 : kGroup;
// Blocks of the backward kernel that a multiprocessor has room for.
template <int kGroup>
constexpr int kBackwardBlocks = kGroup == kWarp    ? 3
                                : kGroup == kBlock ? 2
                                                   : 1;

/// Sums over some of the rows: [part][of weight, of bias][columns].
template <class C>
struct Parts {
  C* data;
  __device__ __forceinline__ C* at(std::int64_t part, int which, std::int64_t columns) const {
    return data + (2 * part + which) * columns;
  }
};

/// The gradient of x into a.out, unless that is null, or with kAdds added to it; if kSums, of rows
/// that fit registers, those of weight and bias too.
template <class S, int kN, int kGroup, bool kSums, bool kAdds>
__global__ void __launch_bounds__(kBackwardThreads<kGroup>, kBackwardBlocks<kGroup>)
    normalize_rows_backward(const Rows<S> a, const Parts<Computed<S>> parts) {
  using C = Computed<S>;
  constexpr int kThreads = kBackwardThreads<kGroup>, kRows = kThreads / kGroup;
  constexpr int kPacks = kKept<S, kGroup>;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const int group = static_cast<int>(threadIdx.x) / kGroup;
  const std::int64_t packs = a.columns / kN;
  const C count = static_cast<C>(a.columns);
  C weight_sums[kSums ? kPacks : 1][kN] = {}, bias_sums[kSums ? kPacks : 1][kN] = {};
  for (std::int64_t first = std::int64_t{blockIdx.x} * kRows; first < a.rows;
       first += std::int64_t{gridDim.x} * kRows) {
    const std::int64_t row = first + group;
    const bool here = row < a.rows;
    const S* const x = a.x + row * a.columns;
    const S* const g = a.gradient + row * a.columns;
    Pack<S, kN> held_x[kPacks], held_g[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (const std::int64_t at = lane + p * kGroup; here && at < packs) {
        held_x[p] = pack_at<S, kN>(x, at);
        held_g[p] = pack_at<S, kN>(g, at);
      }
    // Few blocks fit with so many registers: what they read next is on its way meanwhile.
    const std::int64_t ahead = std::int64_t{gridDim.x} * kRows;
    if (kSums && row + ahead < a.rows && threadIdx.x % (128 / 16) == 0)
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (const std::int64_t at = lane + p * kGroup; at < packs) {
          prefetch(x + ahead * a.columns + at * kN);
          prefetch(g + ahead * a.columns + at * kN);
        }
    const C mean = here ? a.stats[2 * row] : C{}, scale = here ? a.stats[2 * row + 1] : C{};
    const auto each = [&](auto&& f) {
#pragma unroll
      for (int p = 0; p < kPacks; ++p)
        if (const std::int64_t at = lane + p * kGroup; here && at < packs)
          f(held_x[p], held_g[p], at, p);
      if constexpr (!kSums)
        for (std::int64_t at = lane + kPacks * kGroup; here && at < packs; at += kGroup)
          f(pack_at<S, kN>(x, at), pack_at<S, kN>(g, at), at, 0);
    };
    C sums[2] = {};  // of g * weight times the normalised x, and of g * weight
    each([&](const Pack<S, kN>& xs, const Pack<S, kN>& gs, std::int64_t at, int p) {
      const auto weight = pack_at<S, kN>(a.weight, at);
      C along{}, shift{};
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const C normal = (widen(xs.at[i]) - mean) * scale, gi = widen(gs.at[i]);
        const C gw = gi * widen(weight.at[i]);
        along += gw * normal;
        shift += gw;
        if constexpr (kSums) {
          weight_sums[p][i] += gi * normal;
          bias_sums[p][i] += gi;
        }
      }
      sums[0] += along;
      sums[1] += shift;
    });
    if (a.out == nullptr) continue;
    sum_group<kGroup>(sums);
    const C along = sums[0] / count, shift = a.centered ? sums[1] / count : C{};
    S* const out = a.out + row * a.columns;
    each([&](const Pack<S, kN>& xs, const Pack<S, kN>& gs, std::int64_t at, int) {
      const auto weight = pack_at<S, kN>(a.weight, at);
      Pack<S, kN> made, old;
      if (kAdds) old = pack_at<S, kN>(out, at);
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const C normal = (widen(xs.at[i]) - mean) * scale;
        C v = scale * (widen(gs.at[i]) * widen(weight.at[i]) - shift - normal * along);
        if (kAdds) v += widen(old.at[i]);
        made.at[i] = convert<S>(v);
      }
      reinterpret_cast<Pack<S, kN>*>(out)[at] = made;
    });
  }
  if constexpr (kSums) {
    // The rows of a block's warps, one warp after the other.
    __shared__ C joined[2][kRows > 1 ? kPacks * kN * kWarp : 1];
    for (int turn = 0; turn < kRows; ++turn) {
      if (group == turn) {
#pragma unroll
        for (int p = 0; p < kPacks; ++p) {
          const std::int64_t at = lane + p * kGroup;
          if (at >= packs) continue;
#pragma unroll
          for (int i = 0; i < kN; ++i) {
            const std::int64_t column = at * kN + i;
            C w = weight_sums[p][i], b = bias_sums[p][i];
            if constexpr (kRows > 1) {
              if (turn > 0) {
                w += joined[0][column];
                b += joined[1][column];
              }
              joined[0][column] = w;
              joined[1][column] = b;
            }
            if (turn == kRows - 1) {
              parts.at(blockIdx.x, 0, a.columns)[column] = w;
              parts.at(blockIdx.x, 1, a.columns)[column] = b;
            }
          }
        }
      }
      if constexpr (kRows > 1) __syncthreads();
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
    with_row_packs(a, [&](auto pack) {
      constexpr int kN = decltype(pack)::value;
      const auto go = [&](auto group) {
        constexpr int kGroup = decltype(group)::value;
        launch(context, name_of(centered),
               a.residual ? &normalize_rows<S, kN, kGroup, true>
                          : &normalize_rows<S, kN, kGroup, false>,
               blocks_for(a.rows, kBlock / kGroup), kBlock, 0, a);
      };
      if (a.columns <= kN * kHeld<S> * kWarp)
        go(std::integral_constant<int, kWarp>());
      else
        go(std::integral_constant<int, kBlock>());
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
        launch(context, op, &join_parts<S>,
               dim3(static_cast<unsigned>(ceil_div(a.columns, kWarp)), 2), dim3(kWarp, kLines), 0,
               data_of<S>(gw), data_of<S>(gb), Parts<C>{parts.as<C>()}, count, a.columns);
      };
      // All gradients at once, if registers hold a row.
      const auto all = [&](auto group) {
        constexpr int kGroup = decltype(group)::value, kThreads = kBackwardThreads<kGroup>;
        if (a.columns > kN * kKept<S, kGroup> * kGroup) return false;
        const std::int64_t blocks =
            std::min(processors * kBackwardBlocks<kGroup>, ceil_div(a.rows, kThreads / kGroup));
        const Scratch parts(context, bytes(blocks));
        launch(context, op,
               gx.accumulate ? &normalize_rows_backward<S, kN, kGroup, true, true>
                             : &normalize_rows_backward<S, kN, kGroup, true, false>,
               static_cast<unsigned>(blocks), kThreads, 0, a, Parts<C>{parts.as<C>()});
        join(parts, blocks);
        return true;
      };
      if (sums &&
          (all(std::integral_constant<int, kWarp>()) ||
           all(std::integral_constant<int, kBlock>()) || all(std::integral_constant<int, kWide>())))
        return;
      if (a.out)
        launch(context, op,
               gx.accumulate ? &normalize_rows_backward<S, kN, kBlock, false, true>
                             : &normalize_rows_backward<S, kN, kBlock, false, false>,
               blocks_for(a.rows, 1), kBackwardThreads<kBlock>, 0, a, Parts<C>{});
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
