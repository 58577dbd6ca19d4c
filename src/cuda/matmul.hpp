#pragma once

#include "cuda/runtime.hpp"
#include "ops/op_id.hpp"
#include "tensor/matmul.hpp"

/// Products of matrices on a GPU.
namespace lmp::cuda {

using tensor::Tensor;
using tensor::detail::MatmulArgs;

/// Forgets the library's handle for a GPU that was reset.
void forget_library(int index) noexcept;

/// The product by a kernel of our own: for types that cuBLASLt lacks, at no great speed.
void plain_matmul(const Context& context, const MatmulArgs& args);

/// Keeps the GPU busy for so long, that what is launched meanwhile runs without gaps.
void hold_stream(const Context& context, int microseconds);

/// x = activation(x + bias) in place over dense rows; bias may be undefined, and kCount is no
/// activation.
void bias_activation(const Tensor& x, const Tensor& bias, table::OpId activation);

}  // namespace lmp::cuda
