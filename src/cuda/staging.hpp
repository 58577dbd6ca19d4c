#pragma once

#include <cstddef>

#include "cuda/runtime.hpp"
#include "lamppp/tensor/tensor.hpp"

namespace lmp::cuda {

/// Copies to the GPU as an op of the context's stream; `from` may go when it returns.
void copy_from_host(const Context& context, void* to, const void* from, std::size_t bytes);

/// Starts to copy to a new tensor of the CPU, whose data() waits for it and throws what kernels
/// have reported; false where there is no pinned memory for it.
bool start_arrival(const Context& context, const tensor::Tensor& to, const void* from,
                   std::size_t bytes);

/// Before a GPU is reset: finishes what arrives from it, or notes that it is lost, and gives back
/// what was pinned for it.
void forget_staging(int index) noexcept;

}  // namespace lmp::cuda
