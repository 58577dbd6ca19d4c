#include "autograd/intercept.hpp"

#include <algorithm>

#include "lamppp/autograd/ops.hpp"
#include "tensor/checks.hpp"

namespace lmp::autograd {

using tensor::is_floating;
using tensor::detail::concat;

std::vector<const Variable*> pointers(const std::vector<Variable>& values) {
  std::vector<const Variable*> out(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) out[i] = &values[i];
  return out;
}

namespace {

// The graph of `level` records, and what it records is computed one step down.
Variable record_at(int level, const AnyOp& op, AnyOp::Inputs in) {
  const Trace& trace = trace_at(level);
  std::vector<Variable> below, recorded;
  for (const Variable* v : in) {
    const Node* node = VariableAccess::node(*v);
    const bool here = node && node_level(*node) == level;
    below.push_back(here ? Variable(v->data()) : node ? lift(trace, *v) : *v);
    recorded.push_back(here ? VariableAccess::make(below.back().data(), VariableAccess::handle(*v))
                            : Variable(below.back().data()));
  }
  const Variable out = intercept(op, pointers(below));
  const Tensor value = out.requires_grad() ? lift(trace, out).data() : out.data();
  return op.record(value, pointers(recorded));
}

Variable with_tangent(const Trace& trace, const AnyOp& op, AnyOp::Inputs in) {
  std::vector<Variable> x, t;
  bool any = false;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const Traced* dual = traced_at(*in[i], trace.level);
    x.push_back(dual ? dual->value : *in[i]);
    t.push_back(dual && op.differentiable(i) ? dual->tangent : Variable());
    any |= t.back().defined();
  }
  const Replaced<Trace*> down(&AutogradThread::trace, trace.outer);
  Variable y = intercept(op, pointers(x));
  if (!any || !is_floating(y.type())) return y;
  Variable tangent = op.tangent(x, y, t);
  if (!tangent.defined()) return y;
  if (tangent.type() != y.type()) tangent = astype(tangent, y.type());
  if (tangent.shape() != y.shape()) tangent = broadcast_to(tangent, y.shape());
  return make_dual(trace, std::move(y), std::move(tangent));
}

Variable for_all_lanes(const Trace& trace, const AnyOp& op, AnyOp::Inputs in) {
  std::vector<Mapped> operands;
  std::vector<const Variable*> same;
  bool any = false;
  for (const Variable* v : in) {
    const Traced* lanes = traced_at(*v, trace.level);
    operands.push_back({lanes ? lanes->value : *v, lanes && lanes->mapped});
    any |= operands.back().mapped;
  }
  const Replaced<Trace*> down(&AutogradThread::trace, trace.outer);
  if (!any) {
    for (const Mapped& m : operands) same.push_back(&m.value);
    return intercept(op, same);
  }
  return make_mapped(trace, op.batch(operands, trace.lanes));
}

}  // namespace

Variable intercept(const AnyOp& op, AnyOp::Inputs in) {
  int graph = -1, transform = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const Variable& v = *in[i];
    transform = std::max(transform, value_level(v.data()));
    if (autograd_thread.recording && v.requires_grad() && op.differentiable(i))
      graph = std::max(graph, node_level(*VariableAccess::node(v)));
  }
  if (graph >= 1 && graph >= transform) return record_at(graph, op, in);
  if (transform >= 1) {
    std::vector<Variable> values;
    values.reserve(in.size());
    for (const Variable* v : in) values.push_back(below_level(*v, transform));
    const Trace& trace = trace_at(transform);
    const auto below = pointers(values);
    return trace.kind == Trace::Kind::Jvp ? with_tangent(trace, op, below)
                                          : for_all_lanes(trace, op, below);
  }
  for (const Variable* v : in) tensor::detail::check_defined(op.name(), v->data());  // stale ones
  return op.record(op.forward(in), in);
}

namespace {
void check_room(int ndim) {
  if (ndim < tensor::kMaxDims) return;
  throw ShapeError(concat(
      "vmap: a value of ", ndim, " dimensions leaves none for the lanes; it may have ",
      tensor::kMaxDims - 1, ", and one less for each vmap outside; merge some with reshape"));
}
}  // namespace

Shape in_lanes(const Shape& shape, std::int64_t lanes) {
  check_room(shape.ndim());
  IntList sizes{lanes};
  for (std::size_t n : shape) sizes.push_back(static_cast<std::int64_t>(n));
  return Shape(sizes);
}

Variable stacked(const Mapped& in, std::int64_t lanes) {
  if (in.mapped) return in.value;
  return broadcast_to(in.value, in_lanes(in.value.shape(), lanes));
}

Variable with_rank(const Mapped& in, int ndim) {
  if (!in.mapped) return in.value;
  Variable v = in.value;
  check_room(ndim);
  while (v.ndim() - 1 < ndim) v = expand_dims(v, 1);
  return v;
}

Variable batch_aligned(const AnyOp& op, std::span<const Mapped> in) {
  int rank = 0;
  for (const Mapped& m : in) rank = std::max(rank, m.value.ndim() - (m.mapped ? 1 : 0));
  std::vector<Variable> aligned;
  for (const Mapped& m : in) aligned.push_back(with_rank(m, rank));
  return intercept(op, pointers(aligned));
}

}  // namespace lmp::autograd
