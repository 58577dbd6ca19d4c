#pragma once

#include <cstddef>

#include "cuda/runtime.hpp"

namespace lmp::cuda {

/// Copies to the GPU as an op of the context's stream; `from` may go when it returns.
void copy_from_host(const Context& context, void* to, const void* from, std::size_t bytes);

/// Forgets the buffers of a GPU that was reset.
void forget_staging(int index) noexcept;

}  // namespace lmp::cuda
