#pragma once

#include "tensor/backend.hpp"

/// The entries of the GPUs' backend table; see tensor/backend.hpp.
namespace lmp::cuda {

using tensor::DataType;
using tensor::Tensor;

#include "tensor/backend_entries.inc"

/// Whether x is the 1 that the backend holds ready; does not look into memory.
bool is_one(const Tensor& x);

}  // namespace lmp::cuda
