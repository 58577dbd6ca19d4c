#pragma once

#include "tensor/backend.hpp"

/// The entries of the CPU's backend table; see tensor/backend.hpp.
namespace lmp::cpu {

using tensor::DataType;
using tensor::Tensor;

#include "tensor/backend_entries.inc"

}  // namespace lmp::cpu
