#pragma once

#include "tensor/backend.hpp"

/// The entries of the GPUs' backend table; see tensor/backend.hpp.
namespace lmp::cuda {

using tensor::DataType;
using tensor::Tensor;

#include "tensor/backend_entries.inc"

}  // namespace lmp::cuda
