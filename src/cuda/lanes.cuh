#pragma once

#include <bit>
#include <cstdint>
#include <type_traits>

#include "cuda/launch.cuh"
#include "cuda/types.cuh"

/// Threads of a block that work on one result together.
namespace lmp::cuda {

/// Threads in a block of the kernels here.
inline constexpr int kBlockThreads = 256;
/// Most parts that work is cut into, a grid's extent in y.
inline constexpr std::int64_t kMostParts = 65535;
/// Bytes that a thread moves at a time.
inline constexpr int kPackBytes = 16;

/// Elements of S in a pack.
template <class S>
inline constexpr int kPackOf = sizeof(S) < kPackBytes ? kPackBytes / static_cast<int>(sizeof(S))
                                                      : 1;

/// The smallest power of two that is at least n, at most `most`.
inline int power_above(std::int64_t n, int most) {
  return n >= most ? most : static_cast<int>(std::bit_ceil(static_cast<std::uint64_t>(n)));
}

/// The value of the lane whose number differs in the bits `by`. All lanes of a warp call it.
template <class T>
__device__ __forceinline__ T shuffled(T v, int by) {
  if constexpr (sizeof(T) < 4)
    return static_cast<T>(__shfl_xor_sync(~0U, static_cast<int>(v), by));
  else if constexpr (std::is_same_v<T, std::int64_t>)
    return __shfl_xor_sync(~0U, static_cast<long long>(v), by);
  else
    return __shfl_xor_sync(~0U, v, by);
}

/// join() over the values of groups of `lanes` neighbouring threads, a power of two that is the
/// same for all threads of the block, all of which call it; every lane gets the result. `shared`
/// has room for a value of each warp. The order is fixed.
template <class Join, class A>
__device__ __forceinline__ A join_lanes(A v, int lanes, A* shared) {
  const int within = lanes < 32 ? lanes : 32;
  for (int by = 1; by < within; by *= 2) v = Join::join(v, shuffled(v, by));
  if (lanes > 32) {
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
    __syncthreads();
    const int warps = lanes / 32, first = (static_cast<int>(threadIdx.x) & -lanes) / 32;
    v = shared[first + (static_cast<int>(threadIdx.x) & (warps - 1))];
    for (int by = 1; by < warps; by *= 2) v = Join::join(v, shuffled(v, by));
  }
  return v;
}

/// Adds up each of v over groups of kSize neighbouring threads, a power of two, or for more than a
/// warp the whole block; all threads of the block call it, and all get the sums. Fixed order.
template <int kSize, int kCount, class T>
__device__ __forceinline__ void sum_group(T (&v)[kCount]) {
#pragma unroll
  for (int by = 1; by < kSize && by < 32; by *= 2)
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] += __shfl_xor_sync(~0U, v[i], by);
  if constexpr (kSize > 32) {
    constexpr int kWarps = kSize / 32;
    __shared__ T parts[kCount][kWarps];
    __syncthreads();  // what another call has left there was read
    if (threadIdx.x % 32 == 0)
#pragma unroll
      for (int i = 0; i < kCount; ++i) parts[i][threadIdx.x / 32] = v[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      v[i] = parts[i][0];
      for (int w = 1; w < kWarps; ++w) v[i] += parts[i][w];
    }
  }
}

template <int kSize, class T>
__device__ __forceinline__ T sum_group(T v) {
  T all[1] = {v};
  sum_group<kSize>(all);
  return all[0];
}

/// The same for the largest, which is not NaN unless all are.
template <int kSize, class T>
__device__ __forceinline__ T max_group(T v) {
#pragma unroll
  for (int by = 1; by < kSize && by < 32; by *= 2) v = fmax(v, __shfl_xor_sync(~0U, v, by));
  if constexpr (kSize > 32) {
    constexpr int kWarps = kSize / 32;
    __shared__ T parts[kWarps];
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    v = parts[0];
    for (int w = 1; w < kWarps; ++w) v = fmax(v, parts[w]);
  }
  return v;
}

/// join() over the values of threads t, t + width, .. of a block of kBlockThreads, where `width` is
/// a power of two; thread t < width gets the result. `shared` has room for a value of each thread.
template <class Join, class A>
__device__ __forceinline__ A join_columns(A v, int width, A* shared) {
  if (width == kBlockThreads) return v;
  for (int by = width; by < 32; by *= 2) v = Join::join(v, shuffled(v, by));
  const int t = static_cast<int>(threadIdx.x), step = width < 32 ? 32 : width;
  __syncthreads();
  shared[t] = v;
  __syncthreads();
  if (t < width)
    for (int i = t + step; i < kBlockThreads; i += step) v = Join::join(v, shared[i]);
  return v;
}

/// The bits of a pack at an aligned address. Where branches load it in different ways, it is to be
/// taken apart after them: the compiler would wait for it in a branch that does.
__device__ __forceinline__ uint4 load_bits(const void* from) {
  return __ldg(static_cast<const uint4*>(from));
}
/// A pack of kPackBytes at an aligned address, moved by one instruction, which the compiler does
/// not take apart where another branch moves elements.
template <class S, int kN>
__device__ __forceinline__ Pack<S, kN> load_whole(const S* from) {
  if constexpr (sizeof(Pack<S, kN>) == kPackBytes)
    return std::bit_cast<Pack<S, kN>>(load_bits(from));
  else
    return *reinterpret_cast<const Pack<S, kN>*>(from);
}
__device__ __forceinline__ void store_bits(void* to, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
template <class S, int kN>
__device__ __forceinline__ void store_whole(S* to, const Pack<S, kN>& pack) {
  if constexpr (sizeof(pack) == kPackBytes)
    store_bits(to, std::bit_cast<uint4>(pack));
  else
    *reinterpret_cast<Pack<S, kN>*>(to) = pack;
}

/// A pack of the same elements.
template <class S>
__device__ __forceinline__ uint4 filled(S v) {
  Pack<S, kPackOf<S>> pack;
#pragma unroll
  for (int k = 0; k < kPackOf<S>; ++k) pack.at[k] = v;
  return std::bit_cast<uint4>(pack);
}

/// The pack at `from`, of which `left` elements are to be read; the others are `fill`. `whole` says
/// that packs are aligned.
template <class S, int kN = kPackOf<S>>
__device__ __forceinline__ Pack<S, kN> load_part(const S* from, bool whole, std::int64_t left,
                                                 S fill) {
  if (whole && left >= kN) return load_whole<S, kN>(from);
  Pack<S, kN> pack;
#pragma unroll
  for (int k = 0; k < kN; ++k) pack.at[k] = k < left ? from[k] : fill;
  return pack;
}
template <class S, int kN>
__device__ __forceinline__ void store_part(S* to, bool whole, std::int64_t left,
                                           const Pack<S, kN>& pack) {
  if (whole && left >= kN) return store_whole(to, pack);
#pragma unroll
  for (int k = 0; k < kN; ++k)
    if (k < left) to[k] = pack.at[k];
}

__device__ __forceinline__ bool aligned_for_pack(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % kPackBytes == 0;
}

/// How many parts the work of `blocks` blocks is cut into, at most `most`, where the machine runs
/// `resident` blocks at a time: about the fewest that leave none of it idle for long.
inline std::int64_t parts_that_fill(std::int64_t blocks, std::int64_t resident, std::int64_t most) {
  const std::int64_t first = std::clamp<std::int64_t>(resident / blocks, 1, most);
  std::int64_t best = first;
  double shortest = 0;
  for (std::int64_t parts = first; parts < first + 8 && parts <= most; ++parts) {
    const double rounds = static_cast<double>(ceil_div(blocks * parts, resident));
    const double time = rounds / static_cast<double>(parts);
    if (parts > first && time > 0.95 * shortest) continue;
    best = parts;
    shortest = time;
  }
  return best;
}

/// An Iteration made by hand: axes in the order that they are walked, which is not changed.
inline tensor::detail::Iteration empty_loop() {
  return tensor::detail::Iteration(tensor::Shape(), {}, false);
}
/// The loop without one of its axes.
inline tensor::detail::Iteration without(const tensor::detail::Iteration& loop, int axis) {
  tensor::detail::Iteration rest = empty_loop();
  for (int d = 0; d < loop.ndim; ++d) {
    if (d == axis) continue;
    rest.sizes[rest.ndim] = loop.sizes[d];
    for (int i = 0; i < tensor::detail::kMaxOperands; ++i)
      rest.strides[i][rest.ndim] = loop.strides[i][d];
    ++rest.ndim;
  }
  rest.numel = loop.numel / loop.sizes[axis];
  return rest;
}

/// f(std::integral_constant<int, n>()) where n is whether packs fit: kPackOf<S> or 1.
template <class S, class F>
void with_pack(bool fits, F&& f) {
  if (fits)
    f(std::integral_constant<int, kPackOf<S>>());
  else
    f(std::integral_constant<int, 1>());
}

}  // namespace lmp::cuda
