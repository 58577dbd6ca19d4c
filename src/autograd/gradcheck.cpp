#include "lamppp/autograd/gradcheck.hpp"

#include <cmath>

#include "lamppp/autograd/grad.hpp"
#include "lamppp/autograd/ops.hpp"
#include "tensor/format.hpp"

namespace lmp::autograd::detail {

using tensor::detail::concat;

namespace {
// Writes an input back, whatever the function threw.
struct Restore {
  const Tensor& x;
  Tensor before = x.clone();
  ~Restore() { x.copy(before); }
};
}  // namespace

GradcheckResult gradcheck(CheckedFunction function, void* context,
                          const std::vector<Variable>& inputs, const GradcheckOptions& options) {
  bool any = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    any = true;
    if (inputs[i].type() != DataType::Float64 || !inputs[i].is_leaf())
      throw TypeError(concat("gradcheck: input ", i, " is ", inputs[i].type(),
                             inputs[i].is_leaf() ? "" : " and the result of an op",
                             "; differences need Float64 leaves"));
  }
  if (!any) return {false, "no input requires a gradient"};

  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Variable& x = inputs[i];
    if (!x.requires_grad()) continue;
    // A graph of its own for each input: the differences for the one before wrote into what others
    // saved.
    const Variable y = function(context, inputs);
    if (!y.requires_grad()) return {false, "the result does not require a gradient"};
    const auto outputs = static_cast<std::int64_t>(y.numel());
    const auto count = static_cast<std::int64_t>(x.numel());
    // Row by row of the Jacobian from the graph, column by column from differences.
    std::vector<std::vector<double>> analytic;
    for (std::int64_t row = 0; row < outputs; ++row) {
      Tensor seed = tensor::zeros({outputs}, DeviceType::CPU, y.type());
      seed.select(0, row).fill(1);
      const Variable g = autograd::grad({y}, {x},
                                        {.grad_outputs = {seed.reshape(y.shape())},
                                         .retain_graph = true,
                                         .allow_unused = true})
                             .front();
      analytic.push_back(g.defined() ? g.to_vector<double>() : std::vector<double>(x.numel()));
    }
    const Restore restore{x.data()};
    const Tensor moved = restore.before.clone().reshape({-1});
    for (std::int64_t column = 0; column < count; ++column) {
      const Tensor element = moved.select(0, column);
      const double centre = element.item();
      const auto at = [&](double value) {
        element.fill(value);
        x.data().copy(moved.reshape(x.shape()));
        return function(context, inputs).to_vector<double>();
      };
      const std::vector<double> above = at(centre + options.step),
                                below = at(centre - options.step);
      element.fill(centre);
      if (above.size() != y.numel() || below.size() != y.numel())
        return {false, "the result changes its size from call to call"};
      for (std::int64_t row = 0; row < outputs; ++row) {
        const auto r = static_cast<std::size_t>(row);
        const double numeric = (above[r] - below[r]) / (2 * options.step);
        const double found = analytic[r][static_cast<std::size_t>(column)];
        if (std::abs(found - numeric) <= options.absolute + options.relative * std::abs(numeric))
          continue;
        return {false, concat("input ", i, " of shape ", x.shape(), ", element ", column,
                              ", output element ", row, ": gradient ", found,
                              ", central difference ", numeric)};
      }
    }
  }
  return {};
}

}  // namespace lmp::autograd::detail
