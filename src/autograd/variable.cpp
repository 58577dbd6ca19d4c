#include "lamppp/autograd/variable.hpp"

#include <ostream>

#include "autograd/engine.hpp"
#include "autograd/trace.hpp"
#include "lamppp/autograd/constructor.hpp"
#include "lamppp/autograd/grad.hpp"
#include "lamppp/autograd/ops.hpp"
#include "lamppp/tensor/random.hpp"
#include "tensor/access.hpp"
#include "tensor/backend.hpp"
#include "tensor/checks.hpp"

namespace lmp::autograd {

using tensor::detail::concat;

Variable::Variable(Tensor data, bool requires_grad) : data_(std::move(data)) {
  if (requires_grad) requires_grad_(true);
}

const Variable& Variable::requires_grad_(bool value) & {
  if (value == requires_grad()) return *this;
  if (!data_.defined()) tensor::detail::check_defined("requires_grad", data_);
  if (!value) {
    if (!is_leaf())
      throw AutogradError(concat("requires_grad_(false): this is the result of '",
                                 grad_fn()->name(),
                                 "'; detach() gives its value without a gradient"));
    node_ = detail::NodeHandle();
    return *this;
  }
  if (!is_floating(data_.type()))
    throw TypeError(
        concat("requires_grad: ", data_.type(), " has no gradient; use astype(Float32)"));
  node_ = NodeBuilder::make<LeafNode>(0, 0, data_).finish();
  return *this;
}

const Node* Variable::grad_fn() const noexcept {
  return node_ && !node_.get()->is_leaf() ? node_.get() : nullptr;
}

namespace {
void require_gradient(const char* what, const Variable& v) {
  if (!v.requires_grad())
    throw AutogradError(
        concat(what,
               ": this Variable requires no gradient; make it with Variable(tensor, true) or "
               "call requires_grad_() before it is used"));
}
}  // namespace

Tensor Variable::grad() const {
  require_gradient("grad", *this);
  Tensor g = node_.get()->kept_gradient();
  return g.defined() ? g : tensor::zeros(data_.shape(), data_.device(), data_.type());
}

bool Variable::has_grad() const { return node_ && node_.get()->kept_gradient().defined(); }

void Variable::zero_grad() const {
  if (node_) node_.get()->clear_gradient();
}

void Variable::incr_grad(const Tensor& gradient) const {
  require_gradient("incr_grad", *this);
  tensor::detail::check_defined("incr_grad", gradient);
  if (gradient.shape() != data_.shape())
    throw ShapeError(concat("incr_grad: a gradient of shape ", gradient.shape(),
                            " for a Variable of shape ", data_.shape()));
  node_.get()->add_gradient(gradient.to(data_.device()).astype(data_.type()));
}

namespace {
void check_seed(const char* op, const Tensor& seed, const Tensor& value) {
  if (!seed.defined()) tensor::detail::check_defined(op, seed);
  tensor::detail::check_same_device(op, seed, value);
  if (seed.shape() != value.shape())
    throw ShapeError(
        concat(op, ": a seed of shape ", seed.shape(), " for a result of shape ", value.shape()));
}
}  // namespace

namespace {
void refuse_inference(const char* what) {
  if (autograd_thread.inference)
    throw AutogradError(concat(what, ": not inside an InferenceModeGuard; end it first"));
}
}  // namespace

void Variable::backward(const BackwardOptions& options) const {
  if (value_level(data_) > 0 || (node_ && node_level(*node_.get()) > 0))
    throw AutogradError(
        "backward: inside jvp or vmap a gradient is a value of its own, and no leaf can hold it; "
        "use grad or value_and_grad");
  if (!requires_grad())
    throw AutogradError(
        "backward: nothing here requires a gradient; make a Variable with requires_grad = true, "
        "and compute outside NoGradGuard");
  refuse_inference("backward");
  Tensor seed;
  if (options.gradient) {
    check_seed("backward", *options.gradient, data_);
    seed = options.gradient->astype(data_.type());
  } else {
    if (data_.ndim() == 0)
      seed = tensor::detail::backend(data_.device()).one(data_.type(), data_.device());
    if (!seed.defined()) seed = tensor::ones(data_.shape(), data_.device(), data_.type());
  }
  Root<Tensor> root{node_.get(), std::move(seed)};
  run_pass<Tensor>({&root, 1}, nullptr, options.retain_graph);
}

const Variable& Variable::copy(const Tensor& other) const {
  data_.copy(other);
  return *this;
}

const Variable& Variable::fill(Number value) const {
  data_.fill(value);
  return *this;
}

namespace {
// True where an in-place operator writes into the value: nothing is recorded.
bool writes_in_place(const char* op, const Variable& x, const Variable* other) {
  const bool seen = autograd_thread.intercepted &&
                    (value_level(x.data()) > 0 || (other && value_level(other->data()) > 0));
  const bool other_requires = other && other->requires_grad();
  if (!autograd_thread.recording || (!x.requires_grad() && !other_requires)) return !seen;
  if (x.requires_grad() && x.is_leaf())
    throw AutogradError(
        concat(op,
               ": in place on a leaf that requires a gradient; wrap the update in NoGradGuard, or "
               "write through data()"));
  return false;
}
}  // namespace

#define LMP_IN_PLACE(symbol, function)                              \
  Variable& Variable::operator symbol(Located<Variable> other)& {   \
    if (writes_in_place(#symbol, *this, &other.value))              \
      data_ symbol other.value.data_;                               \
    else                                                            \
      *this = ops::function(*this, other.value, other.site);        \
    return *this;                                                   \
  }                                                                 \
  Variable& Variable::operator symbol(Located<Tensor> other)& {     \
    return *this symbol Located<Variable>(other.value, other.site); \
  }                                                                 \
  Variable& Variable::operator symbol(Located<Number> other)& {     \
    if (writes_in_place(#symbol, *this, nullptr))                   \
      data_ symbol other.value;                                     \
    else                                                            \
      *this = ops::function(*this, other.value, other.site);        \
    return *this;                                                   \
  }
LMP_IN_PLACE(+=, add)
LMP_IN_PLACE(-=, sub)
LMP_IN_PLACE(*=, mul)
LMP_IN_PLACE(/=, div)
#undef LMP_IN_PLACE

std::ostream& operator<<(std::ostream& out, const Variable& variable) {
  const Traced* what = traced(variable.data());
  if (!what) return out << variable.data();
  if (what->kind == Trace::Kind::Jvp || !what->mapped) return out << what->value;
  return out << "all lanes of vmap, along axis 0:\n" << what->value;
}

Variable zeros(const Shape& shape, Device device, DataType type, bool requires_grad) {
  return Variable(tensor::zeros(shape, device, type), requires_grad);
}
Variable ones(const Shape& shape, Device device, DataType type, bool requires_grad) {
  return Variable(tensor::ones(shape, device, type), requires_grad);
}
Variable full(const Shape& shape, Number value, Device device, DataType type, bool requires_grad) {
  return Variable(tensor::full(shape, value, device, type), requires_grad);
}
Variable rand(const Shape& shape, Device device, DataType type, bool requires_grad) {
  return Variable(tensor::rand(shape, device, type), requires_grad);
}
Variable randn(double mean, double deviation, const Shape& shape, Device device, DataType type,
               bool requires_grad) {
  return Variable(tensor::randn(mean, deviation, shape, device, type), requires_grad);
}

namespace {

template <class V>
std::vector<Variable> run_grad(const std::vector<Variable>& outputs,
                               const std::vector<Variable>& inputs, const GradOptions& options) {
  std::vector<Root<V>> roots;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const Variable& y = outputs[i];
    if (!y.requires_grad())
      throw AutogradError(concat("grad: output ", i, " requires no gradient",
                                 autograd_thread.trace
                                     ? ", or one with respect to what lies outside this jvp or "
                                       "vmap; value_and_grad makes inputs of its own"
                                     : ""));
    Variable seed = options.grad_outputs.empty() || !options.grad_outputs[i].defined()
                        ? Variable(tensor::ones(y.shape(), y.device(), y.type()))
                        : options.grad_outputs[i];
    check_seed("grad", seed.data(), y.data());
    seed = astype(seed, y.type());
    if constexpr (std::is_same_v<V, Variable>)
      roots.push_back({VariableAccess::node(y), std::move(seed)});
    else
      roots.push_back({VariableAccess::node(y), seed.data()});
  }
  std::vector<Capture<V>> captures;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad())
      throw AutogradError(concat(
          "grad: input ", i, " requires no gradient; make it a leaf with requires_grad = true"));
    captures.push_back({VariableAccess::node(inputs[i]), V()});
  }
  run_pass<V>(roots, &captures, options.retain_graph, options.create_graph);
  std::vector<Variable> out;
  for (std::size_t i = 0; i < captures.size(); ++i) {
    if (!captures[i].gradient.defined() && !options.allow_unused)
      throw AutogradError(concat("grad: no output depends on input ", i,
                                 "; give allow_unused = true to get an undefined Variable for it"));
    out.push_back(captures[i].gradient);
  }
  return out;
}

}  // namespace

std::vector<Variable> grad(const std::vector<Variable>& outputs,
                           const std::vector<Variable>& inputs, const GradOptions& options) {
  if (!options.grad_outputs.empty() && options.grad_outputs.size() != outputs.size())
    throw ValueError(concat("grad: ", options.grad_outputs.size(), " grad_outputs for ",
                            outputs.size(), " outputs"));
  refuse_inference("grad");
  // What belongs to a transform is computed by operations that the transform sees.
  bool plain = !options.create_graph;
  if (autograd_thread.trace) {
    for (const Variable& y : outputs)
      plain &= !y.requires_grad() || node_level(*VariableAccess::node(y)) == 0;
    for (const Variable& g : options.grad_outputs)
      plain &= value_level(g.data()) == 0 && !g.requires_grad();
  }
  if (plain) return run_grad<Tensor>(outputs, inputs, options);
  if (!options.create_graph) return run_grad<Variable>(outputs, inputs, options);
  const EnableGradGuard recording;
  return run_grad<Variable>(outputs, inputs, options);
}

}  // namespace lmp::autograd
