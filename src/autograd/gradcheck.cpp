#include "lamppp/autograd/gradcheck.hpp"

#include <cmath>

#include "lamppp/autograd/grad.hpp"
#include "lamppp/autograd/ops.hpp"
#include "tensor/format.hpp"

namespace lmp::autograd::detail {

using tensor::detail::concat;

GradcheckResult gradcheck(CheckedFunction function, void* context, const std::vector<Variable>& inputs,
                          const GradcheckOptions& options) {
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (inputs[i].requires_grad() && (inputs[i].type() != DataType::Float64 || !inputs[i].is_leaf()))
      throw TypeError(concat("gradcheck: input ", i, " is ", inputs[i].type(),
                             inputs[i].is_leaf() ? "" : " and the result of an op",
                             "; differences need Float64 leaves"));
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Variable& x = inputs[i];
    if (!x.requires_grad()) continue;
    // A graph of its own for each input: the differences for the one before wrote into what others saved.
    const Variable y = function(context, inputs);
    if (!y.requires_grad()) return {false, "the result does not require a gradient"};
    const auto outputs = static_cast<std::int64_t>(y.numel());
    const auto count = static_cast<std::int64_t>(x.numel());
    // Row by row of the Jacobian from the graph, column by column from differences.
    std::vector<std::vector<double>> analytic;
    for (std::int64_t row = 0; row < outputs; ++row) {
      Tensor seed = tensor::zeros({outputs}, DeviceType::CPU, y.type());
      seed.select(0, row).fill(1);
      const Variable g =
          autograd::grad({y}, {x}, {.grad_outputs = {seed.reshape(y.shape())}, .retain_graph = true, .allow_unused = true})
              .front();
      analytic.push_back(g.defined() ? g.to_vector<double>() : std::vector<double>(x.numel()));
    }
    const Tensor flat = x.data().contiguous().reshape({-1});
    const bool direct = flat.shares_storage(x.data());
    for (std::int64_t column = 0; column < count; ++column) {
      const double centre = flat.index({column});
      const auto at = [&](double value) {
        flat.select(0, column).fill(value);
        if (!direct) x.data().copy(flat.reshape(x.shape()));
        return Variable(function(context, inputs)).to_vector<double>();
      };
      const std::vector<double> above = at(centre + options.step), below = at(centre - options.step);
      at(centre);
      for (std::int64_t row = 0; row < outputs; ++row) {
        const auto r = static_cast<std::size_t>(row);
        const double numeric = (above[r] - below[r]) / (2 * options.step);
        const double found = analytic[r][static_cast<std::size_t>(column)];
        if (std::abs(found - numeric) <= options.absolute + options.relative * std::abs(numeric)) continue;
        return {false, concat("input ", i, " of shape ", x.shape(), ", element ", column, ", output element ", row,
                              ": gradient ", found, ", central difference ", numeric)};
      }
    }
  }
  return {};
}

}  // namespace lmp::autograd::detail
