#pragma once

#include <optional>
#include <vector>

#include "lamppp/autograd/variable.hpp"

namespace lmp::autograd {

/// Options of grad.
struct GradOptions {
  /// One seed for each output; ones where left out.
  std::vector<Variable> grad_outputs = {};
  /// Keeps what the graph saved; create_graph implies it.
  bool retain_graph = false;
  /// Records the computation of the gradients, so that they can be differentiated again.
  bool create_graph = false;
  /// An input that no output depends on gives an undefined Variable instead of an error.
  bool allow_unused = false;
};

/// The gradients of the sum of `outputs` (each weighted by its seed) with respect to `inputs`, one
/// for each input. Leaves the gradients of leaves alone. Throws AutogradError where an input
/// requires no gradient or is not used (unless allow_unused), and as Variable::backward does.
LMP_API std::vector<Variable> grad(const std::vector<Variable>& outputs,
                                   const std::vector<Variable>& inputs,
                                   const GradOptions& options = {});

}  // namespace lmp::autograd
