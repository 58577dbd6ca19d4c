#include <limits>

#include "cuda/backend.hpp"
#include "cuda/exp.cuh"
#include "cuda/lanes.cuh"
#include "lamppp/tensor/ops.hpp"
#include "tensor/access.hpp"
#include "tensor/checks.hpp"
#include "tensor/constant.hpp"

namespace lmp::cuda {

using tensor::IntList;
using tensor::Shape;
using tensor::detail::Iteration;

namespace {

// Note [Softmax on the GPU]
// Rows that fit go into the registers of the threads that share them, and are read once. Longer
// ones are read twice, the second time out of shared memory as far as they fit there; few of them
// are cut into parts, whose statistics a first launch leaves for a second one. The same goes for
// other axes than the last, where threads take neighbouring columns. A maximum and a sum that is
// relative to it are found in one pass (Milakov and Gimelshein, "Online normalizer calculation for
// softmax", 2018).
// What a thread waits for is mostly memory: so threads have few registers, that there be many of
// them, and several loads in flight, which are in no branches of their own.
// A row is read in slots of a pack at aligned addresses, the first and the last of which may lie
// partly outside of it.

/// e^x for x <= 0, as exact as elements of S need.
template <class S, class C>
__device__ __forceinline__ C power(C x) {
  if constexpr (std::is_same_v<S, float>)
    return ::exp(x);
  else
    return exp_near(x);
}
template <class C>
__device__ __forceinline__ C infinity() {
  return std::numeric_limits<C>::infinity();
}

/// The larger, or a where b is NaN: a sum is NaN wherever an element is.
template <class C>
struct MaxOf {
  __device__ static C join(C a, C b) {
    if constexpr (sizeof(C) == 4)
      return fmax(a, b);
    else
      return b > a ? b : a;  // a third of the instructions of fmax
  }
};
template <class C>
struct SumOf {
  __device__ static C join(C a, C b) { return a + b; }
};

// ---- Packs ----

/// What halves are computed with two at a time.
template <class S>
using Two = std::conditional_t<std::is_same_v<S, Half>, __half2, __nv_bfloat162>;

/// Element k of a pack.
template <class S>
__device__ __forceinline__ Computed<S> element(const uint4& bits, int k) {
  if constexpr (std::is_same_v<S, Brain>) {
    const std::uint32_t two = std::bit_cast<Pack<std::uint32_t, 4>>(bits).at[k / 2];
    return __uint_as_float(k % 2 == 0 ? two << 16 : two & 0xffff0000U);
  } else {
    return widen(std::bit_cast<Pack<S, kPackOf<S>>>(bits).at[k]);
  }
}
template <class S>
__device__ __forceinline__ Pack<S, kPackOf<S>> pack_of(const Computed<S> (&x)[kPackOf<S>]) {
  Pack<S, kPackOf<S>> pack;
  if constexpr (kIsHalf<S>) {
    Pack<std::uint32_t, 4> words;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      Two<S> two;
      if constexpr (std::is_same_v<S, Brain>)
        two = __floats2bfloat162_rn(x[2 * w], x[2 * w + 1]);
      else
        two = __floats2half2_rn(x[2 * w], x[2 * w + 1]);
      words.at[w] = reinterpret_cast<const std::uint32_t&>(two);
    }
    pack = std::bit_cast<Pack<S, kPackOf<S>>>(words);
  } else {
#pragma unroll
    for (int k = 0; k < kPackOf<S>; ++k) pack.at[k] = x[k];
  }
  return pack;
}

/// The largest element of packs.
template <class S, int kPacks>
__device__ __forceinline__ Computed<S> largest(const uint4 (&packs)[kPacks]) {
  using C = Computed<S>;
  if constexpr (kIsHalf<S>) {
    const auto join = [](std::uint32_t a, std::uint32_t b) {
      const Two<S> two =
          __hmax2(reinterpret_cast<const Two<S>&>(a), reinterpret_cast<const Two<S>&>(b));
      return reinterpret_cast<const std::uint32_t&>(two);
    };
    uint4 top = packs[0];
#pragma unroll
    for (int j = 1; j < kPacks; ++j)
      top = {join(top.x, packs[j].x), join(top.y, packs[j].y), join(top.z, packs[j].z),
             join(top.w, packs[j].w)};
    top.x = join(join(top.x, top.y), join(top.z, top.w));
    return MaxOf<C>::join(element<S>(top, 0), element<S>(top, 1));
  } else {
    C top = -infinity<C>();
#pragma unroll
    for (int j = 0; j < kPacks; ++j)
#pragma unroll
      for (int k = 0; k < kPackOf<S>; ++k) top = MaxOf<C>::join(top, element<S>(packs[j], k));
    return top;
  }
}

// ---- The two ops ----

/// What is known of some elements: the largest, and the sum of e^(x - that).
template <class C>
struct Peak {
  C top, sum;
};
template <class C>
__device__ __forceinline__ Peak<C> shuffled(Peak<C> v, int by) {
  return {cuda::shuffled(v.top, by), cuda::shuffled(v.sum, by)};
}
/// join() over the lanes of a warp whose numbers differ in bits from .. to / 2.
template <class Join, class C>
__device__ __forceinline__ C joined_lanes(C v, int from, int to) {
  for (int by = from; by < to; by *= 2) v = Join::join(v, cuda::shuffled(v, by));
  return v;
}

/// An op has inputs of one type, statistics of them that are joined, and results made out of both.
template <class S>
struct Forward {
  using C = Computed<S>;
  using Stat = Peak<C>;
  static constexpr int kInputs = 1;
  __device__ static S fill() { return convert<S>(-infinity<C>()); }
  /// Finite, so that it can be subtracted from -infinity.
  __device__ static Stat identity() { return {std::numeric_limits<C>::lowest(), C{0}}; }
  __device__ static Stat join(const Stat& a, const Stat& b) {
    const C top = MaxOf<C>::join(a.top, b.top);
    return {top, a.sum * exp_near(a.top - top) + b.sum * exp_near(b.top - top)};
  }
  __device__ static Stat join_warp(const Stat& a, int from, int to) {
    const C top = joined_lanes<MaxOf<C>>(a.top, from, to);
    return {top, joined_lanes<SumOf<C>>(a.sum * exp_near(a.top - top), from, to)};
  }
  /// Takes kN elements of each input.
  template <int kN>
  __device__ static void add(Stat& a, const C (&x)[kInputs][kN], bool) {
    C top = a.top;
#pragma unroll
    for (int k = 0; k < kN; ++k) top = MaxOf<C>::join(top, x[0][k]);
    C terms[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) terms[k] = exp_near(x[0][k] - top);
#pragma unroll
    for (int step = 1; step < kN; step *= 2)
#pragma unroll
      for (int k = 0; k + step < kN; k += 2 * step) terms[k] += terms[k + step];
    a = {top, a.sum * exp_near(a.top - top) + terms[0]};
  }
  /// What results are made of.
  __device__ static void finish(Stat& a, bool log) { a.sum = log ? ::log(a.sum) : C{1} / a.sum; }
  __device__ static C result(const C (&x)[kInputs], const Stat& a, bool log) {
    return log ? x[0] - a.top - a.sum : power<S>(x[0] - a.top) * a.sum;
  }
};

template <class S>
struct Backward {
  using C = Computed<S>;
  using Stat = C;
  static constexpr int kInputs = 2;  // the result and its gradient
  __device__ static S fill() { return convert<S>(C{0}); }
  __device__ static Stat identity() { return C{0}; }
  __device__ static Stat join(Stat a, Stat b) { return a + b; }
  __device__ static Stat join_warp(Stat a, int from, int to) {
    return joined_lanes<SumOf<C>>(a, from, to);
  }
  template <int kN>
  __device__ static void add(Stat& a, const C (&x)[kInputs][kN], bool log) {
    C sum = log ? x[1][0] : x[0][0] * x[1][0];
#pragma unroll
    for (int k = 1; k < kN; ++k) sum += log ? x[1][k] : x[0][k] * x[1][k];
    a += sum;
  }
  __device__ static void finish(Stat&, bool) {}
  __device__ static C result(const C (&x)[kInputs], Stat a, bool log) {
    return log ? x[1] - power<S>(x[0]) * a : x[0] * (x[1] - a);
  }
};

template <class Op, class S>
struct Inputs {
  const S* at[Op::kInputs];
};

/// The results for a pack of each input, whose element k has statistic k, or the only one.
template <class Op, class S, int kStats>
__device__ __forceinline__ Pack<S, kPackOf<S>> made_of(const uint4 (&packs)[Op::kInputs],
                                                       const typename Op::Stat (&stat)[kStats],
                                                       bool log) {
  Computed<S> made[kPackOf<S>];
#pragma unroll
  for (int k = 0; k < kPackOf<S>; ++k) {
    Computed<S> x[Op::kInputs];
#pragma unroll
    for (int i = 0; i < Op::kInputs; ++i) x[i] = element<S>(packs[i], k);
    made[k] = Op::result(x, stat[kStats == 1 ? 0 : k], log);
  }
  return pack_of<S>(made);
}

/// Slots of each input, or rows of columns, that a thread has in flight.
template <class Op>
inline constexpr int kInFlight = 4 / Op::kInputs;

/// What a launch does of the work.
enum class Step { All, Statistics, Results };

// ---- Rows ----

/// Where slots of a row begin: so many elements before its first.
template <class S>
__device__ __forceinline__ int before_row(const S* row) {
  return static_cast<int>(reinterpret_cast<std::uintptr_t>(row) / sizeof(S) % kPackOf<S>);
}
/// Elements first .. of a row of n, of which the first may be negative.
template <class S, class I>
__device__ __forceinline__ Pack<S, kPackOf<S>> load_slot(const S* row, I first, I n, S fill) {
  constexpr int kN = kPackOf<S>;
  if (first >= 0 && first + kN <= n && aligned_for_pack(row + first))
    return load_whole<S, kN>(row + first);
  Pack<S, kN> pack;
#pragma unroll
  for (int k = 0; k < kN; ++k) pack.at[k] = first + k >= 0 && first + k < n ? row[first + k] : fill;
  return pack;
}
template <class S, class I>
__device__ __forceinline__ void store_slot(S* row, I first, I n, const Pack<S, kPackOf<S>>& pack) {
  constexpr int kN = kPackOf<S>;
  if (first >= 0 && first + kN <= n && aligned_for_pack(row + first))
    return store_whole(row + first, pack);
#pragma unroll
  for (int k = 0; k < kN; ++k)
    if (first + k >= 0 && first + k < n) row[first + k] = pack.at[k];
}

inline constexpr int kMostThreads = 512;
/// Elements of each input that a thread has of a row, where rows are long and where they are short:
/// more of them leave too few threads that wait for memory.
template <class Op, class S>
inline constexpr int kMany = sizeof(S) == 2 ? 32 : 8 * kPackOf<S> / Op::kInputs;
inline constexpr int kFew = 8;
inline constexpr int kHeldBlocks = 1024 / kMostThreads;  // for a multiprocessor

/// Operands of a loop over rows or columns: the output and the inputs.
template <class Op>
inline constexpr int kOperands = Op::kInputs + 1;

/// Rows of up to lanes * kSlots slots, by `lanes` threads each. kWhole says that rows are packs at
/// aligned addresses.
template <class Op, class S, int kSlots, bool kWhole>
__global__ void __launch_bounds__(kMostThreads, kHeldBlocks)
    softmax_held(S* out, const Inputs<Op, S> in, const Loop<kOperands<Op>> rows, int n, int lanes,
                 bool log) {
  using C = Computed<S>;
  constexpr int kN = kPackOf<S>, kInputs = Op::kInputs;
  __shared__ C shared[kMostThreads / 32];
  const int shift = 31 - __clz(lanes), t = static_cast<int>(threadIdx.x);
  const int lane = t & (lanes - 1);
  const std::uint32_t row = blockIdx.x * (blockDim.x >> shift) + (t >> shift);
  const bool here = row < rows.numel;
  std::int64_t offset[kOperands<Op>] = {};
  if (here) rows.locate(row, offset);
  const int before = kWhole ? 0 : before_row(in.at[0] + offset[1]), size = here ? n : 0;
  const auto first_of = [&](int j) { return (lane + j * lanes) * kN - before; };

  uint4 x[kInputs][kSlots];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) {
    const S* const from = in.at[i] + offset[i + 1];
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      if constexpr (kWhole) {
        x[i][j] = filled(Op::fill());
        if (first_of(j) < size) x[i][j] = load_bits(from + first_of(j));
      } else {
        x[i][j] = std::bit_cast<uint4>(load_slot(from, first_of(j), size, Op::fill()));
      }
    }
  }
  S* const to = out + offset[0];
  // result(j, k) for element k of slot j.
  const auto store = [&](auto&& result) {
    if (!here) return;
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      C made[kN];
#pragma unroll
      for (int k = 0; k < kN; ++k) made[k] = result(j, k);
      if constexpr (!kWhole)
        store_slot(to, first_of(j), n, pack_of<S>(made));
      else if (first_of(j) < n)
        store_whole(to + first_of(j), pack_of<S>(made));
    }
  };

  if constexpr (kInputs == 1) {
    const C top = join_lanes<MaxOf<C>>(largest<S>(x[0]), lanes, shared);
    // Not relative to another maximum on the way.
    const auto total = [&](auto&& keep) {
      C sums[kN] = {};
#pragma unroll
      for (int j = 0; j < kSlots; ++j)
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          const C raised = power<S>(element<S>(x[0][j], k) - top);
          sums[k] += raised;
          keep(j, k, raised);
        }
#pragma unroll
      for (int k = 1; k < kN; ++k) sums[0] += sums[k];
      return join_lanes<SumOf<C>>(sums[0], lanes, shared);
    };
    if (log) {
      asm volatile("");  // the compiler would raise all elements before the branch, and spill
      typename Op::Stat stat{top, total([](int, int, C) {})};
      Op::finish(stat, true);
      store([&](int j, int k) { return Op::result({element<S>(x[0][j], k)}, stat, true); });
    } else {
      C kept[kSlots][kN];
      typename Op::Stat stat{top, total([&](int j, int k, C raised) { kept[j][k] = raised; })};
      Op::finish(stat, false);
      store([&](int j, int k) { return kept[j][k] * stat.sum; });
    }
  } else {
    typename Op::Stat stat = Op::identity();
#pragma unroll
    for (int j = 0; j < kSlots; ++j) {
      C slot[kInputs][kN];
#pragma unroll
      for (int i = 0; i < kInputs; ++i)
#pragma unroll
        for (int k = 0; k < kN; ++k) slot[i][k] = element<S>(x[i][j], k);
      Op::add(stat, slot, log);
    }
    stat = join_lanes<Op>(stat, lanes, shared);
    Op::finish(stat, log);
    store([&](int j, int k) {
      return Op::result({element<S>(x[0][j], k), element<S>(x[1][j], k)}, stat, log);
    });
  }
}

inline constexpr int kRowThreads = 1024;

/// Part y of row x, by a block. So many slots of each input as `held` stay in shared memory.
/// `parts` has a statistic for each part.
template <class Op, class S>
__global__ void __launch_bounds__(kRowThreads)
    softmax_long(S* out, const Inputs<Op, S> in, const Loop<kOperands<Op>> rows, std::int64_t n,
                 std::int64_t piece, int held, bool whole, typename Op::Stat* parts, Step step,
                 bool log) {
  using C = Computed<S>;
  using Stat = typename Op::Stat;
  constexpr int kN = kPackOf<S>, kInputs = Op::kInputs;
  extern __shared__ uint4 hold[];
  __shared__ Stat shared[kRowThreads / 32];
  std::int64_t offset[kOperands<Op>] = {};
  rows.locate(blockIdx.x, offset);
  const std::int64_t begin = blockIdx.y * piece;
  const std::int64_t count = n - begin < piece ? n - begin : piece;
  const S* from[kInputs];
#pragma unroll
  for (int i = 0; i < kInputs; ++i) from[i] = in.at[i] + offset[i + 1] + begin;
  const int before = before_row(from[0]);
  const std::int64_t slots = (before + count + kN - 1) / kN;
  constexpr std::int64_t kStride = kRowThreads * kInFlight<Op>;

  // visit_slots(first, loaded) for slots first, first + kRowThreads, .. of this thread.
  constexpr int kFlight = kInFlight<Op>;
  const auto over_slots = [&](bool again, auto&& visit_slots) {
    for (std::int64_t first = threadIdx.x; first < slots; first += kRowThreads * kFlight) {
      uint4 loaded[kFlight][kInputs];
      const bool full = whole && first + (kFlight - 1) * kRowThreads < slots;
#pragma unroll
      for (int j = 0; j < kFlight; ++j) {
        const std::int64_t slot = first + j * kRowThreads;
#pragma unroll
        for (int i = 0; i < kInputs; ++i) {
          if (again && slot < held)
            loaded[j][i] = hold[i * held + slot];
          else if (full)
            loaded[j][i] = load_bits(from[i] + slot * kN);
          else
            loaded[j][i] =
                std::bit_cast<uint4>(load_slot(from[i], slot * kN - before, count, Op::fill()));
        }
      }
      visit_slots(first, loaded);
    }
  };

  Stat stat = Op::identity();
  Stat* const mine = parts + static_cast<std::int64_t>(blockIdx.x) * gridDim.y;
  if (step == Step::Results) {
    for (unsigned i = threadIdx.x; i < gridDim.y; i += kRowThreads) stat = Op::join(stat, mine[i]);
  } else {
    constexpr int kTogether = kFlight < 16 / kN ? kFlight : 16 / kN;  // slots, for registers' sake
    over_slots(false, [&](std::int64_t first, const uint4(&loaded)[kFlight][kInputs]) {
#pragma unroll
      for (int j = 0; j < kFlight; j += kTogether) {
        C x[kInputs][kTogether * kN];
#pragma unroll
        for (int g = 0; g < kTogether; ++g) {
          const std::int64_t slot = first + (j + g) * kRowThreads;
#pragma unroll
          for (int i = 0; i < kInputs; ++i) {
            if (slot < held) hold[i * held + slot] = loaded[j + g][i];  // only this thread reads it
#pragma unroll
            for (int k = 0; k < kN; ++k) x[i][g * kN + k] = element<S>(loaded[j + g][i], k);
          }
        }
        Op::add(stat, x, log);
      }
    });
  }
  stat = join_lanes<Op>(stat, kRowThreads, shared);
  if (step == Step::Statistics) {
    if (threadIdx.x == 0) mine[blockIdx.y] = stat;
    return;
  }
  Op::finish(stat, log);
  S* const to = out + offset[0] + begin;
  over_slots(step == Step::All, [&](std::int64_t first, const uint4(&loaded)[kFlight][kInputs]) {
#pragma unroll
    for (int j = 0; j < kFlight; ++j) {
      const std::int64_t slot = first + j * kRowThreads;
      if (slot >= slots) break;
      const auto made = made_of<Op, S>(loaded[j], {stat}, log);
      if (whole)
        store_whole(to + slot * kN, made);
      else
        store_slot(to, slot * kN - before, count, made);
    }
  });
}

// ---- Columns ----

/// The axis, and columns beside each other.
template <class Op>
struct ColumnAxes {
  std::int64_t width, rows, piece;
  std::int64_t stride[kOperands<Op>];  // along the axis
  std::uint32_t tiles;                 // that a row of columns is cut into
  int threads;                         // that share a tile, a power of two
  bool whole[kOperands<Op>];           // packs are aligned
};
inline constexpr int kTileThreads = 32;
/// Threads of a block where columns are long, so that few statistics of parts are to be joined, and
/// as many as a multiprocessor has registers for.
template <class S>
inline constexpr int kColumnThreads = sizeof(S) == 2 ? 768 : 1024;

/// Writes what is not read soon: the rest of the inputs may stay in the cache.
template <class S>
__device__ __forceinline__ void store_past(S* to, bool whole, std::int64_t left,
                                           const Pack<S, kPackOf<S>>& pack) {
  if (whole && left >= kPackOf<S>)
    __stcs(reinterpret_cast<uint4*>(to), std::bit_cast<uint4>(pack));
  else
    store_part(to, false, left, pack);
}

/// Part y of the rows of a tile of columns. `parts` has for each part a row of statistics.
template <class Op, class S>
__global__ void __launch_bounds__(kColumnThreads<S>)
    softmax_columns(S* out, const Inputs<Op, S> in, const Loop<kOperands<Op>> outer,
                    const ColumnAxes<Op> c, typename Op::Stat* parts, Step step, bool log) {
  using C = Computed<S>;
  using Stat = typename Op::Stat;
  constexpr int kN = kPackOf<S>, kInputs = Op::kInputs;
  __shared__ Stat shared[kBlockThreads * kN];  // more threads a tile are fewer of a column
  __shared__ Stat joined[kTileThreads * kN];
  const int t = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = t / c.threads, lanes = threads / c.threads, place = t % c.threads;
  const std::uint32_t batch = blockIdx.x / c.tiles;
  const std::int64_t column =
      (static_cast<std::int64_t>(blockIdx.x % c.tiles) * c.threads + place) * kN;
  const std::int64_t left = c.width - column;
  std::int64_t offset[kOperands<Op>] = {};
  outer.locate(batch, offset);
  const std::int64_t begin = blockIdx.y * c.piece;
  const std::int64_t end = left <= 0 ? begin : c.rows - begin < c.piece ? c.rows : begin + c.piece;

  // visit_rows(first, elements) for the rows first, first + lanes, .. of this thread. The second
  // time the last rows come first, which may still be in a cache.
  constexpr int kFlight = kInFlight<Op>;
  const std::int64_t stride = kFlight * lanes, top = begin + lane;
  const std::int64_t turns = top < end ? (end - top + stride - 1) / stride : 0;
  bool packs = left >= kN;
#pragma unroll
  for (int i = 0; i < kInputs; ++i) packs &= c.whole[i + 1];
  const auto over_rows = [&](bool back, auto&& visit_rows) {
#pragma unroll 1
    for (std::int64_t turn = 0; turn < turns; ++turn) {
      const std::int64_t first = top + (back ? turns - 1 - turn : turn) * stride;
      uint4 loaded[kFlight][kInputs];
      const auto load = [&](auto&& one) {
#pragma unroll
        for (int j = 0; j < kFlight; ++j)
#pragma unroll
          for (int i = 0; i < kInputs; ++i)
            loaded[j][i] = std::bit_cast<uint4>(
                one(in.at[i] + offset[i + 1] + column + (first + j * lanes) * c.stride[i + 1], i,
                    first + j * lanes < end));
      };
      // Not a branch for each load, which would have the compiler wait for one before the next.
      if (packs && first + (kFlight - 1) * lanes < end)
        load([](const S* from, int, bool) { return load_whole<S, kN>(from); });
      else
        load([&](const S* from, int i, bool there) {
          return load_part(from, c.whole[i + 1], there ? left : 0, Op::fill());
        });
      visit_rows(first, loaded);
    }
  };

  Stat stat[kN];
#pragma unroll
  for (int k = 0; k < kN; ++k) stat[k] = Op::identity();
  Stat* const mine = parts + static_cast<std::int64_t>(batch) * gridDim.y * c.width + column;
  if (step == Step::Results) {
    for (unsigned part = lane; part < gridDim.y; part += lanes)
#pragma unroll
      for (int k = 0; k < kN; ++k)
        if (k < left) stat[k] = Op::join(stat[k], mine[part * c.width + k]);
  } else {
    over_rows(false, [&](std::int64_t, const uint4(&loaded)[kFlight][kInputs]) {
#pragma unroll
      for (int k = 0; k < kN; ++k) {
        C x[kInputs][kFlight];
#pragma unroll
        for (int i = 0; i < kInputs; ++i)
#pragma unroll
          for (int j = 0; j < kFlight; ++j) x[i][j] = element<S>(loaded[j][i], k);
        Op::add(stat[k], x, log);
      }
    });
  }
  // A warp joins what the warps have of a column.
  const int warp = t / 32, warps = threads / 32, width = c.threads * kN;
#pragma unroll
  for (int k = 0; k < kN; ++k) {
    stat[k] = Op::join_warp(stat[k], c.threads, 32);
    if (t % 32 < c.threads) shared[warp * width + place * kN + k] = stat[k];
  }
  __syncthreads();
  for (int i = warp; i < width; i += warps) {
    Stat total = t % 32 < warps ? shared[t % 32 * width + i] : Op::identity();
    total = Op::join_warp(total, 1, 32);
    if (t % 32 > 0) continue;
    if (step != Step::Statistics) {
      Op::finish(total, log);
      joined[i] = total;
    } else if (i < left + place * kN) {
      mine[blockIdx.y * c.width + i - place * kN] = total;
    }
  }
  if (step == Step::Statistics) return;
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kN; ++k) stat[k] = joined[place * kN + k];
  over_rows(true, [&](std::int64_t first, const uint4(&loaded)[kFlight][kInputs]) {
#pragma unroll
    for (int j = 0; j < kFlight; ++j) {
      const std::int64_t row = first + j * lanes;
      if (row >= end) break;
      store_past(out + offset[0] + column + row * c.stride[0], c.whole[0], left,
                 made_of<Op, S>(loaded[j], stat, log));
    }
  });
}

// ---- What is launched ----

template <class Op, class S>
Inputs<Op, S> moved(const Inputs<Op, S>& in, const std::int64_t* offsets) {
  Inputs<Op, S> to;
  for (int i = 0; i < Op::kInputs; ++i) to.at[i] = in.at[i] + offsets[i + 1];
  return to;
}

/// go(stats, step): all in one where a row is not parted, else the statistics of the parts first.
template <class Op, class Go>
void in_steps(const Context& context, std::int64_t rows, std::int64_t parts, Go&& go) {
  using Stat = typename Op::Stat;
  if (parts == 1) return go(nullptr, Step::All);
  const Scratch stats(context, static_cast<std::size_t>(rows * parts) * sizeof(Stat));
  go(stats.as<Stat>(), Step::Statistics);
  go(stats.as<Stat>(), Step::Results);
}

/// Operands of `loop` are the output and the inputs.
template <class Op, class S>
void run_rows(const Context& context, const char* name, S* out, const Inputs<Op, S>& in,
              const Iteration& loop, std::int64_t n, bool log) {
  constexpr int kN = kPackOf<S>;
  bool aligned = n % kN == 0 && is_aligned(out, kPackBytes);
  for (int i = 0; i < Op::kInputs; ++i) aligned &= is_aligned(in.at[i], kPackBytes);
  for (int d = 0; d < loop.ndim; ++d)
    for (int i = 0; i < kOperands<Op>; ++i) aligned &= loop.strides[i][d] % kN == 0;
  const std::int64_t slots = aligned ? n / kN : (n + 2 * kN - 2) / kN;
  const int multiprocessors = properties(context.index).multiprocessors;

  if (slots * kN <= kMany<Op, S> * kMostThreads) {
    const bool few = slots * kN <= kFew * 32;
    const int lanes = power_above(ceil_div(slots * kN, few ? kFew : kMany<Op, S>), kMostThreads);
    const int threads = std::max(lanes, kBlockThreads);
    constexpr int kShort = kFew / kN, kLong = kMany<Op, S> / kN;
    const auto kernel =
        aligned ? few ? &softmax_held<Op, S, kShort, true> : &softmax_held<Op, S, kLong, true>
        : few ? &softmax_held<Op, S, kShort, false>
                : &softmax_held<Op, S, kLong, false>;
    for_parts(loop, [&](const Iteration& part, const std::int64_t* offsets) {
      launch(context, name, kernel, static_cast<unsigned>(ceil_div(part.numel, threads / lanes)),
             static_cast<unsigned>(threads), 0, out + offsets[0], moved(in, offsets),
             Loop<kOperands<Op>>(part), static_cast<int>(n), lanes, log);
    });
    return;
  }

  std::int64_t parts = 1;
  if (loop.numel < multiprocessors)
    parts = std::clamp<std::int64_t>(2 * multiprocessors / loop.numel, 1,
                                     ceil_div(slots, 4 * kRowThreads));
  constexpr std::int64_t kWhole = kRowThreads * kN;
  const std::int64_t piece = parts == 1 ? n : ceil_div(ceil_div(n, parts), kWhole) * kWhole;
  parts = ceil_div(n, piece);
  // A block that leaves no room for a second one may take it all.
  const std::int64_t room = properties(context.index).shared_bytes - 2048;
  const std::int64_t fit = room / kPackBytes / Op::kInputs;
  const int held = parts > 1 ? 0 : static_cast<int>(std::min(slots, fit));
  const std::size_t shared = static_cast<std::size_t>(held) * Op::kInputs * kPackBytes;
  const auto kernel = &softmax_long<Op, S>;
  if (shared > kUsualShared) allow_shared(name, kernel, room);
  const auto go = [&](typename Op::Stat* stats, Step step) {
    std::int64_t done = 0;
    for_parts(loop, [&](const Iteration& part, const std::int64_t* offsets) {
      launch(context, name, kernel,
             dim3(static_cast<unsigned>(part.numel), static_cast<unsigned>(parts)), kRowThreads,
             shared, out + offsets[0], moved(in, offsets), Loop<kOperands<Op>>(part), n, piece,
             held, aligned, stats + done * parts, step, log);
      done += part.numel;
    });
  };
  in_steps<Op>(context, loop.numel, parts, go);
}

/// The last axis of `loop` is the columns'; `strides` are those of the operands along the axis of
/// n.
template <class Op, class S>
void run_columns(const Context& context, const char* name, S* out, const Inputs<Op, S>& in,
                 const Iteration& loop, std::int64_t n, const std::int64_t* strides, bool log) {
  constexpr int kN = kPackOf<S>;
  const int inner = loop.ndim - 1;
  ColumnAxes<Op> c{};
  c.rows = n;
  const std::int64_t packs = ceil_div(loop.sizes[inner], kN);
  c.threads = power_above(packs, 8);
  while (c.threads < kTileThreads && c.threads < packs &&
         n * c.threads < kInFlight<Op> * kBlockThreads)
    c.threads *= 2;
  const int threads =
      n * c.threads < 4 * kInFlight<Op> * kColumnThreads<S> ? kBlockThreads : kColumnThreads<S>;
  const std::int64_t lanes = threads / c.threads;
  const std::int64_t tiles = ceil_div(packs, c.threads),
                     blocks = loop.numel / loop.sizes[inner] * tiles;
  const std::int64_t most = n / (2 * kInFlight<Op> * lanes);
  std::int64_t parts = parts_that_fill(
      blocks, properties(context.index).multiprocessors * (kColumnThreads<S> / threads),
      std::clamp<std::int64_t>(most, 1, kMostParts));
  c.piece = ceil_div(n, parts);
  parts = ceil_div(n, c.piece);
  for (int i = 0; i < kOperands<Op>; ++i) {
    c.stride[i] = strides[i];
    c.whole[i] = strides[i] % kN == 0;
    for (int d = 0; d < inner; ++d) c.whole[i] &= loop.strides[i][d] % kN == 0;
  }
  const auto go = [&](typename Op::Stat* stats, Step step) {
    std::int64_t done = 0;
    for_parts(loop, [&](const Iteration& part, const std::int64_t* offsets) {
      ColumnAxes<Op> here = c;
      const Inputs<Op, S> from = moved(in, offsets);
      S* const to = out + offsets[0];
      here.width = part.sizes[inner];
      here.tiles = static_cast<std::uint32_t>(ceil_div(here.width, kN * c.threads));
      here.whole[0] &= is_aligned(to, kPackBytes);
      for (int i = 0; i < Op::kInputs; ++i) here.whole[i + 1] &= is_aligned(from.at[i], kPackBytes);
      const Iteration outer = without(part, inner);
      launch(context, name, &softmax_columns<Op, S>,
             dim3(static_cast<unsigned>(outer.numel * here.tiles), static_cast<unsigned>(parts)),
             static_cast<unsigned>(threads), 0, to, from, Loop<kOperands<Op>>(outer), here,
             stats + done * parts, step, log);
      done += part.numel;
    });
  };
  in_steps<Op>(context, loop.numel, parts, go);
}

/// The loop over all axes but one, of operands whose shape is that of the first, in its order.
Iteration loop_beside(const Tensor* const* operands, int count, int axis) {
  IntList shape(operands[0]->shape()), strides[3];
  shape[static_cast<std::size_t>(axis)] = 1;
  for (int i = 0; i < count; ++i) strides[i] = operands[i]->strides();
  return Iteration(Shape(shape), std::span<const IntList>(strides, static_cast<std::size_t>(count)),
                   false);
}

/// True where kernels take the inputs as they lie in memory.
bool fits(const Iteration& loop, const Tensor* const* operands, int count, int axis, bool rows) {
  for (int i = 1; i < count; ++i) {
    const std::int64_t along = operands[i]->strides()[static_cast<std::size_t>(axis)];
    if (rows ? along != 1 && operands[i]->shape().dim(axis) > 1
             : loop.strides[i][loop.ndim - 1] != 1)
      return false;
  }
  return true;
}

template <template <class> class Kind>
void run(const char* name, const Tensor& out, Tensor* inputs, int axis, bool log) {
  constexpr int kInputs = Kind<float>::kInputs, kCount = kInputs + 1;
  if (out.numel() == 0) return;
  const Tensor* operands[kCount] = {&out};
  for (int i = 0; i < kInputs; ++i) {
    if (inputs[i].type() != out.type()) inputs[i] = inputs[i].astype(out.type());
    operands[i + 1] = &inputs[i];
  }
  std::int64_t inner = 1;
  for (int d = axis + 1; d < out.ndim(); ++d) inner *= out.shape().dim(d);
  const bool rows = inner == 1;
  Iteration loop = loop_beside(operands, kCount, axis);
  if (!fits(loop, operands, kCount, axis, rows)) {
    for (int i = 0; i < kInputs; ++i) inputs[i] = inputs[i].contiguous();
    loop = loop_beside(operands, kCount, axis);
  }
  const Context context(out.device());
  visit_floating(out.type(), [&](auto tag) {
    using S = typename decltype(tag)::Type;
    using Op = Kind<S>;
    Inputs<Op, S> in;
    std::int64_t along[kCount];
    for (int i = 0; i < kCount; ++i) {
      along[i] = operands[i]->strides()[static_cast<std::size_t>(axis)];
      if (i > 0) in.at[i - 1] = static_cast<const S*>(operands[i]->data());
    }
    auto* const to = static_cast<S*>(out.data());
    const std::int64_t n = out.shape().dim(axis);
    if (rows)
      run_rows<Op, S>(context, name, to, in, loop, n, log);
    else
      run_columns<Op, S>(context, name, to, in, loop, n, along, log);
  });
}

}  // namespace

void softmax(bool log, const Tensor& out, const Tensor& x, int axis) {
  Tensor inputs[1] = {x};
  run<Forward>(log ? "log_softmax" : "softmax", out, inputs, axis, log);
}

void softmax_gradient(bool log, const Tensor& out, const Tensor& y, const Tensor& g, int axis) {
  Tensor inputs[2] = {y, g};
  run<Backward>(log ? "log_softmax" : "softmax", out, inputs, axis, log);
}

}  // namespace lmp::cuda
