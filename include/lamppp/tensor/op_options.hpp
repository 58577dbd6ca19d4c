#pragma once

#include <cstdint>

namespace lmp::tensor {

/// What linear() ends with: the op of that name, or none.
enum class Activation { None, Relu, Gelu, GeluTanh, Silu, Sigmoid, Tanh };

/// What becomes of the losses of single examples.
enum class LossReduction {
  Mean,  ///< over the examples that count; NaN where none does
  Sum,   ///< one number
  None,  ///< they stay
};

/// Options of cross_entropy().
struct CrossEntropyOptions {
  LossReduction reduction = LossReduction::Mean;  ///< what becomes of the losses
  std::int64_t ignore_index = -100;               ///< examples of this label do not count
  /// Between 0 and 1: how much of the target is spread evenly over all classes.
  double label_smoothing = 0;
};

}  // namespace lmp::tensor
