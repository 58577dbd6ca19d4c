#pragma once

#include "cuda/launch.cuh"
#include "cuda/types.cuh"

/// Threads of a block that work on one row together.
namespace lmp::cuda {

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

/// Elements of S in the 16 bytes that a thread moves at a time.
template <class S>
inline constexpr int kPackOf = 16 / static_cast<int>(sizeof(S));

/// f(std::integral_constant<int, n>()) where n is whether packs fit: kPackOf<S> or 1.
template <class S, class F>
void with_pack(bool fits, F&& f) {
  if (fits)
    f(std::integral_constant<int, kPackOf<S>>());
  else
    f(std::integral_constant<int, 1>());
}

}  // namespace lmp::cuda
