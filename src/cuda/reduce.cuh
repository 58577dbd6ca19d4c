#pragma once

#include <limits>
#include <span>

#include "cuda/backend.hpp"
#include "cuda/lanes.cuh"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"
#include "tensor/constant.hpp"

/// Reductions; the ops are in reduce.cu and extremes.cu.
namespace lmp::cuda {

using tensor::IntList;
using tensor::Shape;
using tensor::detail::compute_type;
using tensor::detail::Iteration;

/// Reduction::Max or Min.
void reduce_extremes(bool largest, const Tensor& out, const Tensor& x);

// Note [Reductions on the GPU]
// An Iteration over x has three operands: x, the output, which stays where it is along reduced
// axes, and what goes with each element or output. Where x is dense along the innermost axis, a
// pass joins the elements of one axis: of the innermost one by groups of threads that share a row
// (rows), or of another one for neighbouring columns at a time (columns). Few long rows are cut
// into parts. What is left, those parts and other reduced axes, is a dense tensor of accumulators
// for the next pass. All other layouts, and types that are rare for an op, take all reduced axes at
// once, an element at a time (strided). The order of additions depends on sizes and on the GPU's
// number of multiprocessors alone.
//
// An op has
//   Acc, Value      what is joined, and the type that elements are computed in
//   Next            the op that joins accumulators
//   kWith           what goes with the elements
//   kChains         accumulators that a thread has for each of its results
//   kRuns           whether threads make a Run<W> of their elements, W at a time: begin(x) with the
//                   first of them, take(x, w, turn) with each W, counted from 0, and
//                   made(turns, at, step) in the end, where those of `turn` are at + turn * step
//                   and what follows it
//   kSameType       whether elements are only of types that are computed in Value
//   fast<S>()       whether there are kernels for dense elements of S
//   identity(), join(a, b)
//   extend(a, x, w, at)   joins to `a` element x, which is at `at` along the axis and comes later
//   weight(flip)          w where nothing goes with the elements
//   finished(a, flip)     an accumulator as it is stored, and taken for an element by the next pass
//   store(data, type, i, a, divisor)
// Minima are maxima of a flipped order, so that there is one kernel for both.

enum class With { Nothing, Output, Element };

/// Where results go: into the output, or as accumulators of parts, `step` apart.
struct Target {
  void* data;
  DataType type;
  bool parts;
  std::int64_t step;
  bool flip;
  double divisor;
  template <class Op>
  __device__ __forceinline__ void put(std::int64_t part, std::int64_t at,
                                      const typename Op::Acc& a) const {
    const auto value = Op::finished(a, flip);
    if (parts)
      static_cast<typename Op::Acc*>(data)[part * step + at] = value;
    else
      Op::store(data, type, at, value, divisor);
  }
};

/// Writes v, which halves are computed in where it is float.
template <class T>
__device__ __forceinline__ void store_computed(void* data, DataType type, std::int64_t i, T v) {
  if constexpr (std::is_same_v<T, float>) {
    if (type == DataType::Float16) {
      static_cast<Half*>(data)[i] = convert<Half>(v);
      return;
    }
    if (type == DataType::BFloat16) {
      static_cast<Brain*>(data)[i] = convert<Brain>(v);
      return;
    }
  }
  static_cast<T*>(data)[i] = v;
}

template <class Op, class S>
__device__ __forceinline__ void extend(typename Op::Acc& a, S x, typename Op::Value w,
                                       std::int64_t at) {
  if constexpr (std::is_same_v<S, typename Op::Acc> && !std::is_same_v<S, typename Op::Value>)
    a = Op::join(a, x);
  else
    Op::extend(a, convert<typename Op::Value>(x), w, at);
}

/// Whether threads that read elements of S make runs: not of accumulators.
template <class Op, class S>
inline constexpr bool kRunsOf = Op::kRuns && !std::is_same_v<S, typename Op::Acc>;

/// What a thread makes of rows of kN elements: kChains accumulators, each of the elements of its
/// columns, or runs of kN / kChains columns.
template <class Op, class S, int kN, int kChains, bool = kRunsOf<Op, S>>
struct Chains {
  typename Op::Acc at[kChains];
  __device__ __forceinline__ Chains() {
#pragma unroll
    for (int c = 0; c < kChains; ++c) at[c] = Op::identity();
  }
  __device__ __forceinline__ void begin(const S*) {}
  __device__ __forceinline__ void take(const S* x, const typename Op::Value* w, int) {
#pragma unroll
    for (int k = 0; k < kN; ++k) extend<Op>(at[k % kChains], x[k], w[k], 0);
  }
  __device__ __forceinline__ typename Op::Acc made(int c, int, std::int64_t, std::int64_t) const {
    return at[c];
  }
};
template <class Op, class S, int kN, int kChains>
struct Chains<Op, S, kN, kChains, true> {
  using V = typename Op::Value;
  static constexpr int kWidth = kN / kChains;
  typename Op::template Run<kWidth> at[kChains];
  __device__ __forceinline__ void begin(const S* first) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) at[c].begin(convert<V>(first[c * kWidth]));
  }
  __device__ __forceinline__ void take(const S* x, const V* w, int turn) {
#pragma unroll
    for (int c = 0; c < kChains; ++c) {
      V v[kWidth];
#pragma unroll
      for (int k = 0; k < kWidth; ++k) v[k] = convert<V>(x[c * kWidth + k]);
      at[c].take(v, w[c], turn);
    }
  }
  __device__ __forceinline__ typename Op::Acc made(int c, int turns, std::int64_t first,
                                                   std::int64_t step) const {
    return at[c].made(turns, first, step);
  }
};

/// Element i of an array of a type that the op takes.
template <class Op>
__device__ __forceinline__ typename Op::Value load_value(const void* from, DataType type,
                                                         std::int64_t i) {
  using V = typename Op::Value;
  if constexpr (!Op::kSameType) {
    return load_as<V>(from, type, i);
  } else {
    if constexpr (std::is_same_v<V, float>) {
      if (type == DataType::Float16) return widen(static_cast<const Half*>(from)[i]);
      if (type == DataType::BFloat16) return widen(static_cast<const Brain*>(from)[i]);
    }
    return static_cast<const V*>(from)[i];
  }
}

// ---- Kernels ----

/// Packs, or elements where they lie apart, that a thread has in flight.
inline constexpr int kInFlight = 4;
/// Blocks that a multiprocessor runs at a time, as registers for packs of S allow.
template <class S>
inline constexpr int kResident = sizeof(S) == 4 || sizeof(S) == 8 ? 4
                                 : sizeof(S) == 2                 ? 3
                                                                  : 2;

/// Takes `count` packs of x, and what of `with` goes with them, that lie `step` elements apart;
/// where they are not kWhole, of `left` elements. Loads are not in branches, which would have the
/// compiler wait for one of them before the next.
template <class Op, bool kWhole, class S, class Chain>
__device__ __forceinline__ void take_packs(Chain& chains, const S* x,
                                           const typename Op::Value* with,
                                           const typename Op::Value* w, std::int64_t step,
                                           int count, std::int64_t left) {
  constexpr int kN = kPackOf<S>;
  constexpr bool kWeights = Op::kWith == With::Element;
  using V = typename Op::Value;
  const auto load = [&](const auto* from) {
    using T = std::remove_cvref_t<decltype(*from)>;
    if constexpr (kWhole)
      return load_whole<T, kN>(from);
    else
      return load_part<T, kN>(from, false, left, T{});
  };
  const auto take = [&](int taken, auto all) {
    Pack<S, kN> loaded[kInFlight];
    Pack<V, kWeights ? kN : 1> weight[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) {
      const std::int64_t at = all || taken + j < count ? (taken + j) * step : 0;
      loaded[j] = load(x + at);
      if constexpr (kWeights) weight[j] = load(with + at);
    }
    if (kRunsOf<Op, S> && taken == 0) chains.begin(loaded[0].at);
#pragma unroll
    for (int j = 0; j < kInFlight; ++j)
      if (all || taken + j < count)
        chains.take(loaded[j].at, kWeights ? weight[j].at : w, taken + j);
  };
  int taken = 0;
  if constexpr (kWhole) {
#pragma unroll 1
    for (; taken + kInFlight <= count; taken += kInFlight) take(taken, std::true_type());
  }
#pragma unroll 1
  for (; taken < count; taken += kInFlight) take(taken, std::false_type());
}

/// Row r of `outer` is n elements; `lanes` threads share a part of it.
template <class Op, class S>
__global__ void __launch_bounds__(kBlockThreads, kResident<S>)
    reduce_rows(const Target out, const S* x, const typename Op::Value* with, const Loop<3> outer,
                std::int64_t n, std::int64_t piece, int lanes) {
  using A = typename Op::Acc;
  using V = typename Op::Value;
  constexpr int kN = kPackOf<S>;
  constexpr int kChains = kRunsOf<Op, S> ? 1 : Op::kChains > kN ? kN : Op::kChains;
  __shared__ A shared[kBlockThreads / 32];
  const int shift = 31 - __clz(lanes);
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  const std::uint32_t row = blockIdx.x * (kBlockThreads >> shift) + (threadIdx.x >> shift);
  const bool here = row < outer.numel;
  std::int64_t offset[3] = {};
  A total = Op::identity();
  if (here) {
    outer.locate(row, offset);
    const std::int64_t begin = blockIdx.y * piece;
    const std::int64_t count = n - begin < piece ? n - begin : piece;
    const S* const from = x + offset[0] + begin;
    const V* weights = nullptr;
    V w = Op::weight(out.flip);
    if constexpr (Op::kWith == With::Output) w = with[offset[2]];
    if constexpr (Op::kWith == With::Element) weights = with + offset[2] + begin;
    const auto single = [&](std::int64_t i) {
      if constexpr (Op::kWith == With::Element) w = weights[i];
      extend<Op>(total, from[i], w, begin + i);
    };

    const int skew = static_cast<int>(reinterpret_cast<std::uintptr_t>(from) / sizeof(S) % kN);
    std::int64_t head = (kN - skew) % kN;
    if (head > count) head = count;
#pragma unroll 1
    for (std::int64_t i = lane; i < head; i += lanes) single(i);
    const std::int64_t packs = (count - head) / kN;
    const int turns = packs > lane ? static_cast<int>((packs - lane + lanes - 1) >> shift) : 0;
    V same[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) same[k] = w;
    const std::int64_t first = head + static_cast<std::int64_t>(lane) * kN;
    const std::int64_t step = static_cast<std::int64_t>(lanes) * kN;
    Chains<Op, S, kN, kChains> chains;
    const V* beside = nullptr;
    if constexpr (Op::kWith == With::Element) beside = weights + first;
    take_packs<Op, true>(chains, from + first, beside, same, step, turns, kN);
#pragma unroll 1
    for (std::int64_t i = head + packs * kN + lane; i < count; i += lanes) single(i);
#pragma unroll
    for (int c = 0; c < kChains; ++c)
      total = Op::join(total, chains.made(c, turns, begin + first, step));
  }
  total = join_lanes<Op>(total, lanes, shared);
  if (here && lane == 0) out.put<Op>(blockIdx.y, offset[1], total);
}

/// The axes of a pass over columns.
struct Columns {
  std::int64_t width;                    // of a row of columns
  std::int64_t out_stride, with_stride;  // between columns
  std::int64_t rows, row_stride;         // of x and, by element, of `with`
  std::int64_t piece;                    // rows in a part
  std::uint32_t tiles;                   // that a row of columns is cut into
  int threads;                           // that share a tile, a power of two
  bool whole;                            // packs are aligned
};

template <class Op, class S>
__global__ void __launch_bounds__(kBlockThreads, kResident<S>)
    reduce_columns(const Target out, const S* x, const typename Op::Value* with,
                   const Loop<3> outer, const Columns c) {
  using A = typename Op::Acc;
  using V = typename Op::Value;
  constexpr int kN = kPackOf<S>;
  constexpr int kMost = 32768 / (kBlockThreads * static_cast<int>(sizeof(A)));
  constexpr int kTogether = kN < kMost ? kN : kMost;  // columns of a thread that are joined at once
  __shared__ A shared[kTogether * kBlockThreads];
  const int t = static_cast<int>(threadIdx.x), shift = 31 - __clz(c.threads);
  const int lane = t >> shift, lanes = kBlockThreads >> shift, place = t & (c.threads - 1);
  const std::int64_t column =
      (static_cast<std::int64_t>(blockIdx.x % c.tiles) * c.threads + place) * kN;
  const std::int64_t left = c.width - column;
  std::int64_t offset[3] = {};
  outer.locate(blockIdx.x / c.tiles, offset);
  const std::int64_t begin = blockIdx.y * c.piece;
  Chains<Op, S, kN, kN> chains;
  const std::int64_t end = c.rows - begin < c.piece ? c.rows : begin + c.piece;
  const int turns = left > 0 && end - begin > lane
                        ? static_cast<int>((end - begin - lane + lanes - 1) >> (31 - __clz(lanes)))
                        : 0;

  if (turns > 0) {
    const std::int64_t first = (begin + lane) * c.row_stride + column;
    const std::int64_t step = lanes * c.row_stride;
    const S* const from = x + offset[0] + first;
    const V* weights = nullptr;
    if constexpr (Op::kWith == With::Element) weights = with + offset[2] + first;
    V w[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) w[k] = Op::weight(out.flip);
    if constexpr (Op::kWith == With::Output) {
#pragma unroll
      for (int k = 0; k < kN; ++k)
        if (k < left) w[k] = with[offset[2] + (column + k) * c.with_stride];
    }
    if (c.whole && left >= kN)
      take_packs<Op, true>(chains, from, weights, w, step, turns, left);
    else
      take_packs<Op, false>(chains, from, weights, w, step, turns, left);
  }
  // Each thread joins what others have of a column: rows of `shared`, in order.
  const int apart = c.threads < 32 ? 32 : c.threads, width = kTogether * c.threads;
#pragma unroll
  for (int from = 0; from < kN; from += kTogether) {
    if (from > 0) __syncthreads();
#pragma unroll
    for (int k = 0; k < kTogether; ++k) {
      A v = chains.made(from + k, turns, begin + lane, lanes);
      for (int by = c.threads; by < 32; by *= 2) v = Op::join(v, shuffled(v, by));
      if ((t & (apart - 1)) < c.threads) shared[t / apart * width + k * c.threads + place] = v;
    }
    __syncthreads();
    for (int i = t; i < width; i += kBlockThreads) {
      A total = shared[i];
      for (int row = 1; row < kBlockThreads / apart; ++row)
        total = Op::join(total, shared[row * width + i]);
      const std::int64_t at = column + (i % c.threads - place) * kN + from + i / c.threads;
      if (at < c.width) out.put<Op>(blockIdx.y, offset[1] + at * c.out_stride, total);
    }
  }
}

/// All reduced axes, the third operand of `reduced` being the position along the axis. Groups of
/// `lanes` threads share a result; they are neighbours, or where `apart` those of the same place
/// in rows of outputs.
template <class Op>
__global__ void __launch_bounds__(kBlockThreads)
    reduce_strided(const Target out, const void* x, DataType type, const typename Op::Value* with,
                   const Loop<3> kept, const Loop<3> reduced, std::uint32_t piece, int lanes,
                   bool apart, std::int64_t first) {
  using A = typename Op::Acc;
  using V = typename Op::Value;
  __shared__ A shared[kBlockThreads];
  const int t = static_cast<int>(threadIdx.x), width = kBlockThreads / lanes;
  const int lane = apart ? t / width : t % lanes;
  const std::uint32_t i = blockIdx.x * width + (apart ? t % width : t / lanes);
  const bool here = i < kept.numel;
  std::int64_t offset[3] = {};
  A total = Op::identity();
  if (here) {
    kept.locate(i, offset);
    V w = Op::weight(out.flip);
    if constexpr (Op::kWith == With::Output) w = with[offset[2]];
    const std::uint32_t begin = blockIdx.y * piece;
    const std::uint32_t end = begin + piece < reduced.numel ? begin + piece : reduced.numel;
    for (std::uint32_t r = begin + lane; r < end; r += kInFlight * lanes) {
      V loaded[kInFlight], weight[kInFlight];
      std::int64_t at[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        if (r + j * lanes >= end) continue;
        std::int64_t place[3] = {};
        reduced.locate(r + j * lanes, place);
        loaded[j] = load_value<Op>(x, type, offset[0] + place[0]);
        weight[j] = w;
        if constexpr (Op::kWith == With::Element) weight[j] = with[offset[2] + place[1]];
        at[j] = first + place[2];
      }
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        if (r + j * lanes < end) Op::extend(total, loaded[j], weight[j], at[j]);
    }
  }
  total = apart ? join_columns<Op>(total, width, shared) : join_lanes<Op>(total, lanes, shared);
  if (here && lane == 0) out.put<Op>(blockIdx.y, offset[1], total);
}

// ---- What is launched ----

/// One pass: operands of `loop` are x, out and with.
template <class V>
struct Reduce {
  const char* name;
  const void* x;
  const V* with;
  void* out;
  DataType out_type;
  bool flip;
  double divisor;
  Iteration loop;

  bool reduces(int axis) const { return loop.strides[1][axis] == 0; }
  int inner() const { return loop.ndim - 1; }
};

/// How many parts the work of `blocks` blocks is cut into: at most `most`, so that the machine is
/// busy, and more where a thread would add up to `adds` packs one after the other.
inline std::int64_t parts_for(const Context& context, int resident, std::int64_t blocks,
                              std::int64_t most, std::int64_t adds) {
  const std::int64_t parts =
      parts_that_fill(blocks, properties(context.index).multiprocessors * resident,
                      std::clamp<std::int64_t>(most, 1, kMostParts));
  return std::min(std::max(parts, ceil_div(adds, 1024)), kMostParts);
}

template <class Op, class S>
void fold_dense(const Context& context, const Reduce<typename Op::Value>& pass);

/// The accumulators of `parts` parts, of a pass whose other axes are those of `rest`, and the pass
/// that joins them.
template <class Op>
struct Parts {
  using Acc = typename Op::Acc;
  std::int64_t count;
  Scratch memory;
  Parts(const Context& context, std::int64_t parts, const Iteration& rest)
      : count(parts), memory(context, static_cast<std::size_t>(parts * rest.numel) * sizeof(Acc)) {}
  /// Has the operand for outputs go there.
  Target target(Iteration& rest, const Reduce<typename Op::Value>& pass) const {
    std::int64_t step = 1;
    for (int d = rest.ndim - 1; d >= 0; --d) {
      rest.strides[1][d] = step;
      step *= rest.sizes[d];
    }
    return {memory.as<void>(), DataType::Float32, true, step, pass.flip, pass.divisor};
  }
  void join(const Context& context, const Reduce<typename Op::Value>& from,
            const Iteration& rest) const {
    IntList shape, strides[2];
    const auto add = [&](std::int64_t size, std::int64_t stride) {
      if (size == 1) return;
      shape.push_back(size);
      strides[1].push_back(stride);
    };
    add(count, 0);
    for (int d = 0; d < rest.ndim; ++d) add(rest.sizes[d], rest.strides[1][d]);
    strides[0] = tensor::detail::dense_strides(Shape(shape));
    fold_dense<typename Op::Next, Acc>(
        context, {from.name, memory.as<void>(), nullptr, from.out, from.out_type, from.flip,
                  from.divisor, Iteration(Shape(shape), strides, true)});
  }
};

/// Runs launch(target, rest) for one pass over the axis that `rest` lacks, cut into `parts`.
template <class Op, class Launch>
void run_pass(const Context& context, const Reduce<typename Op::Value>& pass, const Iteration& rest,
              std::int64_t parts, Launch&& launch_on) {
  bool last = parts == 1;
  for (int d = 0; d < rest.ndim; ++d) last &= rest.strides[1][d] != 0;
  if (last)
    return launch_on(Target{pass.out, pass.out_type, false, 0, pass.flip, pass.divisor}, rest);
  const Parts<Op> made(context, parts, rest);
  Iteration loop = rest;
  const Target target = made.target(loop, pass);
  launch_on(target, loop);
  made.join(context, pass, rest);
}

template <class T>
T* moved(T* data, std::int64_t by) {
  return data ? data + by : nullptr;
}
inline Target moved(Target target, std::int64_t by, std::size_t accumulator) {
  const std::size_t size = target.parts ? accumulator : tensor::size_of(target.type);
  target.data = static_cast<std::byte*>(target.data) + by * static_cast<std::int64_t>(size);
  return target;
}

template <class Op, class S>
void fold_rows(const Context& context, const Reduce<typename Op::Value>& pass) {
  const std::int64_t n = pass.loop.sizes[pass.inner()];
  const Iteration rest = without(pass.loop, pass.inner());
  const std::int64_t packs = ceil_div(n, kPackOf<S>);
  const int multiprocessors = properties(context.index).multiprocessors;
  int lanes = power_above(ceil_div(packs, kInFlight), kBlockThreads);
  if (lanes > 32) lanes = n <= 65536 && rest.numel >= 16 * multiprocessors ? 32 : kBlockThreads;
  const std::int64_t each = kBlockThreads / lanes, blocks = ceil_div(rest.numel, each);
  const std::int64_t parts =
      lanes < kBlockThreads ? 1
                            : parts_for(context, kResident<S>, blocks,
                                        packs / (2 * kInFlight * kBlockThreads), packs / lanes);
  const std::int64_t whole = kBlockThreads * kPackOf<S>;
  const std::int64_t piece = parts == 1 ? n : ceil_div(ceil_div(n, parts), whole) * whole;
  run_pass<Op>(context, pass, rest, ceil_div(n, piece),
               [&](const Target& target, const Iteration& loop) {
                 for_parts(loop, [&](const Iteration& part, const std::int64_t* offsets) {
                   launch(context, pass.name, &reduce_rows<Op, S>,
                          dim3(static_cast<unsigned>(ceil_div(part.numel, each)),
                               static_cast<unsigned>(ceil_div(n, piece))),
                          kBlockThreads, 0, moved(target, offsets[1], sizeof(typename Op::Acc)),
                          static_cast<const S*>(pass.x) + offsets[0], moved(pass.with, offsets[2]),
                          Loop<3>(part), n, piece, lanes);
                 });
               });
}

template <class Op, class S>
void fold_columns(const Context& context, const Reduce<typename Op::Value>& pass) {
  constexpr int kN = kPackOf<S>;
  int axis = -1;
  for (int d = 0; d < pass.loop.ndim; ++d)
    if (pass.reduces(d) && (axis < 0 || pass.loop.sizes[d] > pass.loop.sizes[axis])) axis = d;
  const Iteration rest = without(pass.loop, axis);
  const int inner = rest.ndim - 1, multiprocessors = properties(context.index).multiprocessors;
  Columns c{};
  c.rows = pass.loop.sizes[axis];
  c.row_stride = pass.loop.strides[0][axis];
  const auto cut = [&](std::int64_t width) {
    const std::int64_t packs = ceil_div(width, kN);
    c.threads = power_above(packs, 32);
    while (c.threads < kBlockThreads && c.threads < packs &&
           c.rows * c.threads < kInFlight * kBlockThreads)
      c.threads *= 2;
    // What parts leave is few rows, which more blocks share better than more parts.
    while (c.threads > 4 && c.rows <= 2048 && c.rows * c.threads > 2 * kInFlight * kBlockThreads &&
           rest.numel / width * ceil_div(packs, c.threads) < multiprocessors)
      c.threads /= 2;
    c.tiles = static_cast<std::uint32_t>(ceil_div(packs, c.threads));
  };
  cut(rest.sizes[inner]);
  const std::int64_t blocks = rest.numel / rest.sizes[inner] * c.tiles;
  const std::int64_t lanes = kBlockThreads / c.threads;
  const std::int64_t parts =
      parts_for(context, kResident<S>, blocks, c.rows / (2 * kInFlight * lanes), c.rows / lanes);
  c.piece = ceil_div(c.rows, parts);
  c.whole = c.row_stride % kN == 0;
  for (int d = 0; d < inner; ++d) c.whole &= rest.strides[0][d] % kN == 0;
  run_pass<Op>(context, pass, rest, ceil_div(c.rows, c.piece),
               [&](const Target& target, const Iteration& loop) {
                 for_parts(loop, [&](const Iteration& part, const std::int64_t* offsets) {
                   const auto* const x = static_cast<const S*>(pass.x) + offsets[0];
                   const auto* const with = moved(pass.with, offsets[2]);
                   Columns here = c;
                   here.width = part.sizes[inner];
                   here.tiles = static_cast<std::uint32_t>(ceil_div(here.width, kN * c.threads));
                   here.out_stride = part.strides[1][inner];
                   here.with_stride = part.strides[2][inner];
                   here.whole &= is_aligned(x, kPackBytes) &&
                                 (Op::kWith != With::Element || is_aligned(with, kPackBytes));
                   const Iteration outer = without(part, inner);
                   launch(context, pass.name, &reduce_columns<Op, S>,
                          dim3(static_cast<unsigned>(outer.numel * here.tiles),
                               static_cast<unsigned>(ceil_div(c.rows, c.piece))),
                          kBlockThreads, 0, moved(target, offsets[1], sizeof(typename Op::Acc)), x,
                          with, Loop<3>(outer), here);
                 });
               });
}

/// Where x is dense along the innermost axis, and anything is reduced.
template <class Op, class S>
void fold_dense(const Context& context, const Reduce<typename Op::Value>& pass) {
  if (pass.reduces(pass.inner()))
    fold_rows<Op, S>(context, pass);
  else
    fold_columns<Op, S>(context, pass);
}

template <class Op>
void fold_strided(const Context& context, const Reduce<typename Op::Value>& pass, DataType type) {
  Iteration kept = empty_loop(), reduced = empty_loop();
  for (int d = 0; d < pass.loop.ndim; ++d) {
    Iteration& to = pass.reduces(d) ? reduced : kept;
    to.sizes[to.ndim] = pass.loop.sizes[d];
    to.numel *= pass.loop.sizes[d];
    for (int i = 0; i < 3; ++i) to.strides[i][to.ndim] = pass.loop.strides[i][d];
    ++to.ndim;
  }
  // Operands of `reduced` are x, with and the position.
  std::int64_t step = 1;
  for (int d = reduced.ndim - 1; d >= 0; --d) {
    reduced.strides[1][d] = reduced.strides[2][d];
    reduced.strides[2][d] = step;
    step *= reduced.sizes[d];
  }
  const bool apart = pass.loop.ndim > 0 && !pass.reduces(pass.inner());
  int lanes = power_above(ceil_div(reduced.numel, kInFlight), kBlockThreads);
  if (apart && kept.numel >= 32) lanes = std::min(lanes, kBlockThreads / 32);
  const std::int64_t width = kBlockThreads / lanes, blocks = ceil_div(kept.numel, width);
  std::int64_t chunks = 0;  // of the reduced axes, that a launch takes
  for_parts(reduced, [&](const Iteration&, const std::int64_t*) { ++chunks; });
  const std::int64_t most = std::min(reduced.numel, kLaunchElements) / (4 * kInFlight * lanes);
  const std::int64_t parts = parts_for(context, 8, blocks, most, most * 4 * kInFlight);

  const auto launch_on = [&](const Target& to, const Iteration& outputs) {
    std::int64_t chunk = 0;
    for_parts(reduced, [&](const Iteration& inside, const std::int64_t* moves) {
      const auto piece = static_cast<std::uint32_t>(ceil_div(inside.numel, parts));
      for_parts(outputs, [&](const Iteration& part, const std::int64_t* offsets) {
        const std::int64_t size = static_cast<std::int64_t>(tensor::size_of(type));
        launch(
            context, pass.name, &reduce_strided<Op>,
            dim3(static_cast<unsigned>(ceil_div(part.numel, width)), static_cast<unsigned>(parts)),
            kBlockThreads, 0,
            moved(to, chunk * parts * to.step + offsets[1], sizeof(typename Op::Acc)),
            static_cast<const void*>(static_cast<const std::byte*>(pass.x) +
                                     (offsets[0] + moves[0]) * size),
            type, moved(pass.with, offsets[2] + moves[1]), Loop<3>(part), Loop<3>(inside), piece,
            lanes, apart, moves[2]);
      });
      ++chunk;
    });
  };
  run_pass<Op>(context, pass, kept, chunks * parts, launch_on);
}

/// Reduces x, over the axes of size 1 in out.
template <class Op>
void fold(const char* name, const Tensor& out, const Tensor& x, const Tensor& with,
          bool flip = false, double divisor = 1) {
  using V = typename Op::Value;
  constexpr bool kByElement = Op::kWith == With::Element;
  const Context context(out.device());
  IntList strides[3] = {x.strides(), out.strides(), {}};
  for (std::size_t d = 0; d < x.shape().size(); ++d)
    if (out.shape()[d] == 1) strides[1][d] = 0;
  strides[2] = kByElement ? with.strides() : strides[1];
  const Reduce<V> pass{name,
                       x.data(),
                       with.defined() ? static_cast<const V*>(with.data()) : nullptr,
                       out.data(),
                       out.type(),
                       flip,
                       divisor,
                       Iteration(x.shape(), strides, true)};
  bool fits = pass.loop.ndim > 0 && pass.loop.strides[0][pass.inner()] == 1, reduces = false;
  for (int d = 0; d < pass.loop.ndim; ++d) {
    reduces |= pass.reduces(d);
    fits &= !kByElement || pass.loop.strides[2][d] == pass.loop.strides[0][d];
  }
  if (kByElement)
    fits &=
        (reinterpret_cast<std::uintptr_t>(pass.x) - reinterpret_cast<std::uintptr_t>(pass.with)) %
            kPackBytes ==
        0;
  bool done = false;
  if (fits && reduces)
    visit(x.type(), [&](auto tag) {
      using Type = typename decltype(tag)::Type;
      using S = std::conditional_t<std::is_same_v<typename Op::Value, std::uint8_t> &&
                                       std::is_same_v<Type, bool>,
                                   std::uint8_t, Type>;
      if constexpr (Op::template fast<S>()) {
        done = true;
        fold_dense<Op, S>(context, pass);
      }
    });
  if (!done) fold_strided<Op>(context, pass, x.type());
}

}  // namespace lmp::cuda
