#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cuda/runtime.hpp"
#include "tensor/iteration.hpp"

/// Launching kernels, and strided loops in them.
namespace lmp::cuda {

/// Runs kernel<<<grid, block, shared>>>(arguments...) on the context's stream, in the one call that
/// also says how it went.
template <class... P>
void launch(const Context& context, const char* op, void (*kernel)(P...), dim3 grid, dim3 block,
            std::size_t shared, const std::type_identity_t<P>&... arguments) {
  void* at[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  const cudaError_t status = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block,
                                              at, shared, context.stream);
  count_launch();
  if (status != cudaSuccess) [[unlikely]]
    check(status, op);
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Threads of a block where no kernel asks for another number.
inline constexpr int kThreads = 256;
/// Blocks of that many threads, each of which takes `each` of n elements.
constexpr unsigned blocks_for(std::int64_t n, int each = 1) {
  return static_cast<unsigned>(ceil_div(n, std::int64_t{kThreads} * each));
}

/// Dynamic shared memory that any kernel may have. More is to be allowed, up to `bytes`.
inline constexpr int kUsualShared = 32 << 10;
template <class... P>
void allow_shared(const char* op, void (*kernel)(P...), std::int64_t bytes) {
  check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        op);
}

/// Division of 32-bit numbers below 2^31 by one that is known before the loop: a multiplication and
/// a shift (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI
/// 1994).
struct Divider {
  std::uint32_t divisor = 1, factor = 1, shift = 0;
  Divider() = default;
  explicit Divider(std::uint32_t d) : divisor(d) {
    while ((std::uint64_t{1} << shift) < d) ++shift;
    factor = static_cast<std::uint32_t>(
        ((std::uint64_t{1} << 32) * ((std::uint64_t{1} << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ std::uint32_t divide(std::uint32_t n) const {
    return (__umulhi(n, factor) + n) >> shift;
  }
};

/// The loop of an Iteration of less than 2^31 elements over the first N of its operands, in a
/// kernel.
template <int N>
struct Loop {
  int ndim = 0;
  std::uint32_t numel = 0;
  Divider sizes[tensor::kMaxDims];
  std::int64_t strides[N][tensor::kMaxDims];  // in elements

  explicit Loop(const tensor::detail::Iteration& loop, int operands = N)
      : ndim(loop.ndim), numel(static_cast<std::uint32_t>(loop.numel)) {
    for (int i = 0; i < N; ++i) strides[i][0] = 0;
    for (int d = 0; d < ndim; ++d) {
      sizes[d] = Divider(static_cast<std::uint32_t>(loop.sizes[d]));
      for (int i = 0; i < operands; ++i) strides[i][d] = loop.strides[i][d];
    }
  }
  /// Adds to offset[i] where element `at` of operand i lies.
  __device__ __forceinline__ void locate(std::uint32_t at, std::int64_t (&offset)[N]) const {
#pragma unroll 1
    for (int d = ndim - 1; d > 0; --d) {
      const std::uint32_t outer = sizes[d].divide(at);
      const std::int64_t index = at - outer * sizes[d].divisor;
      at = outer;
#pragma unroll
      for (int i = 0; i < N; ++i) offset[i] += index * strides[i][d];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) offset[i] += std::int64_t{at} * strides[i][0];
  }
};

/// Elements that one launch takes at most, so that kernels count in 32 bits.
inline constexpr std::int64_t kLaunchElements = std::int64_t{1} << 30;

/// f(part, offsets) for parts of an Iteration of at most kLaunchElements each; offsets[i] is where
/// operand i's part begins, in elements.
template <class F>
void for_parts(const tensor::detail::Iteration& loop, F&& f) {
  const auto recurse = [&](auto& self, const tensor::detail::Iteration& part,
                           const std::int64_t* offsets) -> void {
    if (part.numel <= kLaunchElements) return f(part, offsets);
    int widest = 0;
    for (int d = 1; d < part.ndim; ++d)
      if (part.sizes[d] > part.sizes[widest]) widest = d;
    tensor::detail::Iteration half = part;
    half.sizes[widest] = part.sizes[widest] / 2;
    half.numel = part.numel / part.sizes[widest] * half.sizes[widest];
    std::int64_t moved[tensor::detail::kMaxOperands];
    for (int i = 0; i < tensor::detail::kMaxOperands; ++i)
      moved[i] = offsets[i] + half.sizes[widest] * part.strides[i][widest];
    self(self, half, offsets);
    half.sizes[widest] = part.sizes[widest] - half.sizes[widest];
    half.numel = part.numel - part.numel / part.sizes[widest] * (part.sizes[widest] / 2);
    self(self, half, moved);
  };
  const std::int64_t none[tensor::detail::kMaxOperands] = {};
  if (loop.numel > 0) recurse(recurse, loop, none);
}

/// True where a pack of `bytes` may be read at `pointer`.
inline bool is_aligned(const void* pointer, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

}  // namespace lmp::cuda
