#include "lamppp/autograd/gradcheck.hpp"

#include <cmath>
#include <exception>
#include <limits>
#include <string>

#include "lamppp/autograd/grad.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/tensor/random.hpp"
#include "tensor/checks.hpp"
#include "tensor/format.hpp"

namespace lmp::autograd::detail {

using tensor::detail::concat;

namespace {

// Writes an input back, whatever the function threw. Where that fails too, as on a lost device,
// what the function threw says more.
struct Restore {
  const Tensor& x;
  Tensor before = x.clone();
  ~Restore() {
    try {
      x.copy(before);
    } catch (const std::exception&) {
    }
  }
};

IntList index_of(std::int64_t element, const Shape& shape) {
  IntList index(shape);
  for (int d = shape.ndim() - 1; d >= 0; element /= shape.dim(d--))
    index[static_cast<std::size_t>(d)] = element % shape.dim(d);
  return index;
}

// The entries of all Jacobians that are off.
class Findings {
 public:
  Findings(const char* name, const GradcheckOptions& options) : name_(name), options_(options) {}

  void start(std::size_t input, const Shape& in, const Shape& out) {
    input_ = input;
    in_ = in;
    out_ = out;
    off_ = 0;
  }
  void add(std::int64_t row, std::int64_t column, double found, double numeric) {
    const double allowed = options_.absolute + options_.relative * std::abs(numeric);
    const double excess = std::abs(found - numeric) / allowed;
    if (excess <= 1) return;
    ++off_;
    // NaN is worst.
    const double weight = std::isnan(excess) ? std::numeric_limits<double>::infinity() : excess;
    if (weight <= worst_) return;
    worst_ = weight;
    const double difference = std::abs(found - numeric);
    place_ = concat("  worst at output ", index_of(row, out_), " of shape ", out_, ", input ",
                    input_, " element ", index_of(column, in_), " of shape ", in_,
                    ":\n    gradient            ", found, "\n    central difference  ", numeric,
                    "\n    they differ by      ", difference,
                    numeric == 0 ? "" : concat(" (", 100 * difference / std::abs(numeric), " %)"),
                    "; allowed is ", allowed);
  }
  void finish() {
    if (off_ == 0) return;
    counts_ += concat("  input ", input_, ": ", off_, " of ", in_.numel() * out_.numel(),
                      " entries of the Jacobian are off\n");
  }
  GradcheckResult result() const {
    if (counts_.empty()) return {};
    return {false, concat(name_, ":\n", counts_, place_)};
  }

 private:
  const char* name_;
  const GradcheckOptions& options_;
  std::size_t input_ = 0;
  Shape in_, out_;
  std::int64_t off_ = 0;
  double worst_ = 0;
  std::string counts_, place_;
};

GradcheckResult check(const char* name, CheckedFunction function, void* context,
                      const std::vector<Variable>& inputs, const GradcheckOptions& options) {
  bool any = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    any = true;
    if (inputs[i].type() != DataType::Float64 || !inputs[i].is_leaf())
      throw TypeError(concat(name, ": input ", i, " is ", inputs[i].type(),
                             inputs[i].is_leaf() ? "" : " and the result of an op",
                             "; differences need Float64 leaves"));
    if (tensor::detail::has_internal_overlap(inputs[i].data()))
      throw ShapeError(concat(name, ": elements of input ", i, " of shape ", inputs[i].shape(),
                              " share memory, so that none can be moved alone; give a clone()"));
  }
  if (!any) return {false, concat(name, ": no input requires a gradient")};

  Findings findings(name, options);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const Variable& x = inputs[i];
    if (!x.requires_grad()) continue;
    // A graph of its own for each input: the differences for the one before wrote into what others
    // saved.
    const Variable y = function(context, inputs);
    if (!y.requires_grad())
      return {false, concat(name, ": the result does not require a gradient")};
    findings.start(i, x.shape(), y.shape());
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
        return {false, concat(name, ": the result changes its size from call to call")};
      for (std::int64_t row = 0; row < outputs; ++row) {
        const auto r = static_cast<std::size_t>(row);
        findings.add(row, column, analytic[r][static_cast<std::size_t>(column)],
                     (above[r] - below[r]) / (2 * options.step));
      }
    }
    findings.finish();
  }
  return findings.result();
}

// The gradients of a function, weighted by its last input, as one vector.
struct Gradients {
  CheckedFunction function;
  void* context;

  static Variable call(void* self, const std::vector<Variable>& inputs) {
    const auto& f = *static_cast<const Gradients*>(self);
    const std::vector<Variable> x(inputs.begin(), inputs.end() - 1);
    const Variable y = f.function(f.context, x);
    std::vector<Variable> wanted, parts;
    for (const Variable& v : x)
      if (v.requires_grad()) wanted.push_back(v);
    const std::vector<Variable> found = autograd::grad(
        {y}, wanted, {.grad_outputs = {inputs.back()}, .create_graph = true, .allow_unused = true});
    for (std::size_t i = 0; i < found.size(); ++i) {
      // A gradient that is constant leads nowhere by itself.
      const Variable zero = wanted[i] * 0;
      parts.push_back(reshape(found[i].defined() ? found[i] + zero : zero, {-1}));
    }
    return cat(parts);
  }
};

}  // namespace

GradcheckResult gradcheck(CheckedFunction function, void* context,
                          const std::vector<Variable>& inputs, const GradcheckOptions& options) {
  return check("gradcheck", function, context, inputs, options);
}

GradcheckResult gradgradcheck(CheckedFunction function, void* context,
                              const std::vector<Variable>& inputs,
                              const GradcheckOptions& options) {
  std::vector<Variable> with_seed = inputs;
  bool any = false;
  for (const Variable& v : inputs) any |= v.requires_grad();
  if (any) {
    const Variable y = function(context, inputs);
    if (!y.requires_grad()) return {false, "gradgradcheck: the result does not require a gradient"};
    tensor::Generator generator(1);
    with_seed.emplace_back(tensor::rand(generator, y.shape(), y.device(), DataType::Float64) + 0.5,
                           true);
  }
  Gradients gradients{function, context};
  return check("gradgradcheck", &Gradients::call, &gradients, with_seed, options);
}

}  // namespace lmp::autograd::detail
