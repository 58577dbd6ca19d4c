#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "lamppp/tensor/memory.hpp"

/// GPU memory, kept for reuse.
namespace lmp::cuda {

/// `bytes` at a multiple of 512 for ops of the stream, or OutOfMemoryError.
void* allocate_bytes(int index, cudaStream_t stream, std::size_t bytes);
/// Takes back what allocate_bytes gave: reused by ops of its stream without waiting, as they run
/// after those that used it before.
void free_bytes(int index, void* data) noexcept;
/// Ops of another stream than the one it was allocated for read or write the memory: a free then
/// waits for what that stream has been given so far.
void used_on(int index, void* data, cudaStream_t stream);

tensor::MemoryStats stats_of(int index);
void release_cached() noexcept;
/// Bounds what each GPU holds, 0 lifts the bound.
void set_limit(std::size_t bytes) noexcept;

}  // namespace lmp::cuda
