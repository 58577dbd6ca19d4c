#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/matmul.hpp"
#include "cuda/types.cuh"

namespace lmp::cuda {
namespace {

constexpr int kSide = 64, kDepth = 16;  // of the tiles of c, and of a and b
constexpr int kLanes = 16, kEach = kSide / kLanes;
static_assert(kLanes * kLanes == kThreads);
constexpr int kLoads = kSide * kDepth / kThreads;

/// What products are summed in: integers wrap, so that any width will do.
template <class S>
using Sum = std::conditional_t<kIsFloating<S>, Computed<S>,
                               std::conditional_t<(sizeof(S) > 4), std::uint64_t, std::uint32_t>>;

template <class S>
__global__ void __launch_bounds__(kThreads) product(const MatmulArgs g) {
  using T = Sum<S>;
  __shared__ T a_tile[kDepth][kSide + 1], b_tile[kDepth][kSide + 1];
  const int thread = static_cast<int>(threadIdx.x);
  const int tx = thread % kLanes, ty = thread / kLanes;
  const std::int64_t col_tiles = (g.n + kSide - 1) / kSide;
  const std::int64_t row = blockIdx.x / col_tiles * kSide, col = blockIdx.x % col_tiles * kSide;
  for (std::int64_t batch = blockIdx.z; batch < g.batch; batch += gridDim.z) {
    const S* const a = static_cast<const S*>(g.a) + batch * g.a_batch;
    const S* const b = static_cast<const S*>(g.b) + batch * g.b_batch;
    T total[kEach][kEach] = {};
    for (std::int64_t depth = 0; depth < g.k; depth += kDepth) {
#pragma unroll
      for (int p = 0; p < kLoads; ++p) {
        // Neighbouring threads take what is near in memory.
        const int i = thread + p * kThreads;
        const int ak = g.a_col == 1 ? i % kDepth : i / kSide;
        const int ar = g.a_col == 1 ? i / kDepth : i % kSide;
        a_tile[ak][ar] =
            row + ar < g.m && depth + ak < g.k
                ? static_cast<T>(widen(a[(row + ar) * g.a_row + (depth + ak) * g.a_col]))
                : T{};
        const int bk = g.b_col == 1 ? i / kSide : i % kDepth;
        const int bc = g.b_col == 1 ? i % kSide : i / kDepth;
        b_tile[bk][bc] =
            col + bc < g.n && depth + bk < g.k
                ? static_cast<T>(widen(b[(depth + bk) * g.b_row + (col + bc) * g.b_col]))
                : T{};
      }
      __syncthreads();
      T part[kEach][kEach] = {};
#pragma unroll 4
      for (int k = 0; k < kDepth; ++k) {
        T left[kEach], right[kEach];
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          left[i] = a_tile[k][ty + i * kLanes];
          right[i] = b_tile[k][tx + i * kLanes];
        }
#pragma unroll
        for (int i = 0; i < kEach; ++i)
#pragma unroll
          for (int j = 0; j < kEach; ++j) part[i][j] += left[i] * right[j];
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i)
#pragma unroll
        for (int j = 0; j < kEach; ++j) total[i][j] += part[i][j];
      __syncthreads();
    }
    S* const c = static_cast<S*>(g.c) + batch * g.m * g.n;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        const std::int64_t r = row + ty + i * kLanes, k = col + tx + j * kLanes;
        if (r >= g.m || k >= g.n) continue;
        S& to = c[r * g.n + k];
        to = convert<S>(g.accumulate ? static_cast<T>(total[i][j] + static_cast<T>(widen(to)))
                                     : total[i][j]);
      }
  }
}

__global__ void wait(long long nanoseconds) {
  const auto now = [] {
    long long time;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(time));
    return time;
  };
  const long long begin = now();
  while (now() - begin < nanoseconds) __nanosleep(500);
}

}  // namespace

void plain_matmul(const Context& context, const MatmulArgs& args) {
  if (args.batch == 0 || args.m == 0 || args.n == 0) return;
  const auto tiles = static_cast<unsigned>(ceil_div(args.m, kSide) * ceil_div(args.n, kSide));
  const auto batches = static_cast<unsigned>(std::min<std::int64_t>(args.batch, 65535));
  visit(args.type, [&](auto tag) {
    using S = typename decltype(tag)::Type;
    launch(context, "matmul", &product<S>, dim3(tiles, 1, batches), kThreads, 0, args);
  });
}

void hold_stream(const Context& context, int microseconds) {
  wait<<<1, 1, 0, context.stream>>>(static_cast<long long>(microseconds) * 1000);
  check(cudaGetLastError(), "matmul");
}

}  // namespace lmp::cuda
