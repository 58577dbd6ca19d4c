#include "cuda/backend.hpp"
#include "cuda/lanes.cuh"
#include "tensor/access.hpp"

namespace lmp::cuda {

using tensor::IntList;
using tensor::Shape;
using tensor::detail::Iteration;

namespace {

// Note [Running sums]
// Rows go to groups of threads, which take neighbouring elements each, a tile at a time; along any
// other axis than the last a thread goes down a column. Where that leaves the machine idle, rows
// are cut into parts, whose sums a first launch leaves for a second one. A running float sum would
// lose what a pairwise one keeps, so it runs in double; integers run in Int64, which wraps.

/// Elements of any integer type or Bool.
struct Whole {};

template <class S>
struct Scanned {
  using Out = S;
  using Sum = double;
};
template <>
struct Scanned<Whole> {
  using Out = std::int64_t;
  using Sum = std::int64_t;
};

template <class S>
using SumOf = typename Scanned<S>::Sum;

template <class T>
struct Added {
  __device__ static T join(T a, T b) {
    if constexpr (std::is_same_v<T, double>)
      return a + b;
    else
      return static_cast<T>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
  }
};
template <class T>
__device__ __forceinline__ T plus(T a, T b) {
  return Added<T>::join(a, b);
}

/// Where elements are, and of what type.
struct Elements {
  const void* data;
  DataType type;
  template <class S>
  __device__ __forceinline__ SumOf<S> at(std::int64_t i) const {
    if constexpr (std::is_same_v<S, Whole>)
      return load_as<std::int64_t>(data, type, i);
    else
      return convert<double>(static_cast<const S*>(data)[i]);
  }
};

template <class T>
__device__ __forceinline__ T shuffled_up(T v, int by, int width) {
  if constexpr (std::is_same_v<T, double>)
    return __shfl_up_sync(~0U, v, by, width);
  else
    return __shfl_up_sync(~0U, static_cast<long long>(v), by, width);
}

/// What a launch does of the work.
enum class Step { All, Sums, Results };

/// Elements of a row that a thread takes at a time.
template <class S>
inline constexpr int kItems = std::is_same_v<S, Whole> ? 4 : 16 / sizeof(typename Scanned<S>::Out);

/// Rows are n elements, `along` apart in x; `lanes` threads share a part of one. `sums` has a sum
/// for each part, and the operands of `rows` are the output and x.
template <class S>
__global__ void __launch_bounds__(kBlockThreads)
    scan_rows(typename Scanned<S>::Out* out, const Elements x, const Loop<2> rows, std::int64_t n,
              std::int64_t along, std::int64_t piece, int lanes, SumOf<S>* sums, Step step) {
  using T = SumOf<S>;
  using Out = typename Scanned<S>::Out;
  constexpr int kN = kItems<S>, kWarps = kBlockThreads / 32;
  __shared__ T shared[2][kWarps];
  __shared__ T joined[kWarps];
  const int t = static_cast<int>(threadIdx.x), lane = t & (lanes - 1);
  const std::uint32_t row = blockIdx.x * (kBlockThreads / lanes) + t / lanes;
  std::int64_t offset[2] = {};
  if (row < rows.numel) rows.locate(row, offset);
  const std::int64_t begin = blockIdx.y * piece;
  const std::int64_t count = row >= rows.numel ? 0 : n - begin < piece ? n - begin : piece;
  const std::int64_t source = offset[1] + begin * along;
  Out* const to = out + offset[0] + begin;

  const auto load = [&](std::int64_t first, T(&v)[kN]) {
    if constexpr (!std::is_same_v<S, Whole>) {
      const S* const from = static_cast<const S*>(x.data) + source + first;
      if (along == 1 && first + kN <= count && aligned_for_pack(from)) {
        const auto pack = *reinterpret_cast<const Pack<S, kN>*>(from);
#pragma unroll
        for (int k = 0; k < kN; ++k) v[k] = convert<double>(pack.at[k]);
        return;
      }
    }
#pragma unroll
    for (int k = 0; k < kN; ++k)
      v[k] = first + k < count ? x.at<S>(source + (first + k) * along) : T{0};
  };

  // All threads go through as many tiles, those of rows that are not there too.
  const std::int64_t most = n - begin < piece ? n - begin : piece, tile = lanes * kN;
  SumOf<S>* const mine = sums + static_cast<std::int64_t>(row) * gridDim.y;
  if (step == Step::Sums) {
    T total{0};
    for (std::int64_t first = lane * kN; first < count; first += tile) {
      T v[kN];
      load(first, v);
#pragma unroll
      for (int k = 0; k < kN; ++k) total = plus(total, v[k]);
    }
    total = join_lanes<Added<T>>(total, lanes, joined);
    if (lane == 0 && row < rows.numel) mine[blockIdx.y] = total;
    return;
  }
  T carry{0};
  if (step == Step::Results) {
    if (row < rows.numel)
      for (unsigned part = lane; part < blockIdx.y; part += lanes) carry = plus(carry, mine[part]);
    carry = join_lanes<Added<T>>(carry, lanes, joined);
  }

  T next[kN];
  load(lane * kN, next);
  int turn = 0;
  for (std::int64_t base = 0; base < most; base += tile, turn ^= 1) {
    const std::int64_t first = base + lane * kN;
    T v[kN];
#pragma unroll
    for (int k = 0; k < kN; ++k) v[k] = next[k];
    if (base + tile < most) load(first + tile, next);
#pragma unroll
    for (int k = 1; k < kN; ++k) v[k] = plus(v[k - 1], v[k]);
    const int width = lanes < 32 ? lanes : 32;
    T before = v[kN - 1];  // of this thread and those before it in the warp
    for (int by = 1; by < width; by *= 2) {
      const T other = shuffled_up(before, by, width);
      if ((lane & (width - 1)) >= by) before = plus(other, before);
    }
    T total;
    if (lanes <= 32) {
      total = before;  // of the last lane
      before = shuffled_up(before, 1, width);
      if (lane == 0) before = T{0};
      if constexpr (std::is_same_v<T, double>)
        total = __shfl_sync(~0U, total, width - 1, width);
      else
        total = __shfl_sync(~0U, static_cast<long long>(total), width - 1, width);
    } else {
      if (t % 32 == 31) shared[turn][t / 32] = before;
      before = shuffled_up(before, 1, 32);
      if (t % 32 == 0) before = T{0};
      __syncthreads();  // the next tile's sums go to the other half
      T earlier{0};
      total = T{0};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        if (w == t / 32) earlier = total;
        total = plus(total, shared[turn][w]);
      }
      before = plus(earlier, before);
    }
    before = plus(carry, before);
    carry = plus(carry, total);
    Pack<Out, kN> made;
#pragma unroll
    for (int k = 0; k < kN; ++k) made.at[k] = convert<Out>(plus(before, v[k]));
    if (first < count) {
      constexpr bool kPacks = sizeof(made) == kPackBytes;
      store_part(to + first, kPacks && aligned_for_pack(to + first), count - first, made);
    }
  }
}

/// Strides along the axis, and how it is cut.
struct ScanAxis {
  std::int64_t n, out_stride, stride, piece;
};
inline constexpr int kRowsInFlight = 8;

template <class S>
__global__ void __launch_bounds__(kBlockThreads)
    scan_columns(typename Scanned<S>::Out* out, const Elements x, const Loop<2> columns,
                 const ScanAxis axis, SumOf<S>* sums, Step step) {
  using T = SumOf<S>;
  using Out = typename Scanned<S>::Out;
  const std::uint32_t column = blockIdx.x * kBlockThreads + threadIdx.x;
  if (column >= columns.numel) return;
  std::int64_t offset[2] = {};
  columns.locate(column, offset);
  const std::int64_t begin = blockIdx.y * axis.piece;
  const std::int64_t end = axis.n - begin < axis.piece ? axis.n : begin + axis.piece;
  T total{0};
  if (step == Step::Results)
    for (unsigned part = 0; part < blockIdx.y; ++part)
      total = plus(total, sums[static_cast<std::int64_t>(part) * columns.numel + column]);
  for (std::int64_t row = begin; row < end; row += kRowsInFlight) {
    T v[kRowsInFlight];
#pragma unroll
    for (int j = 0; j < kRowsInFlight; ++j)
      v[j] = row + j < end ? x.at<S>(offset[1] + (row + j) * axis.stride) : T{0};
#pragma unroll
    for (int j = 0; j < kRowsInFlight; ++j) {
      total = plus(total, v[j]);
      if (step != Step::Sums && row + j < end)
        out[offset[0] + (row + j) * axis.out_stride] = convert<Out>(total);
    }
  }
  if (step == Step::Sums)
    sums[static_cast<std::int64_t>(blockIdx.y) * columns.numel + column] = total;
}

/// Runs go(sums, step) once, or for rows in parts for their sums and then for the results.
template <class T, class Go>
void in_steps(const Context& context, std::int64_t rows, std::int64_t parts, Go&& go) {
  if (parts == 1) return go(static_cast<T*>(nullptr), Step::All);
  const Scratch sums(context, static_cast<std::size_t>(rows * parts) * sizeof(T));
  go(sums.as<T>(), Step::Sums);
  go(sums.as<T>(), Step::Results);
}

template <class S>
void run_cumsum(const Tensor& out, const Tensor& x, const Iteration& loop, int axis) {
  using T = SumOf<S>;
  const Context context(out.device());
  const auto a = static_cast<std::size_t>(axis);
  auto* const to = static_cast<typename Scanned<S>::Out*>(out.data());
  const std::int64_t size = static_cast<std::int64_t>(tensor::size_of(x.type()));
  const std::int64_t n = x.shape().dim(axis), along = x.strides()[a];
  const std::int64_t multiprocessors = properties(context.index).multiprocessors;
  const auto elements = [&](const std::int64_t* offsets) {
    return Elements{static_cast<const std::byte*>(x.data()) + offsets[1] * size, x.type()};
  };

  if (out.strides()[a] == 1 || n == 1) {
    constexpr int kN = kItems<S>;
    int lanes = power_above(ceil_div(n, kN), kBlockThreads);
    if (lanes > 32) lanes = loop.numel >= 32 * multiprocessors && n <= 4096 ? 32 : kBlockThreads;
    const std::int64_t each = kBlockThreads / lanes, tile = std::int64_t{kBlockThreads} * kN;
    std::int64_t parts = 1;
    if (lanes == kBlockThreads)
      parts = std::clamp<std::int64_t>(multiprocessors * 4 / loop.numel, 1, ceil_div(n, 8 * tile));
    const std::int64_t piece = parts == 1 ? n : ceil_div(ceil_div(n, parts), tile) * tile;
    parts = ceil_div(n, piece);
    in_steps<T>(context, loop.numel, parts, [&](T* sums, Step step) {
      std::int64_t done = 0;
      for_parts(loop, [&](const Iteration& part, const std::int64_t* offsets) {
        launch(
            context, "cumsum", &scan_rows<S>,
            dim3(static_cast<unsigned>(ceil_div(part.numel, each)), static_cast<unsigned>(parts)),
            kBlockThreads, 0, to + offsets[0], elements(offsets), Loop<2>(part), n, along, piece,
            lanes, sums + done * parts, step);
        done += part.numel;
      });
    });
    return;
  }
  ScanAxis cut{n, out.strides()[a], along, n};
  std::int64_t parts = std::clamp<std::int64_t>(multiprocessors * 1024 / loop.numel, 1,
                                                ceil_div(n, 8 * kRowsInFlight));
  parts = std::min<std::int64_t>(parts, 128);
  cut.piece = ceil_div(n, parts);
  parts = ceil_div(n, cut.piece);
  in_steps<T>(context, loop.numel, parts, [&](T* sums, Step step) {
    std::int64_t done = 0;
    for_parts(loop, [&](const Iteration& part, const std::int64_t* offsets) {
      launch(context, "cumsum", &scan_columns<S>,
             dim3(static_cast<unsigned>(ceil_div(part.numel, kBlockThreads)),
                  static_cast<unsigned>(parts)),
             kBlockThreads, 0, to + offsets[0], elements(offsets), Loop<2>(part), cut,
             sums + done * parts, step);
      done += part.numel;
    });
  });
}

}  // namespace

void cumsum(const Tensor& out, const Tensor& x, int axis) {
  if (x.numel() == 0) return;
  IntList shape(x.shape());
  shape[static_cast<std::size_t>(axis)] = 1;
  const IntList strides[2] = {out.strides(), x.strides()};
  const Iteration loop(Shape(shape), strides, false);
  if (!tensor::is_floating(x.type())) return run_cumsum<Whole>(out, x, loop, axis);
  visit_floating(x.type(),
                 [&](auto tag) { run_cumsum<typename decltype(tag)::Type>(out, x, loop, axis); });
}

}  // namespace lmp::cuda
