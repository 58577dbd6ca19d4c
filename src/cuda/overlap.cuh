#pragma once

#include <atomic>
#include <bit>

#include "cuda/launch.cuh"
#include "cuda/types.cuh"

/// What goes on beside a kernel's computation: copies into shared memory, and the end of the kernel
/// before it.
namespace lmp::cuda {

/// Begins to copy a pack from global into shared memory. The thread itself sees it, without a
/// barrier, once it has waited for its group. Where the GPU cannot, or for less than 4 bytes, it is
/// copied at once.
template <class P>
__device__ __forceinline__ void begin_copy(P* to, const P* from) {
#if __CUDA_ARCH__ >= 800
  const auto at = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (sizeof(P) == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  else if constexpr (sizeof(P) >= 4)
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(sizeof(P))
                 : "memory");
  else
#endif
    *to = *from;
}

/// Makes a group of the copies that the thread has begun since the last one.
__device__ __forceinline__ void close_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Waits for all of the thread's groups but the last kLeft.
template <int kLeft>
__device__ __forceinline__ void wait_for_groups() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
#endif
}

/// Waits until all that was launched before is done. A kernel that launch_early() takes begins with
/// it.
__device__ __forceinline__ void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets a kernel that is launched early next come as blocks of this one leave, once all have said
/// so.
__device__ __forceinline__ void let_next_come() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// launch() of a kernel that may come before the one in front of it has ended, which saves the time
/// between them.
template <class... P>
void launch_early(const Context& context, const char* op, void (*kernel)(P...), dim3 grid,
                  dim3 block, std::size_t shared, const std::type_identity_t<P>&... arguments) {
  // By what the kernel was compiled for: 1 it waits, -1 it cannot, 0 not known yet.
  static std::atomic<signed char> waits[kMaxDevices];
  std::atomic<signed char>& known = waits[context.index];
  const auto* const function = reinterpret_cast<const void*>(kernel);
  if (known == 0) {
    cudaFuncAttributes attributes{};
    check(cudaFuncGetAttributes(&attributes, function), op);
    known = attributes.ptxVersion >= 90 ? 1 : -1;
  }
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = context.stream;
  config.attrs = &early;
  config.numAttrs = known > 0;
  void* at[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  const cudaError_t status = cudaLaunchKernelExC(&config, function, at);
  count_launch();
  if (status != cudaSuccess) [[unlikely]]
    check(status, op);
}

}  // namespace lmp::cuda
