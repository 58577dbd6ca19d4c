#pragma once

#include "cuda/runtime.hpp"
#include "ops/op_id.hpp"
#include "tensor/matmul.hpp"

/// Products of matrices on a GPU.
namespace lmp::cuda {

using tensor::Tensor;
using tensor::detail::MatmulArgs;

/// Whether products of Float32 may round their factors to TF32, of 10 bits; off at first.
void allow_tf32(bool allowed) noexcept;
/// Whether a product of one shape is always computed the same way, the library's first choice. Else
/// a shape that comes a third time has the library's suggestions timed, and the fastest kept.
void set_deterministic(bool on) noexcept;

/// The product by a kernel of our own: for types that cuBLASLt lacks, at no great speed.
void plain_matmul(const Context& context, const MatmulArgs& args);

/// Keeps the GPU busy for so long, that what is launched meanwhile runs without gaps.
void hold_stream(const Context& context, int microseconds);

/// x = activation(x + bias) in place over dense rows; bias may be undefined, and kCount is no
/// activation.
void bias_activation(const Tensor& x, const Tensor& bias, table::OpId activation);

}  // namespace lmp::cuda
