#pragma once

#include <cstdint>
#include <vector>

#include "lamppp/tensor/tensor.hpp"

namespace lmp::tensor {

/// One parameter in a step of an optimiser, where it is listed once. All tensors have its shape,
/// and none of those that are written shares elements with another.
struct ParameterUpdate {
  /// Float32, Float64 or a half; written in place.
  Tensor parameter;
  /// In the parameter's type. A parameter whose gradient is undefined is left as it is.
  Tensor gradient;
  /// What is kept between steps, written in place: the momentum of SGD, or the two moments of Adam.
  /// Dense, zeros before the first step, in Float64 for a Float64 parameter and else in Float32, so
  /// that halves do not lose what is small.
  Tensor first, second = {};
  /// Of a half parameter its value in Float32, dense, or undefined. Where it is there, it is what
  /// the step moves, and the parameter becomes what it rounds to: steps that are too small for a
  /// half add up.
  Tensor master = {};
  /// Which step this is for what is kept, from 1 on.
  std::int64_t step = 1;
};

/// What sgd_step does with g the gradient, p the parameter, m the momentum.
struct SgdRule {
  double lr = 0.001;        ///< learning rate
  double momentum = 0;      ///< with 0 no momentum is kept, and `first` may be undefined
  double dampening = 0;     ///< taken off what a gradient adds to the momentum, after the first
  double weight_decay = 0;  ///< times p, added to g
  bool nesterov = false;    ///< steps by g + momentum * m in the place of m
  bool maximize = false;    ///< goes uphill
  /// An optimiser keeps masters of half parameters; see ParameterUpdate.
  bool masters = false;
};

/// What adam_step does.
struct AdamRule {
  double lr = 0.001;           ///< learning rate
  double beta1 = 0.9;          ///< of the first moment
  double beta2 = 0.999;        ///< of the second moment
  double eps = 1e-8;           ///< added to the root of the second moment
  double weight_decay = 0;     ///< times p, added to g
  double decoupled_decay = 0;  ///< p shrinks by lr times this in front of the step
  bool maximize = false;       ///< goes uphill
  /// An optimiser keeps masters of half parameters; see ParameterUpdate.
  bool masters = false;
};

inline namespace ops {

/// The type that the state of a parameter of this type is kept in: Float64 or Float32.
LMP_API DataType update_state_type(DataType parameter);

/// One step of stochastic gradient descent for all parameters, in place, in one pass over each:
///   g += weight_decay * p;  m = momentum * m + (1 - dampening) * g, at step 1 m = g;  p -= lr * m
/// (I. Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
/// 2013, for momentum and its Nesterov form, written as PyTorch does). Halves are computed in float
/// and rounded once. Nothing is recorded. Throws ShapeError, TypeError and DeviceError for tensors
/// that do not go together, Error where a state that is needed is undefined, ValueError where two
/// tensors that are written share elements; of a tensor with gaps only the first element is looked
/// at, and only where the memory of two is one allocation or foreign.
LMP_API void sgd_step(const std::vector<ParameterUpdate>& updates, const SgdRule& rule);

/// One step of Adam for all parameters, in place, in one pass over each:
///   g += weight_decay * p;  m += (1 - beta1) * (g - m);  v = beta2 * v + (1 - beta2) * g^2
///   p -= lr * m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
/// (D. Kingma and J. Ba, "Adam: a method for stochastic optimization", ICLR 2015), where with a
/// decoupled decay p is multiplied by 1 - lr * decoupled_decay before it (I. Loshchilov and F.
/// Hutter, "Decoupled weight decay regularization", ICLR 2019). Types and errors as for sgd_step.
LMP_API void adam_step(const std::vector<ParameterUpdate>& updates, const AdamRule& rule);

}  // namespace ops
}  // namespace lmp::tensor
