#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "lamppp/tensor/memory.hpp"

/// GPU memory, kept for reuse.
namespace lmp::cuda {

struct Block;
struct Memory {
  void* data;
  Block* block;
};

/// `bytes` at a multiple of 512 for ops of the stream, or OutOfMemoryError.
Memory allocate_bytes(int index, cudaStream_t stream, std::size_t bytes);
/// Takes it back: reused by ops of its stream without waiting, as they run after those that used it
/// before.
void free_bytes(Block* block) noexcept;
/// Ops of another stream than the one it was allocated for read or write the memory: a free then
/// waits for what that stream has been given until then.
/// Throws DeviceLostError where the memory was lost by a reset.
void used_on(Block* block, cudaStream_t stream);

/// Whether ops of the stream were the first to use the memory.
bool made_on(const Block* block, cudaStream_t stream) noexcept;

/// What a stream has freed stays its own, for a graph that will use it again.
void keep_memory(int index, cudaStream_t stream, bool keep);

tensor::MemoryStats stats_of(int index);
/// Forgets all memory of a GPU that was reset.
void forget_memory(int index) noexcept;
/// Of all GPUs that have been used.
void release_cached() noexcept;
/// Bounds what a GPU holds, 0 lifts the bound.
void set_limit(int index, std::size_t bytes) noexcept;

}  // namespace lmp::cuda
