#include "lamppp/autograd/transforms.hpp"

#include <new>
#include <unordered_set>

#include "autograd/engine.hpp"
#include "autograd/intercept.hpp"
#include "lamppp/autograd/ops.hpp"
#include "ops/structured.hpp"
#include "tensor/checks.hpp"

namespace lmp::autograd::detail {

using tensor::detail::concat;

namespace {

Variable zeros_like(const Variable& v) {
  return Variable(tensor::zeros(v.shape(), v.device(), v.type()));
}

void require_floating(const char* name, const Variable& v, const char* what) {
  if (!v.defined()) tensor::detail::check_defined(name, v.data());
  if (!tensor::is_floating(v.type()))
    throw TypeError(concat(name, ": ", what, " is ", v.type(),
                           ", which has no derivative; use astype(Float32)"));
}

}  // namespace

// ---- Reverse mode ----

ReverseInputs::ReverseInputs(const char* name) : name_(name), recorded_(autograd_thread.recording) {
  if (is_inference_mode())
    throw AutogradError(concat(name, ": not inside an InferenceModeGuard; end it first"));
}

Variable ReverseInputs::make(const Variable& v) {
  require_floating(name_, v, "the argument");
  const Trace* trace = autograd_thread.trace;
  const Node* node = recorded_ ? VariableAccess::node(v) : nullptr;
  const bool here = node && node_level(*node) == (trace ? trace->level : 0);
  connected_ |= here;
  // No leaf, so that it can be rebound like any value (x += y) in the function.
  const Variable from = here ? v : Variable(node ? lift(*trace, v).data() : v.data(), true);
  inputs_.push_back(apply(table::View{"input", table::ViewSpec::all(v.shape())}, from));
  return inputs_.back();
}

bool ReverseInputs::leads_elsewhere(const Variable& value) const {
  if (connected_ || !recorded_) return connected_;
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> stack;
  const auto visit = [&](const Node* node) {
    if (node && seen.insert(node).second) stack.push_back(node);
  };
  for (const Variable& v : inputs_) seen.insert(VariableAccess::node(v));
  visit(VariableAccess::node(value));
  while (!stack.empty()) {
    const Node* node = stack.back();
    stack.pop_back();
    if (node->is_leaf()) return true;
    for (int i = 0; i < node->num_edges(); ++i) visit(node->edge(i).node);
  }
  return false;
}

Variable ReverseInputs::outer(const Variable& value) const {
  if (!recorded_) return unrecorded(value);
  return leads_elsewhere(value) ? value : Variable(value.data());
}

std::vector<Variable> ReverseInputs::gradients(const Variable& value) const {
  require_floating(name_, value, "the function's value");
  if (value.numel() != 1)
    throw ShapeError(concat(name_, ": the function returned shape ", value.shape(),
                            "; it has to be a single element (sum() it, or use vjp or jacobian)"));
  return run(value, Variable());
}

std::vector<Variable> ReverseInputs::pull(const Variable& value, const Variable& seed) const {
  require_floating(name_, value, "the function's value");
  if (!seed.defined()) tensor::detail::check_defined(name_, seed.data());
  if (seed.shape() != value.shape())
    throw ShapeError(concat(name_, ": a gradient of shape ", seed.shape(), " for a value of shape ",
                            value.shape(), "; they have to be the same"));
  return run(value, seed);
}

std::vector<Variable> ReverseInputs::run(const Variable& value, const Variable& seed) const {
  std::vector<Variable> out(inputs_.size());
  if (value.requires_grad() && seed.defined() && records(seed) && !leads_elsewhere(value)) {
    // The gradients are linear in the seed, and a derivative flows to it; the graph of the function
    // has no part in that.
    Root<Variable> root{VariableAccess::node(value), astype(seed, value.type())};
    std::vector<Capture<Variable>> captures;
    for (const Variable& v : inputs_) captures.push_back({VariableAccess::node(v), Variable()});
    run_pass<Variable>({&root, 1}, &captures, true);
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = captures[i].gradient;
  } else if (value.requires_grad()) {
    GradOptions options{.retain_graph = seed.defined(),
                        .create_graph = autograd_thread.recording && leads_elsewhere(value),
                        .allow_unused = true};
    if (seed.defined()) options.grad_outputs = {seed};
    out = grad({value}, inputs_, options);
  }
  for (std::size_t i = 0; i < out.size(); ++i)
    if (!out[i].defined()) out[i] = zeros_like(inputs_[i]);
  return out;
}

// ---- Forward mode ----

static_assert(sizeof(Trace) <= 48 && alignof(Trace) <= 8);

ForwardScope::ForwardScope(const char* name) : name_(name) {
  new (trace_) Trace(Trace::Kind::Jvp, 0);
}
ForwardScope::~ForwardScope() { std::launder(reinterpret_cast<Trace*>(trace_))->~Trace(); }

namespace {
const Trace& trace_in(const unsigned char* bytes) {
  return *std::launder(reinterpret_cast<const Trace*>(bytes));
}
}  // namespace

Variable ForwardScope::input(const Variable& v, const Variable& tangent) const {
  require_floating(name_, v, "the argument");
  if (!tangent.defined()) tensor::detail::check_defined(name_, tangent.data());
  if (tangent.shape() != v.shape())
    throw ShapeError(concat(name_, ": a tangent of shape ", tangent.shape(),
                            " for an argument of shape ", v.shape(), "; they have to be the same"));
  return make_dual(trace_in(trace_), v,
                   tangent.type() == v.type() ? tangent : astype(tangent, v.type()));
}

Variable ForwardScope::value(const Variable& result) const {
  const int level = trace_in(trace_).level;
  const Variable v = below_level(result, level);
  const Traced* dual = traced_at(v, level);
  return dual ? dual->value : v;
}

Variable ForwardScope::tangent(const Variable& result) const {
  if (!result.defined()) tensor::detail::check_defined(name_, result.data());
  const Traced* dual = traced_at(result, trace_in(trace_).level);
  return dual && dual->tangent.defined() ? dual->tangent : zeros_like(result);
}

void check_tangents(const char* name, std::size_t values, std::size_t tangents) {
  if (values != tangents)
    throw ValueError(concat(name, ": ", tangents, " tangents for ", values,
                            " Variables of the argument; give one for each, of its shape"));
}

// ---- vmap ----

LanesScope::LanesScope(std::int64_t lanes) {
  if (lanes < 0)
    throw ValueError(
        "vmap: no argument has an axis that runs over the lanes; give one to in_axes, and a "
        "Variable or Tensor among the arguments");
  new (trace_) Trace(Trace::Kind::Vmap, lanes);
}
LanesScope::~LanesScope() { std::launder(reinterpret_cast<Trace*>(trace_))->~Trace(); }

std::int64_t LanesScope::lanes_of(const Variable& v, int axis, std::int64_t so_far,
                                  std::size_t argument) {
  if (!v.defined()) tensor::detail::check_defined("vmap", v.data());
  if (v.ndim() == 0)
    throw IndexError(concat("vmap: argument ", argument,
                            " is 0-dimensional, so no axis of it runs over the lanes; give nullopt "
                            "for it to in_axes"));
  const std::int64_t n = v.shape().dim(tensor::detail::normalize_axis(
      concat("vmap: in_axes of argument ", argument).c_str(), axis, v.ndim()));
  if (so_far >= 0 && n != so_far)
    throw ShapeError(concat("vmap: axis ", axis, " of argument ", argument, ", of shape ",
                            v.shape(), ", has ", n, " lanes, and those before have ", so_far));
  return n;
}

Variable LanesScope::enter(const Variable& v, int axis) const {
  return make_mapped(trace_in(trace_), movedim(v, axis, 0));
}

Variable LanesScope::leave(const Variable& v, std::optional<int> axis, std::size_t result) const {
  const Trace& trace = trace_in(trace_);
  if (!v.defined())
    throw Error(concat("vmap: the function returned an undefined Variable as result ", result));
  const Variable inner = below_level(v, trace.level);
  const Traced* what = traced_at(inner, trace.level);
  const Mapped value{what ? what->value : inner, what && what->mapped};
  if (!axis && value.mapped)
    throw ValueError(concat("vmap: result ", result, ", of shape ", v.shape(),
                            " in each lane, differs from lane to lane; give out_axes an axis for "
                            "it in the place of nullopt"));
  if (!axis) return value.value;
  const Variable all = stacked(value, trace.lanes);
  const int to = tensor::detail::normalize_axis(concat("vmap: out_axes of result ", result).c_str(),
                                                *axis, all.ndim());
  return to == 0 ? all : movedim(all, 0, to);
}

void check_axes(const char* which, std::size_t axes, std::size_t values, const char* what) {
  if (axes != values)
    throw ValueError(concat("vmap: ", which, " lists ", axes, " for ", values, " ", what,
                            values == 1 ? "" : "s",
                            "; give one for each (nullopt for one without lanes), or one int for "
                            "all"));
}

// ---- Whole matrices of derivatives ----

namespace {

// Directions, one for each element of a value of this shape, along axis 0.
Variable basis(const Variable& like) {
  IntList shape{like.numel()};
  for (std::size_t n : like.shape()) shape.push_back(static_cast<std::int64_t>(n));
  const auto n = static_cast<std::int64_t>(like.numel());
  return Variable(tensor::eye(n, n, like.device(), like.type()).reshape(shape));
}

Shape joined(const Shape& a, const Shape& b) {
  IntList sizes(a);
  for (std::size_t n : b) sizes.push_back(static_cast<std::int64_t>(n));
  return Shape(sizes);
}

Variable by_columns(FunctionRef f, const Variable& x) {
  const Variable columns =
      vmap([&](const Variable& v) { return autograd::jvp(f, x, v).tangent; })(basis(x));
  IntList value_shape;
  for (int d = 1; d < columns.ndim(); ++d) value_shape.push_back(columns.shape().dim(d));
  return reshape(movedim(columns, 0, -1), joined(Shape(value_shape), x.shape()));
}

}  // namespace

Variable jacobian(FunctionRef f, const Variable& x) {
  ReverseInputs inputs("jacobian");
  const Variable value = [&] {
    const EnableGradGuard recording;
    return f(inputs.make(x));
  }();
  require_floating("jacobian", value, "the function's value");
  if (value.numel() > x.numel()) return by_columns(f, x);
  const Variable rows =
      vmap([&](const Variable& seed) { return inputs.pull(value, seed).front(); })(basis(value));
  return reshape(rows, joined(value.shape(), x.shape()));
}

Variable hessian(FunctionRef f, const Variable& x) {
  require_floating("hessian", x, "the argument");
  const ValueAndGradOf<FunctionRef, 0> both(f, "hessian");
  auto gradient = [&](const Variable& at) { return both(at).gradient; };
  return by_columns(gradient, x);
}

}  // namespace lmp::autograd::detail
