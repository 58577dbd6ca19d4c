#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "lamppp/autograd/variable.hpp"

namespace lmp::autograd {

/// Options of gradcheck.
struct GradcheckOptions {
  /// Step of the central difference.
  double step = 1e-6;
  /// |analytic - numeric| <= absolute + relative * |numeric| has to hold for every element.
  double absolute = 1e-5;
  /// See `absolute`.
  double relative = 1e-3;
};

/// What gradcheck found.
struct GradcheckResult {
  /// Whether all gradients agree.
  bool ok = true;
  /// Where not: how many entries of which Jacobians are off, and the worst of all with its place,
  /// both values, their difference and what was allowed. Empty where ok.
  std::string report;
  /// The same as `ok`.
  explicit operator bool() const noexcept { return ok; }
};

namespace detail {
using CheckedFunction = Variable (*)(void* context, const std::vector<Variable>& inputs);
LMP_API GradcheckResult gradcheck(CheckedFunction function, void* context,
                                  const std::vector<Variable>& inputs,
                                  const GradcheckOptions& options);
LMP_API GradcheckResult gradgradcheck(CheckedFunction function, void* context,
                                      const std::vector<Variable>& inputs,
                                      const GradcheckOptions& options);
template <class F>
Variable call_checked(void* context, const std::vector<Variable>& values) {
  return Variable((*static_cast<F*>(context))(values));
}
}  // namespace detail

/// Compares the gradients of `function(inputs)`, a callable of `const std::vector<Variable>&` that
/// returns one Variable, with central differences, output by output, for every input that requires
/// a gradient. The inputs have to be Float64 leaves (TypeError otherwise); the function has to be
/// deterministic.
template <class F>
GradcheckResult gradcheck(F&& function, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options = {}) {
  return detail::gradcheck(&detail::call_checked<std::remove_reference_t<F>>,
                           const_cast<void*>(static_cast<const void*>(&function)), inputs, options);
}

/// The same one order up: compares the derivatives of the gradients of `function(inputs)`, weighted
/// by a seed that is differentiated too, with central differences of those gradients. An operation
/// without a second derivative throws, naming itself.
template <class F>
GradcheckResult gradgradcheck(F&& function, const std::vector<Variable>& inputs,
                              const GradcheckOptions& options = {}) {
  return detail::gradgradcheck(&detail::call_checked<std::remove_reference_t<F>>,
                               const_cast<void*>(static_cast<const void*>(&function)), inputs,
                               options);
}

}  // namespace lmp::autograd
