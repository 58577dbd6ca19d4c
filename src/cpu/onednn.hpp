#pragma once

#include "cpu/matmul.hpp"

namespace lmp::cpu::onednn {

/// Computes the product with oneDNN and returns true, or returns false and leaves c alone where
/// oneDNN has no fast way for these types, strides or this processor.
bool matmul(const MatmulArgs& args);

}  // namespace lmp::cpu::onednn
